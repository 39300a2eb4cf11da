// Small dense products with sizes known at compile time; row-major operands,
// a vector of outputs at a time, in tiles whose sums fill the registers.
#ifndef INFNERF_GEMM_H_
#define INFNERF_GEMM_H_

#include <type_traits>

#include "vec.h"

namespace infnerf {

enum class Then { kNothing, kRelu, kMask };  // kMask: zero where mask is <= 0

constexpr int ROWS = 6;  // rows of a tile; row counts are padded to this
// Vectors of a tile's row: 24 sums in AVX-512's 32 registers, else 12.
constexpr int MAX_VECTORS = LANES == 16 ? 4 : 2;

// Calls fn(vector type, number of vectors, first column) panel by panel until
// N columns (a multiple of 8) are done.
template <int N, int FIRST = 0, typename Fn>
INFNERF_INLINE void for_panels(Fn&& fn) {
  if constexpr (N >= LANES) {
    constexpr int NV = N / LANES < MAX_VECTORS ? N / LANES : MAX_VECTORS;
    fn(vf{}, std::integral_constant<int, NV>(), FIRST);
    for_panels<N - NV * LANES, FIRST + NV * LANES>(fn);
  } else if constexpr (N > 0) {
    static_assert(N == 8);
    fn(v8f{}, std::integral_constant<int, 1>(), FIRST);
  }
}

struct Nothing {
  void operator()() const {}
};
constexpr int STEP = 4;  // products' depth between two calls of `meanwhile`

template <typename V, int MR, int NV, int K, Then THEN, bool INIT, typename Fn>
INFNERF_INLINE void gemm_tile(const float* x, int ldx, const float* w, int ldw,
                              float* y, int ldy, const float* const* init,
                              const float* mask, int ldm, int column,
                              Fn& meanwhile) {
  constexpr int W = sizeof(V) / 4;
  V acc[MR][NV];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      acc[i][j] = INIT ? load<V>(init[i] + column + W * j) : V{};
    }
  }
  auto step = [&](int k) __attribute__((always_inline)) {
    V b[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) b[j] = load<V>(w + k * ldw + W * j);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      const V a = splat<V>(x[i * ldx + k]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] += a * b[j];
    }
  };
  constexpr int WHOLE = K / STEP * STEP;
  for (int first = 0; first < WHOLE; first += STEP) {
    meanwhile();
#pragma GCC unroll 1
    for (int k = first; k < first + STEP; ++k) step(k);
  }
  for (int k = WHOLE; k < K; ++k) step(k);
  const V zero = {};
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      V v = acc[i][j];
      if (THEN == Then::kRelu) v = max(v, zero);
      if (THEN == Then::kMask) {
        v = load<V>(mask + i * ldm + W * j) > zero ? v : zero;
      }
      store(y + i * ldy + W * j, v);
    }
  }
}

// y[s, n] = then(init[s][n] + sum_k x[s, k] w[k, n]) for `rows` rows (a
// multiple of ROWS) and N columns (a multiple of 8). w has leading size ldw.
// meanwhile(): called again and again between products, to ask for memory.
template <int K, int N, Then THEN = Then::kNothing, bool INIT = false,
          typename Fn = const Nothing>
inline void gemm(const float* x, int ldx, const float* w, int ldw, float* y,
                 int ldy, int rows, Fn& meanwhile = Fn(),
                 const float* const* init = nullptr,
                 const float* mask = nullptr, int ldm = 0) {
  for_panels<N>([&](auto v, auto nv, int n) __attribute__((always_inline)) {
    using V = decltype(v);
    constexpr int NV = decltype(nv)::value;
    auto tile = [&](auto mr, int s) __attribute__((always_inline)) {
      gemm_tile<V, decltype(mr)::value, NV, K, THEN, INIT>(
          x + s * ldx, ldx, w + n, ldw, y + s * ldy + n, ldy,
          INIT ? init + s : nullptr, mask + s * ldm + n, ldm, n,
          meanwhile);
    };
    int s = 0;
    if constexpr (NV == 1) {  // six sums would wait for one another
      for (; s + 2 * ROWS <= rows; s += 2 * ROWS) {
        tile(std::integral_constant<int, 2 * ROWS>(), s);
      }
    }
    for (; s < rows; s += ROWS) tile(std::integral_constant<int, ROWS>(), s);
  });
}

// The same for N <= 4 outputs: lanes 2n and 2n + 1 hold output n's sums over
// even and odd k. w is [K / 2, LANES / 2, 2], y [rows, 4].
template <int K, int N, typename Fn>
inline void gemm_narrow(const float* x, int ldx, const float* w, float* y,
                        int rows, Fn& meanwhile) {
  static_assert(K % 4 == 0 && N <= 4);
  for (int s = 0; s < rows; s += ROWS) {
    vf acc[ROWS][2] = {};  // two sums each, not to wait for one another
    for (int k = 0; k < K; k += 4) {
      meanwhile();
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const vf b = load(w + (k / 2 + j) * LANES);
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; ++i) {
          acc[i][j] += splat_pair(x + (s + i) * ldx + k + 2 * j) * b;
        }
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; ++i) {
      const vf sum = acc[i][0] + acc[i][1];
      for (int n = 0; n < N; ++n) {
        y[(s + i) * 4 + n] = sum[2 * n] + sum[2 * n + 1];
      }
    }
  }
}

template <typename V, int MR, int NV>
INFNERF_INLINE void outer_tile(const float* x, int ldx, const float* d, int ldd,
                               float* w, int ldw, int rows) {
  constexpr int W = sizeof(V) / 4;
  V acc[MR][NV];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = load<V>(w + i * ldw + W * j);
  }
  for (int s = 0; s < rows; ++s) {
    V b[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) b[j] = load<V>(d + s * ldd + W * j);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      const V a = splat<V>(x[s * ldx + i]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] += a * b[j];
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(w + i * ldw + W * j, acc[i][j]);
  }
}

// w[m, n] += sum_s x[s, m] d[s, n]: the weight gradient of a layer.
template <int M, int N>
inline void outer(const float* x, int ldx, const float* d, int ldd, float* w,
                  int ldw, int rows) {
  for_panels<N>([&](auto v, auto nv, int n) __attribute__((always_inline)) {
    using V = decltype(v);
    constexpr int NV = decltype(nv)::value;
    constexpr int MR = NV == 1 ? 2 * ROWS : ROWS, WHOLE = M / MR * MR;
    for (int i = 0; i < WHOLE; i += MR) {
      outer_tile<V, MR, NV>(x + i, ldx, d + n, ldd, w + i * ldw + n, ldw, rows);
    }
    if constexpr (M > WHOLE) {
      outer_tile<V, M - WHOLE, NV>(x + WHOLE, ldx, d + n, ldd,
                                   w + WHOLE * ldw + n, ldw, rows);
    }
  });
}

}  // namespace infnerf

#endif  // INFNERF_GEMM_H_
