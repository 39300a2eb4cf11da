// node_density and node_field: hash lookup and node MLPs in one pass.
// Compiled per (GRID_SCALES, NUM_FEATURES, HIDDEN, GEOMETRY, RAY_DIM).
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "lookup.h"
#include "mlp.h"
#include "pages.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace infnerf {
namespace {

constexpr int CHUNK = 2048;
using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Out = ffi::Result<F32>;
using Layout = ffi::Span<const int64_t>;

// Plain pointers of one call; colour members are null in node_density.
struct Call {
  const float *table = nullptr, *w0, *w1, *c0, *c1, *c2;
  const float* position = nullptr;
  const int32_t *slot, *ray_idx;
  const float* ray_inputs;
  int64_t samples, rows = 0, num_slots, num_rays;

  Weights weights(int64_t n) const {
    Weights w = {w0 + n * IN * H, w1 + n * H * OUT, nullptr, nullptr, nullptr};
    if (c0 == nullptr) return w;
    w.c0 = c0 + n * (G + D) * H;
    w.c1 = c1 + n * H * H;
    w.c2 = c2 + n * H * 3;
    return w;
  }
};

// Buffers of one thread, kept from call to call.
struct Worker {
  Packed packed;
  BlockBuffers block;
  BlockLookup lookup;
  alignas(64) float features[BLOCK * IN] = {};
  uint64_t call_id = 0;

  void pack(const Weights& w, uint64_t id, int32_t slot, bool color,
            bool backward) {
    if (call_id != id) {
      std::memset(block.d_out, 0, sizeof block.d_out);
    } else if (packed.slot == slot) {
      return;
    }
    packed.pack(w, color, backward);
    packed.slot = slot;
    call_id = id;
  }
};

Worker& this_worker() {
  thread_local std::unique_ptr<Worker> worker;
  if (!worker) worker = std::make_unique<Worker>();
  return *worker;
}

uint64_t new_call_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

// stored: features [S, IN] in sorted order for the backward pass, or null.
void forward(const Call& call, const int64_t* layout, float* raw, float* rgb,
             float* stored) {
  use_large_pages(call.table, 4 * call.num_slots * call.rows * F);
  const Sorted sorted =
      sort_by_slot(call.slot, call.samples, call.num_slots);
  const auto chunks = make_chunks(sorted, CHUNK);
  if (sorted.num_valid() < call.samples) {
    std::fill(raw, raw + call.samples, 0.0f);
    if (rgb) std::fill(rgb, rgb + 3 * call.samples, 0.0f);
  }
  const uint64_t id = new_call_id();
  parallel(chunks.size(), [&](int64_t item, int) {
    const Chunk& c = chunks[item];
    Worker& worker = this_worker();
    BlockBuffers& b = worker.block;
    const Weights w = call.weights(c.slot);
    worker.pack(w, id, c.slot, rgb, false);
    BlockLookup& lookup = worker.lookup;
    lookup.open(call.table + c.slot * call.rows * F, layout, c.slot);
    auto ask = [&]() __attribute__((always_inline)) { lookup.ask(); };
    const int32_t* order = sorted.order.data() + c.begin;
    auto size = [&](int i) { return std::min(BLOCK, c.count - i); };
    auto locate = [&](int i) {
      const int n = size(i);
      lookup.locate(call.position, order + i, n, c.count - i - n);
    };
    locate(0);
    lookup.drain();
    for (int i = 0; i < c.count; i += BLOCK) {
      const int n = size(i);
      const int32_t* sample = order + i;
      lookup.gather(n, worker.features);
      if (i + BLOCK < c.count) locate(i + BLOCK);
      if (stored) {
        std::memcpy(stored + (c.begin + i) * IN, worker.features, 4 * IN * n);
      }
      density_forward(worker.features, n, w, worker.packed, rgb, &b, ask);
      for (int j = 0; j < n; ++j) raw[sample[j]] = b.out[j * OUTP];
      if (rgb) {
        b.runs.find(call.ray_idx, sample, n, call.ray_inputs, call.num_rays);
        color_forward(n, w, worker.packed, &b, ask);
        for (int j = 0; j < n; ++j) {
          std::memcpy(rgb + 3 * int64_t(sample[j]), b.rgb + 4 * j, 12);
        }
      }
      lookup.drain();
    }
  });
}

// Gradient of the ray inputs of one chunk, one row a run.
struct RayGrads {
  std::vector<int32_t> ray;
  std::vector<float> grad;
};

struct Gradients {
  float *w0, *w1, *c0, *c1, *c2, *rays, *features;  // null: not wanted
};

// Adds the chunks of one slot in order and writes them in parameter layout.
void reduce_slot(const Chunk* chunks, int64_t count, const float* parts,
                 int64_t slot, const Gradients& out) {
  using W = WeightGrads;
  std::vector<float> sum(parts, parts + W::kSize);
  for (int64_t k = 1; k < count; ++k) {
    const float* part = parts + k * W::kSize;
    for (int i = 0; i < W::kSize; ++i) sum[i] += part[i];
  }
  auto copy = [&](float* to, int from, int rows, int width, int stride) {
    if (to == nullptr) return;
    to += slot * rows * width;
    for (int r = 0; r < rows; ++r) {
      std::memcpy(to + r * width, &sum[from + r * stride], 4 * width);
    }
  };
  copy(out.w0, W::kW0, IN, H, H);
  copy(out.w1, W::kW1, H, OUT, OUTP);
  copy(out.c0, W::kC0, G + D, H, H);
  copy(out.c1, W::kC1, H, H, H);
  copy(out.c2, W::kC2, H, 3, 8);
}

void clear(float* p, int64_t size) {
  if (p != nullptr) std::memset(p, 0, size * sizeof(float));
}

void backward(const Call& call, const float* stored, const float* rgb,
              const float* d_raw, const float* d_rgb, const Gradients& out) {
  using W = WeightGrads;
  const Sorted sorted =
      sort_by_slot(call.slot, call.samples, call.num_slots);
  const auto chunks = make_chunks(sorted, CHUNK);
  const bool color = rgb != nullptr;
  clear(out.w0, call.num_slots * IN * H);
  clear(out.w1, call.num_slots * H * OUT);
  clear(out.c0, call.num_slots * (G + D) * H);
  clear(out.c1, call.num_slots * H * H);
  clear(out.c2, call.num_slots * H * 3);
  clear(out.rays, call.num_rays * D);
  if (sorted.num_valid() < call.samples) {
    clear(out.features, call.samples * IN);
  }
  std::unique_ptr<float[]> parts(new float[chunks.size() * W::kSize]);
  std::vector<RayGrads> ray_grads(chunks.size());
  const uint64_t id = new_call_id();
  parallel(chunks.size(), [&](int64_t item, int) {
    const Chunk& c = chunks[item];
    Worker& worker = this_worker();
    BlockBuffers& b = worker.block;
    const int32_t* order = sorted.order.data() + c.begin;
    const Weights w = call.weights(c.slot);
    worker.pack(w, id, c.slot, color, true);
    float* grads = parts.get() + item * W::kSize;
    clear(grads, W::kSize);

    // Samples whose cotangents are all zero need no arithmetic.
    int active[CHUNK];
    int num_active = 0;
    for (int i = 0; i < c.count; ++i) {
      const int64_t s = order[i];
      bool used = d_raw[s] != 0.0f;
      if (color) {
        const float* d = d_rgb + 3 * s;
        used |= (d[0] != 0.0f) | (d[1] != 0.0f) | (d[2] != 0.0f);
      }
      active[num_active] = i;
      num_active += used;
      if (!used && out.features) {
        for (int l = 0; l < L; ++l) {
          std::memset(out.features + (l * call.samples + s) * F, 0, 4 * F);
        }
      }
    }
    for (int i = 0; i < num_active; i += BLOCK) {
      const int n = std::min(BLOCK, num_active - i);
      int32_t sample[BLOCK];
      for (int j = 0; j < n; ++j) {
        sample[j] = order[active[i + j]];
        std::memcpy(worker.features + j * IN,
                    stored + (c.begin + active[i + j]) * IN, 4 * IN);
      }
      density_forward(worker.features, n, w, worker.packed, color, &b);
      if (color) {
        b.runs.find(call.ray_idx, sample, n, call.ray_inputs, call.num_rays);
        color_hidden(n, w, &b);
        for (int j = 0; j < n; ++j) {
          for (int a = 0; a < 3; ++a) {
            const float y = rgb[3 * int64_t(sample[j]) + a];
            b.d_rgb[8 * j + a] =
                d_rgb[3 * int64_t(sample[j]) + a] * (y * (1.0f - y));
          }
        }
        color_backward(n, worker.packed, grads, &b);
        for (int r = 0; out.rays && r < b.runs.count; ++r) {
          RayGrads& to = ray_grads[item];
          to.ray.push_back(b.runs.ray[r]);
          to.grad.insert(to.grad.end(), b.d_ray + r * DP, b.d_ray + r * DP + D);
        }
      }
      for (int j = 0; j < n; ++j) b.d_out[j * OUTP] = d_raw[sample[j]];
      density_backward(worker.features, n, worker.packed, color,
                       out.features != nullptr, grads, &b);
      for (int l = 0; out.features && l < L; ++l) {
        for (int j = 0; j < n; ++j) {
          std::memcpy(out.features + (l * call.samples + sample[j]) * F,
                      b.d_features + j * INP + l * F, 4 * F);
        }
      }
    }
  });
  std::vector<int64_t> first;  // chunk at which each touched slot begins
  for (size_t k = 0; k < chunks.size(); ++k) {
    if (k == 0 || chunks[k].slot != chunks[k - 1].slot) first.push_back(k);
  }
  first.push_back(chunks.size());
  parallel(int64_t(first.size()) - 1, [&](int64_t i, int) {
    reduce_slot(&chunks[first[i]], first[i + 1] - first[i],
                parts.get() + first[i] * W::kSize, chunks[first[i]].slot, out);
  });
  for (const RayGrads& g : ray_grads) {
    for (size_t r = 0; r < g.ray.size(); ++r) {
      if (g.ray[r] < 0 || g.ray[r] >= call.num_rays) continue;
      float* to = out.rays + int64_t(g.ray[r]) * D;
      for (int d = 0; d < D; ++d) to[d] += g.grad[r * D + d];
    }
  }
}

float* or_null(Out& out) {
  return out->element_count() ? out->typed_data() : nullptr;
}

ffi::Error NodeDensity(F32 table, F32 w0, F32 w1, F32 position, S32 slot,
                       Out raw, Out stored, Layout layout) {
  Call call = {};
  call.table = table.typed_data();
  call.w0 = w0.typed_data(), call.w1 = w1.typed_data();
  call.position = position.typed_data(), call.slot = slot.typed_data();
  call.samples = slot.element_count();
  call.num_slots = table.dimensions()[0], call.rows = table.dimensions()[1];
  forward(call, layout.begin(), raw->typed_data(), nullptr, or_null(stored));
  return ffi::Error::Success();
}

ffi::Error NodeField(F32 table, F32 w0, F32 w1, F32 c0, F32 c1, F32 c2,
                     F32 position, S32 slot, S32 ray_idx, F32 ray_inputs,
                     Out raw, Out rgb, Out stored, Layout layout) {
  Call call = {};
  call.table = table.typed_data();
  call.w0 = w0.typed_data(), call.w1 = w1.typed_data();
  call.c0 = c0.typed_data(), call.c1 = c1.typed_data();
  call.c2 = c2.typed_data();
  call.position = position.typed_data(), call.slot = slot.typed_data();
  call.ray_idx = ray_idx.typed_data();
  call.ray_inputs = ray_inputs.typed_data();
  call.num_rays = ray_inputs.dimensions()[0];
  call.samples = slot.element_count();
  call.num_slots = table.dimensions()[0], call.rows = table.dimensions()[1];
  forward(call, layout.begin(), raw->typed_data(), rgb->typed_data(),
          or_null(stored));
  return ffi::Error::Success();
}

ffi::Error NodeDensityGrad(F32 w0, F32 w1, S32 slot, F32 stored, F32 d_raw,
                           Out g_w0, Out g_w1, Out g_features) {
  Call call = {};
  call.w0 = w0.typed_data(), call.w1 = w1.typed_data();
  call.slot = slot.typed_data(), call.samples = slot.element_count();
  call.num_slots = w0.dimensions()[0];
  Gradients out = {};
  out.w0 = g_w0->typed_data(), out.w1 = g_w1->typed_data();
  out.features = or_null(g_features);
  backward(call, stored.typed_data(), nullptr, d_raw.typed_data(), nullptr,
           out);
  return ffi::Error::Success();
}

ffi::Error NodeFieldGrad(F32 w0, F32 w1, F32 c0, F32 c1, F32 c2, S32 slot,
                         S32 ray_idx, F32 ray_inputs, F32 stored, F32 rgb,
                         F32 d_raw, F32 d_rgb, Out g_w0, Out g_w1, Out g_c0,
                         Out g_c1, Out g_c2, Out g_rays, Out g_features) {
  Call call = {};
  call.w0 = w0.typed_data(), call.w1 = w1.typed_data();
  call.c0 = c0.typed_data(), call.c1 = c1.typed_data();
  call.c2 = c2.typed_data();
  call.slot = slot.typed_data(), call.ray_idx = ray_idx.typed_data();
  call.ray_inputs = ray_inputs.typed_data();
  call.num_rays = ray_inputs.dimensions()[0];
  call.samples = slot.element_count();
  call.num_slots = w0.dimensions()[0];
  Gradients out = {g_w0->typed_data(), g_w1->typed_data(), g_c0->typed_data(),
                   g_c1->typed_data(), g_c2->typed_data(), or_null(g_rays),
                   or_null(g_features)};
  backward(call, stored.typed_data(), rgb.typed_data(), d_raw.typed_data(),
           d_rgb.typed_data(), out);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace infnerf

#define ARG(T) .Arg<infnerf::T>()
#define RET .Ret<infnerf::F32>()
#define LAYRET .Attr<infnerf::Layout>("layout")

// clang-format off
XLA_FFI_DEFINE_HANDLER_SYMBOL(node_density, infnerf::NodeDensity,
    ffi::Ffi::Bind() ARG(F32) ARG(F32) ARG(F32) ARG(F32) ARG(S32)
    RET RET LAYRET);
XLA_FFI_DEFINE_HANDLER_SYMBOL(node_field, infnerf::NodeField,
    ffi::Ffi::Bind() ARG(F32) ARG(F32) ARG(F32) ARG(F32) ARG(F32) ARG(F32)
    ARG(F32) ARG(S32) ARG(S32) ARG(F32) RET RET RET LAYRET);
XLA_FFI_DEFINE_HANDLER_SYMBOL(node_density_grad, infnerf::NodeDensityGrad,
    ffi::Ffi::Bind() ARG(F32) ARG(F32) ARG(S32) ARG(F32) ARG(F32)
    RET RET RET);
XLA_FFI_DEFINE_HANDLER_SYMBOL(node_field_grad, infnerf::NodeFieldGrad,
    ffi::Ffi::Bind() ARG(F32) ARG(F32) ARG(F32) ARG(F32) ARG(F32) ARG(S32)
    ARG(S32) ARG(F32) ARG(F32) ARG(F32) ARG(F32) ARG(F32)
    RET RET RET RET RET RET RET);
