// Multiresolution hash grid: rows and trilinear weights of a block of samples.
#ifndef INFNERF_GRID_H_
#define INFNERF_GRID_H_

#include "vec.h"

#ifndef GRID_SCALES
#define GRID_SCALES 16
#endif
#ifndef NUM_FEATURES
#define NUM_FEATURES 2
#endif

namespace infnerf {

constexpr int L = GRID_SCALES;
constexpr int F = NUM_FEATURES;
constexpr int GRID_BLOCK = 64;  // samples whose rows are prefetched together

// One grid scale as one slot sees it (slot 0 has doubled resolutions).
struct Scale {
  float resolution;
  int32_t max_cell;
  uint32_t rows;
  uint32_t stride;  // of a dense index: resolution + 1
  int64_t offset;   // first row of the scale
  bool dense;
  bool power_of_two;
};

// layout: int64 [4][L]: root resolution, other resolution, offset, rows.
inline Scale make_scale(const int64_t* layout, int64_t slot, int l) {
  Scale s;
  const int64_t res = layout[(slot == 0 ? 0 : L) + l];
  s.resolution = float(res);
  s.max_cell = int32_t(res - 1);
  s.offset = layout[2 * L + l];
  s.rows = uint32_t(layout[3 * L + l]);
  s.stride = uint32_t(res + 1);
  // (res + 1)^3 in double: a resolution of 2^21 would overflow int64.
  s.dense = double(res + 1) * double(res + 1) * double(res + 1) <= s.rows;
  s.power_of_two = (s.rows & (s.rows - 1)) == 0;
  return s;
}

struct GridBlock {
  alignas(32) uint32_t row[8][GRID_BLOCK];  // corner bits x, y, z = 1, 2, 4
  alignas(32) float fraction[3][GRID_BLOCK];
};

INFNERF_INLINE v8i cell_of(v8f scaled, int32_t max_cell) {
  v8i c = to_int(scaled);  // truncation: positions are >= 0 inside the box
  const v8i zero = {}, top = zero + max_cell;
  c = c > zero ? c : zero;  // NaN converts to INT_MIN: stays in memory
  return c < top ? c : top;
}

// x, y, z: one coordinate a sample; count <= GRID_BLOCK, arrays padded to 8.
INFNERF_INLINE void grid_rows(const Scale& s, const float* const* axes,
                              int count, GridBlock* out) {
  for (int i = 0; i < count; i += 8) {
    v8u low[3], high[3];
    for (int a = 0; a < 3; ++a) {
      const v8f scaled = load(axes[a] + i) * s.resolution;
      const v8i cell = cell_of(scaled, s.max_cell);
      store(out->fraction[a] + i, scaled - to_float(cell));
      low[a] = (v8u)cell;
    }
    const uint32_t my = s.dense ? s.stride : 2654435761u;
    const uint32_t mz = s.dense ? s.stride * s.stride : 805459861u;
    low[1] *= my, low[2] *= mz;
    high[0] = low[0] + 1, high[1] = low[1] + my, high[2] = low[2] + mz;
    for (int c = 0; c < 8; ++c) {
      const v8u x = c & 1 ? high[0] : low[0], y = c & 2 ? high[1] : low[1];
      const v8u z = c & 4 ? high[2] : low[2];
      v8u row = s.dense ? x + y + z : x ^ y ^ z;
      if (!s.dense) row = s.power_of_two ? row & (s.rows - 1) : row % s.rows;
      std::memcpy(out->row[c] + i, &row, sizeof row);
    }
  }
}

// The eight trilinear weights of samples i .. i+7.
INFNERF_INLINE void grid_weights(const GridBlock& b, int i, v8f* w) {
  const v8f x1 = load(b.fraction[0] + i), x0 = 1.0f - x1;
  const v8f y1 = load(b.fraction[1] + i), y0 = 1.0f - y1;
  const v8f z1 = load(b.fraction[2] + i), z0 = 1.0f - z1;
  const v8f yz[4] = {y0 * z0, y1 * z0, y0 * z1, y1 * z1};
  for (int c = 0; c < 8; ++c) w[c] = (c & 1 ? x1 : x0) * yz[c >> 1];
}

// Repeats lanes 0..3 (half 0) or 4..7 (half 1) in pairs.
INFNERF_INLINE v8f pairs(v8f w, int half) {
  return half ? __builtin_shuffle(w, v8i{4, 4, 5, 5, 6, 6, 7, 7})
              : __builtin_shuffle(w, v8i{0, 0, 1, 1, 2, 2, 3, 3});
}

typedef double v4d __attribute__((vector_size(32)));

INFNERF_INLINE double as_double(const float* p) {
  double d;  // two features moved as one 64-bit word
  std::memcpy(&d, p, sizeof d);
  return d;
}

// out[i * out_stride + f] = features of sample i, i < count.
INFNERF_INLINE void gather_block(const float* table, const GridBlock& b,
                                 int count, float* out, int64_t out_stride) {
  for (int i = 0; i < count; i += 8) {
    v8f w[8];
    grid_weights(b, i, w);
    const int lanes = count - i < 8 ? count - i : 8;
    if constexpr (F == 2) {
      v8f sum[2] = {};
      for (int c = 0; c < 8; ++c) {
        const uint32_t* r = b.row[c] + i;
        for (int h = 0; h < 2; ++h) {
          const v4d rows = {as_double(table + 2 * size_t(r[4 * h])),
                            as_double(table + 2 * size_t(r[4 * h + 1])),
                            as_double(table + 2 * size_t(r[4 * h + 2])),
                            as_double(table + 2 * size_t(r[4 * h + 3]))};
          sum[h] += (v8f)rows * pairs(w[c], h);
        }
      }
      float flat[16];
      store(flat, sum[0]), store(flat + 8, sum[1]);
      for (int k = 0; k < lanes; ++k) {
        std::memcpy(out + (i + k) * out_stride, flat + 2 * k, 8);
      }
    } else {
      for (int k = 0; k < lanes; ++k) {
        float sum[F] = {};
        for (int c = 0; c < 8; ++c) {
          const float* row = table + size_t(b.row[c][i + k]) * F;
          for (int f = 0; f < F; ++f) sum[f] += w[c][k] * row[f];
        }
        for (int f = 0; f < F; ++f) out[(i + k) * out_stride + f] = sum[f];
      }
    }
  }
}

// Positions of sorted samples, one array an axis, padded to whole blocks.
template <int CAPACITY>
struct Axes {
  alignas(32) float data[3][CAPACITY + GRID_BLOCK];
  void fill(const float* position, const int32_t* order, int count) {
    for (int i = 0; i < count; ++i) {
      const float* p = position + 3 * size_t(order[i]);
      for (int a = 0; a < 3; ++a) data[a][i] = p[a];
    }
    for (int i = count; i < ((count + 7) & ~7); ++i) {
      for (int a = 0; a < 3; ++a) data[a][i] = 0.0f;
    }
  }
};

// Features of one chunk, scale by scale so that a scale's rows stay in cache.
// out[i * out_stride + l * scale_stride + f].
template <int CAPACITY>
void lookup_chunk(const float* slot_table, const int64_t* layout, int64_t slot,
                  const Axes<CAPACITY>& axes, int count, float* out,
                  int64_t out_stride, int64_t scale_stride) {
  GridBlock blocks[2];
  for (int l = 0; l < L; ++l) {
    const Scale s = make_scale(layout, slot, l);
    const float* table = slot_table + s.offset * F;
    const bool prefetch = int64_t(s.rows) * F * 4 > 100 * 1024;
    auto prepare = [&](int begin) {
      const float* at[3] = {axes.data[0] + begin, axes.data[1] + begin,
                            axes.data[2] + begin};
      const int n = count - begin < GRID_BLOCK ? count - begin : GRID_BLOCK;
      GridBlock& b = blocks[begin / GRID_BLOCK % 2];
      grid_rows(s, at, n, &b);
      if (!prefetch) return;
      for (int c = 0; c < 8; ++c) {
        for (int i = 0; i < n; ++i) {
          __builtin_prefetch(table + size_t(b.row[c][i]) * F, 0, 3);
        }
      }
    };
    prepare(0);
    for (int i = 0; i < count; i += GRID_BLOCK) {
      if (i + GRID_BLOCK < count) prepare(i + GRID_BLOCK);
      const int n = count - i < GRID_BLOCK ? count - i : GRID_BLOCK;
      gather_block(table, blocks[i / GRID_BLOCK % 2], n,
                   out + i * out_stride + l * scale_stride, out_stride);
    }
  }
}

}  // namespace infnerf

#endif  // INFNERF_GRID_H_
