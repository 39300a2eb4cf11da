// Multiresolution hash grid: rows and trilinear weights of a block of samples.
#ifndef INFNERF_GRID_H_
#define INFNERF_GRID_H_

#include <memory>

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
constexpr int GRID_BLOCK = 48;  // samples whose rows are prefetched together

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
  alignas(64) uint32_t row[8][GRID_BLOCK];  // corner bits x, y, z = 1, 2, 4
  alignas(64) float fraction[3][GRID_BLOCK];
};

INFNERF_INLINE vi cell_of(vf scaled, int32_t max_cell) {
  // Truncation: positions are >= 0 inside the box.
  vi c = __builtin_convertvector(scaled, vi);
  const vi zero = {}, top = zero + max_cell;
  c = c > zero ? c : zero;  // NaN converts to INT_MIN: stays in memory
  return c < top ? c : top;
}

// x, y, z: one coordinate a sample, padded to LANES; count <= GRID_BLOCK.
INFNERF_INLINE void grid_rows(const Scale& s, const float* const* axes,
                              int count, GridBlock* out) {
  for (int i = 0; i < count; i += LANES) {
    vu low[3], high[3];
    for (int a = 0; a < 3; ++a) {
      const vf scaled = load(axes[a] + i) * s.resolution;
      const vi cell = cell_of(scaled, s.max_cell);
      store(out->fraction[a] + i, scaled - __builtin_convertvector(cell, vf));
      low[a] = (vu)cell;
    }
    const uint32_t my = s.dense ? s.stride : 2654435761u;
    const uint32_t mz = s.dense ? s.stride * s.stride : 805459861u;
    low[1] *= my, low[2] *= mz;
    high[0] = low[0] + 1, high[1] = low[1] + my, high[2] = low[2] + mz;
    for (int c = 0; c < 8; ++c) {
      const vu x = c & 1 ? high[0] : low[0], y = c & 2 ? high[1] : low[1];
      const vu z = c & 4 ? high[2] : low[2];
      vu row = s.dense ? x + y + z : x ^ y ^ z;
      if (!s.dense) row = s.power_of_two ? row & (s.rows - 1) : row % s.rows;
      std::memcpy(out->row[c] + i, &row, sizeof row);
    }
  }
}

// The eight trilinear weights of samples i .. i + LANES - 1.
INFNERF_INLINE void grid_weights(const GridBlock& b, int i, vf* w) {
  const vf x1 = load(b.fraction[0] + i), x0 = 1.0f - x1;
  const vf y1 = load(b.fraction[1] + i), y0 = 1.0f - y1;
  const vf z1 = load(b.fraction[2] + i), z0 = 1.0f - z1;
  const vf yz[4] = {y0 * z0, y1 * z0, y0 * z1, y1 * z1};
  for (int c = 0; c < 8; ++c) w[c] = (c & 1 ? x1 : x0) * yz[c >> 1];
}

// Repeats the lanes of the lower (half 0) or upper half in pairs.
INFNERF_INLINE vf pairs(vf w, int half) {
#if INFNERF_LANES == 16
  return half ? SHUFFLE(vi, w, w, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
                        14, 14, 15, 15)
              : SHUFFLE(vi, w, w, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7,
                        7);
#else
  return half ? SHUFFLE(vi, w, w, 4, 4, 5, 5, 6, 6, 7, 7)
              : SHUFFLE(vi, w, w, 0, 0, 1, 1, 2, 2, 3, 3);
#endif
}

// LANES / 2 rows of two features.
INFNERF_INLINE vf gather_pairs(const float* table, const uint32_t* row) {
  auto at = [&](int k) { return as_double(table + 2 * size_t(row[k])); };
#if INFNERF_LANES == 16
  return (vf)vd{at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
#else
  return (vf)vd{at(0), at(1), at(2), at(3)};
#endif
}

// out[i * STRIDE + f] = feature f of sample i, i < count.
template <int STRIDE>
INFNERF_INLINE void gather_block(const float* table, const GridBlock& b,
                                 int count, float* out) {
  for (int i = 0; i < count; i += LANES) {
    vf w[8];
    grid_weights(b, i, w);
    const int lanes = count - i < LANES ? count - i : LANES;
    if constexpr (F == 2) {
      vf sum[2] = {};
      for (int c = 0; c < 8; ++c) {
        for (int h = 0; h < 2; ++h) {
          sum[h] += gather_pairs(table, b.row[c] + i + h * (LANES / 2)) *
                    pairs(w[c], h);
        }
      }
      // Not beyond `lanes`: what follows belongs to another thread.
      if (STRIDE == F) {
        std::memcpy(out + 2 * i, sum, lanes == LANES ? sizeof sum : 8 * lanes);
      } else {
        for (int k = 0; k < lanes; ++k) {
          std::memcpy(out + (i + k) * STRIDE, (const char*)sum + 8 * k, 8);
        }
      }
    } else {
      for (int k = 0; k < lanes; ++k) {
        float sum[F] = {};
        for (int c = 0; c < 8; ++c) {
          const float* row = table + size_t(b.row[c][i + k]) * F;
          for (int f = 0; f < F; ++f) sum[f] += w[c][k] * row[f];
        }
        for (int f = 0; f < F; ++f) out[(i + k) * STRIDE + f] = sum[f];
      }
    }
  }
}

// Positions of sorted samples, one array an axis; reading a block past the end
// is allowed.
class Positions {
 public:
  explicit Positions(int64_t count)
      : stride_(count + GRID_BLOCK), data_(new float[3 * stride_]()) {}
  void fill(const float* position, const int32_t* order, int64_t begin,
            int64_t count) {
    float* to = data_.get() + begin;
    for (int64_t i = 0; i < count; ++i) {
      const float* p = position + 3 * int64_t(order[begin + i]);
      for (int a = 0; a < 3; ++a) to[a * stride_ + i] = p[a];
    }
  }
  struct Axes {
    const float* at[3];
  };
  Axes from(int64_t i) const {
    const float* p = data_.get() + i;
    return {{p, p + stride_, p + 2 * stride_}};
  }

 private:
  int64_t stride_;
  std::unique_ptr<float[]> data_;
};

constexpr int SMALL_TABLE = 100 * 1024;  // bytes: beyond, rows are prefetched

// out[i, f]: features at one scale of sorted samples begin .. begin + count.
inline void lookup_scale(const float* table, const Scale& s,
                         const Positions& positions, int64_t begin, int count,
                         float* out) {
  GridBlock blocks[2];
  const bool prefetch = int64_t(s.rows) * F * 4 > SMALL_TABLE;
  auto prepare = [&](int i) {
    const int n = count - i < GRID_BLOCK ? count - i : GRID_BLOCK;
    GridBlock& b = blocks[i / GRID_BLOCK % 2];
    grid_rows(s, positions.from(begin + i).at, n, &b);
    if (!prefetch) return;
    for (int c = 0; c < 8; ++c) {
      for (int j = 0; j < n; ++j) {
        __builtin_prefetch(table + size_t(b.row[c][j]) * F, 0, 3);
      }
    }
  };
  prepare(0);
  for (int i = 0; i < count; i += GRID_BLOCK) {
    if (i + GRID_BLOCK < count) prepare(i + GRID_BLOCK);
    const int n = count - i < GRID_BLOCK ? count - i : GRID_BLOCK;
    gather_block<F>(table, blocks[i / GRID_BLOCK % 2], n, out + int64_t(i) * F);
  }
}

}  // namespace infnerf

#endif  // INFNERF_GRID_H_
