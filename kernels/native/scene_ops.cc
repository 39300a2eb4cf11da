// Ops whose code does not depend on the field's sizes: locate, slot_adam and
// touched_slots.
#include <algorithm>
#include <cmath>
#include <vector>

#include "pool.h"
#include "vec.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace infnerf {
namespace {

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Pred = ffi::Buffer<ffi::PRED>;

struct Tree {
  const int32_t* children;
  const int32_t* slot_of_node;
  int max_level;
};

struct Located {
  int32_t node, slot, level;
  float position[3];
};

// p: the sample in root units. Double holds 2^-53 of the root: exact enough
// for any level that int32 cells can number.
inline Located locate_sample(const Tree& tree, const double p[3], int target) {
  Located out = {0, tree.slot_of_node[0], 0, {}};
  const bool inside = p[0] >= 0 && p[0] < 1 && p[1] >= 0 && p[1] < 1 &&
                      p[2] >= 0 && p[2] < 1;
  if (inside) {
    const double cells = double(int64_t(1) << tree.max_level);
    const int32_t cell[3] = {int32_t(p[0] * cells), int32_t(p[1] * cells),
                             int32_t(p[2] * cells)};
    const int deepest = std::min(target, tree.max_level);
    int32_t node = 0;
    for (int level = 1; level <= deepest; ++level) {
      const int shift = tree.max_level - level;
      const int octant = (cell[0] >> shift & 1) << 2 |
                         (cell[1] >> shift & 1) << 1 | (cell[2] >> shift & 1);
      node = tree.children[8 * int64_t(node) + octant];
      if (node < 0) break;
      const int32_t slot = tree.slot_of_node[node];
      if (slot < 0) continue;
      out.node = node, out.slot = slot, out.level = level;
    }
    if (out.level > 0) {
      const double scale = double(int64_t(1) << out.level);
      const int shift = tree.max_level - out.level;
      for (int a = 0; a < 3; ++a) {
        out.position[a] = float(p[a] * scale - double(cell[a] >> shift));
      }
      return out;
    }
  }
  // The root holds everything outside its box too: L-infinity contraction of
  // the doubled box.
  double q[3], m = 1;
  for (int a = 0; a < 3; ++a) {
    q[a] = (p[a] - 0.5) * 2;
    m = std::max(m, std::fabs(q[a]));
  }
  const double factor = (2 - 1 / m) / m;  // 1 inside
  for (int a = 0; a < 3; ++a) {
    out.position[a] = float((q[a] * factor + 2) * 0.25);
  }
  return out;
}

ffi::Error Locate(F32 origins, F32 origins_lo, F32 directions, F32 t,
                  S32 target, S32 children, S32 slot_of_node,
                  ffi::Result<S32> node, ffi::Result<S32> slot,
                  ffi::Result<S32> level, ffi::Result<F32> position,
                  double root_side, int64_t max_level) {
  const Tree tree = {children.typed_data(), slot_of_node.typed_data(),
                     int(max_level)};
  const int64_t rays = t.dimensions()[0], samples = t.dimensions()[1];
  constexpr int64_t RAYS = 64;
  parallel((rays + RAYS - 1) / RAYS, [&](int64_t item, int) {
    const int64_t end = std::min(rays, (item + 1) * RAYS);
    for (int64_t r = item * RAYS; r < end; ++r) {
      double o[3], d[3];
      for (int a = 0; a < 3; ++a) {
        o[a] = double(origins.typed_data()[3 * r + a]) +
               double(origins_lo.typed_data()[3 * r + a]);
        d[a] = double(directions.typed_data()[3 * r + a]) / root_side;
      }
      for (int64_t i = r * samples; i < (r + 1) * samples; ++i) {
        if (target.typed_data()[i] < 0) {
          node->typed_data()[i] = level->typed_data()[i] = 0;
          slot->typed_data()[i] = -1;
          std::memset(position->typed_data() + 3 * i, 0, 12);
          continue;
        }
        const double ti = t.typed_data()[i];
        const double p[3] = {o[0] + ti * d[0], o[1] + ti * d[1],
                             o[2] + ti * d[2]};
        const Located at = locate_sample(tree, p, target.typed_data()[i]);
        node->typed_data()[i] = at.node;
        slot->typed_data()[i] = at.slot;
        level->typed_data()[i] = at.level;
        std::memcpy(position->typed_data() + 3 * i, at.position, 12);
      }
    }
  });
  return ffi::Error::Success();
}

// weights [N, ...], moments [N, 2, ...] in place; grad [N, ...], steps [N],
// touched [N], learning_rate [], apply [].
ffi::Error SlotAdam(F32 weights, F32 moments, F32 grad, S32 steps, Pred touched,
                    F32 rate, Pred apply, ffi::Result<F32> weights_out,
                    ffi::Result<F32> moments_out, double b1, double b2,
                    double eps) {
  float* w = weights_out->typed_data();
  float* m = moments_out->typed_data();
  if (w != weights.typed_data()) {
    std::memcpy(w, weights.typed_data(), weights.size_bytes());
  }
  if (m != moments.typed_data()) {
    std::memcpy(m, moments.typed_data(), moments.size_bytes());
  }
  const int64_t slots = touched.element_count();
  if (!apply.typed_data()[0] || slots == 0) return ffi::Error::Success();
  const int64_t size = weights.element_count() / slots;
  std::vector<int64_t> used;
  for (int64_t n = 0; n < slots; ++n) {
    if (touched.typed_data()[n]) used.push_back(n);
  }
  const float lr = rate.typed_data()[0];
  parallel(used.size(), [&](int64_t item, int) {
    const int64_t n = used[item];
    const double step = double(steps.typed_data()[n]) + 1;
    const float c1 = float(1 / (1 - std::pow(b1, step)));
    const float c2 = float(1 / (1 - std::pow(b2, step)));
    const float f1 = float(b1), f2 = float(b2), e = float(eps);
    const float a1 = float(1 - b1), a2 = float(1 - b2);
    float* __restrict p = w + n * size;
    float* __restrict m0 = m + n * 2 * size;
    float* __restrict v0 = m0 + size;
    const float* __restrict g = grad.typed_data() + n * size;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      m0[i] = f1 * m0[i] + a1 * g[i];
      v0[i] = f2 * v0[i] + a2 * (g[i] * g[i]);
      p[i] -= lr * (m0[i] * c1) / (__builtin_sqrtf(v0[i] * c2) + e);
    }
  });
  return ffi::Error::Success();
}

// Slots of each call -> touched [N].
ffi::Error TouchedSlots(ffi::RemainingArgs slots,
                        ffi::Result<Pred> touched) {
  const int64_t limit = touched->element_count();
  std::fill(touched->typed_data(), touched->typed_data() + limit, false);
  for (size_t k = 0; k < slots.size(); ++k) {
    auto slot = slots.get<S32>(k);
    if (slot.has_error()) return slot.error();
    const int32_t* s = slot->typed_data();
    const int64_t count = slot->element_count();
    for (int64_t i = 0; i < count; ++i) {
      if (uint32_t(s[i]) < uint64_t(limit)) touched->typed_data()[s[i]] = true;
    }
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace infnerf

#define ARG(T) .Arg<infnerf::T>()
#define RET(T) .Ret<infnerf::T>()

// clang-format off
XLA_FFI_DEFINE_HANDLER_SYMBOL(locate, infnerf::Locate,
    ffi::Ffi::Bind() ARG(F32) ARG(F32) ARG(F32) ARG(F32) ARG(S32) ARG(S32)
    ARG(S32) RET(S32) RET(S32) RET(S32) RET(F32)
    .Attr<double>("root_side").Attr<int64_t>("max_level"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(slot_adam, infnerf::SlotAdam,
    ffi::Ffi::Bind() ARG(F32) ARG(F32) ARG(F32) ARG(S32) ARG(Pred) ARG(F32)
    ARG(Pred) RET(F32) RET(F32)
    .Attr<double>("b1").Attr<double>("b2").Attr<double>("eps"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(touched_slots, infnerf::TouchedSlots,
    ffi::Ffi::Bind().RemainingArgs().Ret<infnerf::Pred>());
