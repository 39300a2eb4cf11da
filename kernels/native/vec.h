// Vectors by the compiler's extensions (no intrinsics needed): `vf` is as wide
// as the processor's registers, `v8f` has eight lanes everywhere.
#ifndef INFNERF_VEC_H_
#define INFNERF_VEC_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#define INFNERF_INLINE inline __attribute__((always_inline))

// SHUFFLE(int vector, a, b, lanes...): lanes of a, then of b.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(V, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(V, a, b, ...) __builtin_shuffle(a, b, V{__VA_ARGS__})
#endif

namespace infnerf {

#ifdef __AVX512F__
#define INFNERF_LANES 16
#else
#define INFNERF_LANES 8
#endif
constexpr int LANES = INFNERF_LANES;

typedef float vf __attribute__((vector_size(4 * INFNERF_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * INFNERF_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * INFNERF_LANES)));
typedef uint64_t vl __attribute__((vector_size(4 * INFNERF_LANES)));
typedef double vd __attribute__((vector_size(4 * INFNERF_LANES)));
typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));

template <typename V = vf>
INFNERF_INLINE V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <typename V>
INFNERF_INLINE void store(float* p, V v) {
  std::memcpy(p, &v, sizeof v);
}
template <typename V = vf>
INFNERF_INLINE V splat(float x) {
  return x - V{};  // a sum with zero would lose the sign of -0
}
template <typename V>
INFNERF_INLINE V max(V a, V b) {
  return a > b ? a : b;
}
template <typename V>
INFNERF_INLINE V min(V a, V b) {
  return a < b ? a : b;
}
INFNERF_INLINE vf splat_pair(const float* p) {
  uint64_t both;
  std::memcpy(&both, p, sizeof both);
  return (vf)(both + vl{});
}
INFNERF_INLINE double as_double(const float* p) {
  double d;  // two floats moved as one 64-bit word
  std::memcpy(&d, p, sizeof d);
  return d;
}
INFNERF_INLINE v8f sqrt(v8f a) {
  for (int i = 0; i < 8; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}

// exp by 2^n * polynomial; relative error below 2e-7 on [-87, 87].
INFNERF_INLINE vf exp(vf x) {
  x = min(max(x, splat(-87.0f)), splat(87.0f));
  const vf shifted = x * 1.44269504f + 12582912.0f;  // rounds to nearest
  const vf n = shifted - 12582912.0f;
  const vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vf p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const vi power = (__builtin_convertvector(n, vi) + 127) << 23;
  return p * (vf)power;
}
INFNERF_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace infnerf

#endif  // INFNERF_VEC_H_
