// hash_lookup, its position gradient, and the sparse Adam step of the tables.
// Compiled per (GRID_SCALES, NUM_FEATURES).
#include <algorithm>
#include <vector>

#include "adam.h"
#include "lookup.h"
#include "pages.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace infnerf {
namespace {

constexpr int CHUNK = 2048;
using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Layout = ffi::Span<const int64_t>;

// table [N, rows, F], position [S, 3], slot [S] -> features [L, S, F].
ffi::Error HashLookup(F32 table, F32 position, S32 slot, ffi::Result<F32> out,
                      Layout layout) {
  const int64_t samples = slot.element_count();
  const auto dims = table.dimensions();
  const Sorted sorted = sort_by_slot(slot.typed_data(), samples, dims[0]);
  use_large_pages(table.typed_data(), table.size_bytes());
  float* features = out->typed_data();
  if (sorted.num_valid() < samples) {
    std::fill(features, features + L * samples * F, 0.0f);
  }
  const Positions positions = sort_positions(position.typed_data(), sorted);
  std::unique_ptr<float[]> local(new float[L * sorted.num_valid() * F]);
  lookup_sorted(table.typed_data(), dims[1], layout.begin(), sorted, positions,
                sorted.num_valid(), local.get());
  parallel(L, [&](int64_t l, int) {
    const float* from = &local[l * sorted.num_valid() * F];
    float* to = features + l * samples * F;
    for (int64_t i = 0; i < sorted.num_valid(); ++i) {
      std::memcpy(to + int64_t(sorted.order[i]) * F, from + i * F, F * 4);
    }
  });
  return ffi::Error::Success();
}

void position_gradient_block(const float* table, const Scale& s,
                             const GridBlock& b, int count,
                             const float* grad, const int32_t* order,
                             float* out) {
  for (int i = 0; i < count; ++i) {
    const float* g = grad + int64_t(order[i]) * F;
    float dot[8];
    for (int c = 0; c < 8; ++c) {
      const float* row = table + size_t(b.row[c][i]) * F;
      dot[c] = 0.0f;
      for (int f = 0; f < F; ++f) dot[c] += g[f] * row[f];
    }
    const float w[3] = {b.fraction[0][i], b.fraction[1][i], b.fraction[2][i]};
    for (int a = 0; a < 3; ++a) {
      const int u = (a + 1) % 3, v = (a + 2) % 3;
      float sum = 0.0f;
      for (int k = 0; k < 4; ++k) {
        const int base = (k & 1) << u | (k >> 1) << v;
        const float weight = (k & 1 ? w[u] : 1 - w[u]) *
                             (k & 2 ? w[v] : 1 - w[v]);
        sum += weight * (dot[base | 1 << a] - dot[base]);
      }
      out[3 * int64_t(order[i]) + a] += sum * s.resolution;
    }
  }
}

// ..., feature_grad [L, S, F] -> gradient of position [S, 3].
ffi::Error PositionGradient(F32 table, F32 position, S32 slot, F32 grad,
                            ffi::Result<F32> out, Layout layout) {
  const int64_t samples = slot.element_count();
  const auto dims = table.dimensions();
  const Sorted sorted = sort_by_slot(slot.typed_data(), samples, dims[0]);
  const auto chunks = make_chunks(sorted, CHUNK);
  const Positions positions = sort_positions(position.typed_data(), sorted);
  std::fill(out->typed_data(), out->typed_data() + 3 * samples, 0.0f);
  parallel(chunks.size(), [&](int64_t item, int) {
    const Chunk& c = chunks[item];
    const int32_t* order = sorted.order.data() + c.begin;
    GridBlock b;
    for (int l = 0; l < L; ++l) {
      const Scale s = make_scale(layout.begin(), c.slot, l);
      const float* rows =
          table.typed_data() + (c.slot * dims[1] + s.offset) * F;
      for (int i = 0; i < c.count; i += GRID_BLOCK) {
        const int n = std::min<int>(GRID_BLOCK, c.count - i);
        grid_rows(s, positions.from(c.begin + i).at, n, &b);
        position_gradient_block(rows, s, b, n,
                                grad.typed_data() + l * samples * F, order + i,
                                out->typed_data());
      }
    }
  });
  return ffi::Error::Success();
}

// table, moments [N, rows, 2F], steps [N, rows], learning_rate [], apply [],
// then (position, slot, feature_grad) of each call; the first three in place.
ffi::Error SparseAdam(F32 table, F32 moments, S32 steps, F32 rate,
                      ffi::Buffer<ffi::PRED> apply, ffi::RemainingArgs rest,
                      ffi::Result<F32> table_out, ffi::Result<F32> moments_out,
                      ffi::Result<S32> steps_out, Layout layout, double b1,
                      double b2, double eps) {
  auto keep = [](void* to, const void* from, size_t bytes) {
    if (to != from) std::memcpy(to, from, bytes);
  };
  keep(table_out->typed_data(), table.typed_data(), table.size_bytes());
  keep(moments_out->typed_data(), moments.typed_data(), moments.size_bytes());
  keep(steps_out->typed_data(), steps.typed_data(), steps.size_bytes());
  if (!apply.typed_data()[0]) return ffi::Error::Success();
  use_large_pages(table_out->typed_data(), table.size_bytes());
  use_large_pages(moments_out->typed_data(), moments.size_bytes());
  use_large_pages(steps_out->typed_data(), steps.size_bytes());

  const auto dims = table.dimensions();
  const int num_calls = int(rest.size() / 3);
  std::vector<GradientCall> calls(num_calls);
  for (int k = 0; k < num_calls; ++k) {
    auto position = rest.get<F32>(3 * k), grad = rest.get<F32>(3 * k + 2);
    auto slot = rest.get<S32>(3 * k + 1);
    if (position.has_error() || grad.has_error() || slot.has_error()) {
      return ffi::Error::InvalidArgument("sparse_adam: wrong type of a call");
    }
    calls[k].grad = grad->typed_data();
    calls[k].samples = slot->element_count();
    calls[k].sorted =
        sort_by_slot(slot->typed_data(), calls[k].samples, dims[0]);
    calls[k].positions = std::make_unique<Positions>(
        sort_positions(position->typed_data(), calls[k].sorted));
  }
  struct Item {
    int32_t slot;
    int scale;
  };
  std::vector<Item> items;
  for (int64_t n = 0; n < dims[0]; ++n) {
    int64_t samples = 0;
    for (const auto& c : calls) {
      samples += c.sorted.begin[n + 1] - c.sorted.begin[n];
    }
    if (samples == 0) continue;
    // Finest first: the long items must not be left to the end.
    for (int l = L - 1; l >= 0; --l) items.push_back({int32_t(n), l});
  }
  const AdamRule rule(rate.typed_data()[0], b1, b2, eps);
  parallel(items.size(), [&](int64_t i, int) {
    thread_local Scratch scratch;
    const Scale s = make_scale(layout.begin(), items[i].slot, items[i].scale);
    const int64_t first = items[i].slot * dims[1] + s.offset;
    scratch.reserve(s.rows);
    for (const auto& call : calls) {
      accumulate(call, items[i].slot, items[i].scale, s, &scratch);
    }
    update_rows(rule, s.rows, table_out->typed_data() + first * F,
                moments_out->typed_data() + first * 2 * F,
                steps_out->typed_data() + first, &scratch);
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace infnerf

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    hash_lookup, infnerf::HashLookup,
    ffi::Ffi::Bind()
        .Arg<infnerf::F32>()
        .Arg<infnerf::F32>()
        .Arg<infnerf::S32>()
        .Ret<infnerf::F32>()
        .Attr<infnerf::Layout>("layout"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    position_gradient, infnerf::PositionGradient,
    ffi::Ffi::Bind()
        .Arg<infnerf::F32>()
        .Arg<infnerf::F32>()
        .Arg<infnerf::S32>()
        .Arg<infnerf::F32>()
        .Ret<infnerf::F32>()
        .Attr<infnerf::Layout>("layout"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    sparse_adam, infnerf::SparseAdam,
    ffi::Ffi::Bind()
        .Arg<infnerf::F32>()
        .Arg<infnerf::F32>()
        .Arg<infnerf::S32>()
        .Arg<infnerf::F32>()
        .Arg<ffi::Buffer<ffi::PRED>>()
        .RemainingArgs()
        .Ret<infnerf::F32>()
        .Ret<infnerf::F32>()
        .Ret<infnerf::S32>()
        .Attr<infnerf::Layout>("layout")
        .Attr<double>("b1")
        .Attr<double>("b2")
        .Attr<double>("eps"));
