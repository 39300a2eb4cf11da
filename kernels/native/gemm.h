// Small dense products with sizes known at compile time; row-major operands,
// eight outputs a vector. Twelve accumulators keep both FMA units busy.
#ifndef INFNERF_GEMM_H_
#define INFNERF_GEMM_H_

#include "vec.h"

namespace infnerf {

enum class Then { kNothing, kRelu, kMask };  // kMask: zero where mask is <= 0

constexpr int ROWS = 6;  // rows of a tile; row counts are padded to this

template <int NV, int K, Then THEN, bool INIT>
INFNERF_INLINE void gemm_tile(const float* x, int ldx, const float* w, int ldw,
                              float* y, int ldy, const float* const* init,
                              const float* mask, int ldm, int column) {
  v8f acc[ROWS][NV];
#pragma GCC unroll 6
  for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) {
      acc[i][j] = INIT ? load(init[i] + column + 8 * j) : v8f{};
    }
  }
  for (int k = 0; k < K; ++k) {
    v8f b[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) b[j] = load(w + k * ldw + 8 * j);
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; ++i) {
      const v8f a = splat(x[i * ldx + k]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) acc[i][j] += a * b[j];
    }
  }
  const v8f zero = {};
#pragma GCC unroll 6
  for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) {
      v8f v = acc[i][j];
      if (THEN == Then::kRelu) v = max(v, zero);
      if (THEN == Then::kMask) {
        v = load(mask + i * ldm + 8 * j) > zero ? v : zero;
      }
      store(y + i * ldy + 8 * j, v);
    }
  }
}

// y[s, n] = then(init[s][n] + sum_k x[s, k] w[k, n]) for `rows` rows (a
// multiple of ROWS) and N columns (a multiple of 8). w has leading size ldw.
template <int K, int N, Then THEN = Then::kNothing, bool INIT = false>
inline void gemm(const float* x, int ldx, const float* w, int ldw, float* y,
                 int ldy, int rows, const float* const* init = nullptr,
                 const float* mask = nullptr, int ldm = 0) {
  static_assert(N % 8 == 0);
  for (int s = 0; s < rows; s += ROWS) {
    const float* const* first = INIT ? init + s : nullptr;
    for (int n = 0; n + 16 <= N; n += 16) {
      gemm_tile<2, K, THEN, INIT>(x + s * ldx, ldx, w + n, ldw,
                                  y + s * ldy + n, ldy, first,
                                  mask + s * ldm + n, ldm, n);
    }
    if constexpr (N % 16) {
      const int n = N - 8;
      gemm_tile<1, K, THEN, INIT>(x + s * ldx, ldx, w + n, ldw,
                                  y + s * ldy + n, ldy, first,
                                  mask + s * ldm + n, ldm, n);
    }
  }
}

template <int MR, int NV>
INFNERF_INLINE void outer_tile(const float* x, int ldx, const float* d, int ldd,
                               float* w, int ldw, int rows) {
  v8f acc[MR][NV];
#pragma GCC unroll 6
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc[i][j] = load(w + i * ldw + 8 * j);
  }
  for (int s = 0; s < rows; ++s) {
    v8f b[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) b[j] = load(d + s * ldd + 8 * j);
#pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) {
      const v8f a = splat(x[s * ldx + i]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) acc[i][j] += a * b[j];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) store(w + i * ldw + 8 * j, acc[i][j]);
  }
}

template <int M, int NV>
INFNERF_INLINE void outer_panel(const float* x, int ldx, const float* d,
                                int ldd, float* w, int ldw, int rows) {
  constexpr int WHOLE = M / ROWS * ROWS;
  for (int i = 0; i < WHOLE; i += ROWS) {
    outer_tile<ROWS, NV>(x + i, ldx, d, ldd, w + i * ldw, ldw, rows);
  }
  if constexpr (M > WHOLE) {
    outer_tile<M - WHOLE, NV>(x + WHOLE, ldx, d, ldd, w + WHOLE * ldw, ldw,
                              rows);
  }
}

// w[m, n] += sum_s x[s, m] d[s, n]: the weight gradient of a layer.
template <int M, int N>
inline void outer(const float* x, int ldx, const float* d, int ldd, float* w,
                  int ldw, int rows) {
  static_assert(N % 8 == 0);
  for (int n = 0; n + 16 <= N; n += 16) {
    outer_panel<M, 2>(x, ldx, d + n, ldd, w + n, ldw, rows);
  }
  if constexpr (N % 16) {
    outer_panel<M, 1>(x, ldx, d + N - 8, ldd, w + N - 8, ldw, rows);
  }
}

}  // namespace infnerf

#endif  // INFNERF_GEMM_H_
