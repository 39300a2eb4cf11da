// Eight-lane vectors by the compiler's extensions (no intrinsics needed).
#ifndef INFNERF_VEC_H_
#define INFNERF_VEC_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#define INFNERF_INLINE inline __attribute__((always_inline))

namespace infnerf {

typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef uint32_t v8u __attribute__((vector_size(32)));

INFNERF_INLINE v8f load(const float* p) {
  v8f v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INFNERF_INLINE void store(float* p, v8f v) { std::memcpy(p, &v, sizeof v); }
INFNERF_INLINE v8f splat(float x) { return v8f{x, x, x, x, x, x, x, x}; }
INFNERF_INLINE v8f max(v8f a, v8f b) { return a > b ? a : b; }
INFNERF_INLINE v8f min(v8f a, v8f b) { return a < b ? a : b; }
INFNERF_INLINE v8i to_int(v8f a) { return __builtin_convertvector(a, v8i); }
INFNERF_INLINE v8f to_float(v8i a) { return __builtin_convertvector(a, v8f); }
INFNERF_INLINE v8f sqrt(v8f a) {
  for (int i = 0; i < 8; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}

// exp by 2^n * polynomial; relative error below 2e-7 on [-87, 87].
INFNERF_INLINE v8f exp(v8f x) {
  x = min(max(x, splat(-87.0f)), splat(87.0f));
  const v8f shifted = x * 1.44269504f + 12582912.0f;  // rounds to nearest
  const v8f n = shifted - 12582912.0f;
  const v8f r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  v8f p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const v8i power = (to_int(n) + 127) << 23;
  v8f scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}
INFNERF_INLINE v8f sigmoid(v8f x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace infnerf

#endif  // INFNERF_VEC_H_
