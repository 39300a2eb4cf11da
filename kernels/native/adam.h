// Lazy Adam of one grid scale of one slot: sum the gradients of its rows in a
// scratch buffer, then one pass over the touched rows in ascending order, so
// that table, moments and steps are read as memory likes it.
#ifndef INFNERF_ADAM_H_
#define INFNERF_ADAM_H_

#include <sys/mman.h>

#include <cstdlib>
#include <type_traits>
#include <vector>

#include "grid.h"
#include "sort.h"

namespace infnerf {

// -0.0f marks an untouched row: sums of touched rows never have these bits.
constexpr uint32_t UNTOUCHED = 0x80000000u;
// Bytes: up to here sums stay in a core's second-level cache.
constexpr int LARGE_SCRATCH = 300 * 1024;
constexpr int GROUP = 4;  // rows that share one byte of `touched`

class Scratch {
 public:
  ~Scratch() { std::free(grad); }
  void reserve(int64_t rows) {
    if (rows <= capacity_) return;
    std::free(grad);
    const size_t page = size_t(2) << 20;
    const size_t bytes = (rows * F * 4 + page - 1) / page * page;
    grad = static_cast<float*>(std::aligned_alloc(page, bytes));
    madvise(grad, bytes, MADV_HUGEPAGE);  // advice only: failure is harmless
    for (int64_t i = 0; i < rows * F; ++i) grad[i] = -0.0f;
    touched.assign(rows / GROUP + 64, 0);  // read past the end
    capacity_ = rows;
  }
  float* grad = nullptr;
  std::vector<uint8_t> touched;

 private:
  int64_t capacity_ = 0;
};

// Gradient of one row. The compiler's vectors have a power of two lanes.
struct AnyRow {
  float v[F];
  AnyRow operator+(float a) const {
    AnyRow r;
    for (int f = 0; f < F; ++f) r.v[f] = v[f] + a;
    return r;
  }
  AnyRow operator+(const AnyRow& a) const {
    AnyRow r;
    for (int f = 0; f < F; ++f) r.v[f] = v[f] + a.v[f];
    return r;
  }
};
inline AnyRow operator*(float a, const AnyRow& b) {
  AnyRow r;
  for (int f = 0; f < F; ++f) r.v[f] = a * b.v[f];
  return r;
}
typedef float v2f __attribute__((vector_size(8)));
typedef int32_t v4i __attribute__((vector_size(16)));
typedef uint32_t v8u __attribute__((vector_size(32)));
typedef double v4d __attribute__((vector_size(32)));
using Row = std::conditional_t<F == 2, v2f, AnyRow>;

struct GradientCall {
  std::unique_ptr<Positions> positions;
  const float* grad;  // [L, samples, F]
  int64_t samples;
  Sorted sorted;
};

struct AdamRule {
  float rate, b1, b2, a1, a2, eps;
  std::vector<float> correction;  // pairs 1 / (1 - b1^t), 1 / (1 - b2^t)
  int32_t last;                   // from here on both are 1 in float32
  AdamRule(float rate_, double b1_, double b2_, double eps_)
      : rate(rate_), b1(b1_), b2(b2_), a1(1 - b1_), a2(1 - b2_), eps(eps_) {
    double p1 = 1, p2 = 1;
    correction = {1.0f, 1.0f};
    while ((p1 > 1e-8 || p2 > 1e-8) && correction.size() < (1 << 21)) {
      p1 *= b1_, p2 *= b2_;
      correction.push_back(float(1 / (1 - p1)));
      correction.push_back(float(1 / (1 - p2)));
    }
    last = int32_t(correction.size() / 2 - 1);
  }
  const float* at(int32_t step) const {
    return &correction[2 * (step < last ? step : last)];
  }
};

inline void accumulate(const GradientCall& call, int64_t slot, int l,
                       const Scale& s, Scratch* scratch) {
  const int64_t begin = call.sorted.begin[slot];
  const int64_t end = call.sorted.begin[slot + 1];
  const float* grad = call.grad + l * call.samples * F;
  const bool prefetch = int64_t(s.rows) * F * 4 > LARGE_SCRATCH;
  GridBlock blocks[2];
  float* sums = scratch->grad;
  uint8_t* touched = scratch->touched.data();
  auto size = [&](int64_t i) {
    return int(end - i < GRID_BLOCK ? end - i : GRID_BLOCK);
  };
  auto prepare = [&](int64_t i, int k) {
    const int n = size(i);
    grid_rows(s, call.positions->from(i).at, n, &blocks[k]);
    for (int j = 0; j < n; ++j) {
      __builtin_prefetch(grad + int64_t(call.sorted.order[i + j]) * F, 0, 3);
    }
    if (!prefetch) return;
    for (int c = 0; c < 8; ++c) {
      for (int j = 0; j < n; ++j) {
        __builtin_prefetch(sums + size_t(blocks[k].row[c][j]) * F, 1, 3);
      }
    }
  };
  if (begin < end) prepare(begin, 0);
  int k = 0;
  for (int64_t i = begin; i < end; i += GRID_BLOCK, k ^= 1) {
    if (i + GRID_BLOCK < end) prepare(i + GRID_BLOCK, k ^ 1);
    const GridBlock& b = blocks[k];
    const int32_t* order = call.sorted.order.data() + i;
    const int count = size(i);
    for (int j = 0; j < count; j += LANES) {
      alignas(64) vf w[8];
      grid_weights(b, j, w);
      const float* flat = reinterpret_cast<const float*>(w);
      for (int e = 0; e < LANES && j + e < count; ++e) {
        Row g;
        std::memcpy(&g, grad + int64_t(order[j + e]) * F, sizeof g);
        for (int c = 0; c < 8; ++c) {
          const size_t row = b.row[c][j + e];
          touched[row / GROUP] = 1;
          Row sum;
          std::memcpy(&sum, sums + row * F, sizeof sum);
          // + 0.0f: a sum that is -0 becomes +0, so never looks untouched.
          sum = (sum + flat[LANES * c + e] * g) + 0.0f;
          std::memcpy(sums + row * F, &sum, sizeof sum);
        }
      }
    }
  }
}

// Rows r .. r+3 with two features: one vector each of table and gradient, two
// of moments (rows [m0 m1 v0 v1]).
INFNERF_INLINE void update_four(const AdamRule& rule, v8f g, float* table,
                                float* moments, int32_t* steps) {
  const v8i untouched = (v8i)((v8u)g == UNTOUCHED);
  const v8f a = load<v8f>(moments), b = load<v8f>(moments + 8);
  const v8f p = load<v8f>(table);
  const v8f m0 = SHUFFLE(v8i, a, b, 0, 1, 4, 5, 8, 9, 12, 13);
  const v8f v0 = SHUFFLE(v8i, a, b, 2, 3, 6, 7, 10, 11, 14, 15);
  v4i step;
  std::memcpy(&step, steps, sizeof step);
  step += 1 + v4i{untouched[0], untouched[2], untouched[4], untouched[6]};
  std::memcpy(steps, &step, sizeof step);
  const v8f c = (v8f)v4d{as_double(rule.at(step[0])),
                         as_double(rule.at(step[1])),
                         as_double(rule.at(step[2])),
                         as_double(rule.at(step[3]))};
  const v8f c1 = SHUFFLE(v8i, c, c, 0, 0, 2, 2, 4, 4, 6, 6);
  const v8f c2 = SHUFFLE(v8i, c, c, 1, 1, 3, 3, 5, 5, 7, 7);
  v8f m = rule.b1 * m0 + rule.a1 * g;
  v8f v = rule.b2 * v0 + rule.a2 * (g * g);
  const v8f next = p - rule.rate * (m * c1) / (sqrt(v * c2) + rule.eps);
  m = untouched ? m0 : m;
  v = untouched ? v0 : v;
  store(table, untouched ? p : next);
  store(moments, SHUFFLE(v8i, m, v, 0, 1, 8, 9, 2, 3, 10, 11));
  store(moments + 8, SHUFFLE(v8i, m, v, 4, 5, 12, 13, 6, 7, 14, 15));
}

inline void update_row(const AdamRule& rule, const float* g, float* table,
                       float* moments, int32_t* step) {
  const float* c = rule.at(++*step);
  for (int f = 0; f < F; ++f) {
    float& m = moments[f];
    float& v = moments[F + f];
    m = rule.b1 * m + rule.a1 * g[f];
    v = rule.b2 * v + rule.a2 * (g[f] * g[f]);
    table[f] -= rule.rate * (m * c[0]) /
                (__builtin_sqrtf(v * c[1]) + rule.eps);
  }
}

INFNERF_INLINE bool row_touched(const float* g) {
  uint32_t bits;
  std::memcpy(&bits, g, 4);
  return bits != UNTOUCHED;
}

// One Adam step of every touched row; leaves the scratch as it was at first.
inline void update_rows(const AdamRule& rule, int64_t rows, float* table,
                        float* moments, int32_t* steps, Scratch* scratch) {
  float* sums = scratch->grad;
  uint8_t* touched = scratch->touched.data();
  constexpr int AHEAD = 32;
  for (int64_t g = 0; g * GROUP < rows; ++g) {
    if (g % 8 == 0) {
      uint64_t any;
      std::memcpy(&any, touched + g, 8);
      uint64_t later;
      std::memcpy(&later, touched + g + AHEAD, 8);
      for (; later != 0; later &= later - 1) {
        const int64_t p = (g + AHEAD + __builtin_ctzll(later) / 8) * GROUP;
        __builtin_prefetch(table + p * F, 1, 3);
        __builtin_prefetch(moments + p * 2 * F, 1, 3);
        __builtin_prefetch(steps + p, 1, 3);
      }
      if (any == 0) {
        g += 7;
        continue;
      }
    }
    if (!touched[g]) continue;
    touched[g] = 0;
    if constexpr (F == 2) {
      static_assert(GROUP == 4);
      const int64_t r = g * GROUP;
      update_four(rule, load<v8f>(sums + r * F), table + r * F,
                  moments + r * 2 * F, steps + r);
      store(sums + r * F, splat<v8f>(-0.0f));
    } else {
      for (int64_t r = g * GROUP; r < (g + 1) * GROUP; ++r) {
        if (!row_touched(sums + r * F)) continue;
        update_row(rule, sums + r * F, table + r * F, moments + r * 2 * F,
                   steps + r);
        for (int f = 0; f < F; ++f) sums[r * F + f] = -0.0f;
      }
    }
  }
}

}  // namespace infnerf

#endif  // INFNERF_ADAM_H_
