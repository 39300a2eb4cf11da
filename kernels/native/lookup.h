// Lookups of many samples: of all at one grid scale after another, or of a block
// at all scales while something else computes.
#ifndef INFNERF_LOOKUP_H_
#define INFNERF_LOOKUP_H_

#include "grid.h"
#include "pool.h"
#include "sort.h"

namespace infnerf {

constexpr int LOOKUP_CHUNK = 8192;

inline Positions sort_positions(const float* position, const Sorted& sorted) {
  constexpr int64_t PART = 8192;
  const int64_t count = sorted.num_valid();
  Positions out(count);
  parallel((count + PART - 1) / PART, [&](int64_t item, int) {
    const int64_t begin = item * PART;
    out.fill(position, sorted.order.data(), begin,
             std::min(PART, count - begin));
  });
  return out;
}

// features [L, stride, F] in sorted order: one work item a chunk of one slot and
// grid scale.
inline void lookup_sorted(const float* table, int64_t rows,
                          const int64_t* layout, const Sorted& sorted,
                          const Positions& positions, int64_t stride,
                          float* features) {
  const auto chunks = make_chunks(sorted, LOOKUP_CHUNK);
  parallel(int64_t(chunks.size()) * L, [&](int64_t item, int) {
    const Chunk& c = chunks[item / L];
    const int l = int(item % L);
    const Scale s = make_scale(layout, c.slot, l);
    lookup_scale(table + (c.slot * rows + s.offset) * F, s, positions, c.begin,
                 c.count, features + (l * stride + c.begin) * F);
  });
}

// A block of samples of one slot at all grid scales: `locate` its rows, `ask`
// for their memory, a little at a time, while the block before is worked on,
// `drain` what is left to ask for, `gather`.
class BlockLookup {
 public:
  void open(const float* table, const int64_t* layout, int32_t slot) {
    for (int l = 0; l < L; ++l) {
      scales_[l] = make_scale(layout, slot, l);
      tables_[l] = table + scales_[l].offset * F;
    }
  }

  // sample: n <= GRID_BLOCK rows of position [S, 3]; `next` others will follow.
  void locate(const float* position, const int32_t* sample, int n, int next) {
    for (int j = n; j < n + next && j < n + GRID_BLOCK; ++j) {
      __builtin_prefetch(position + 3 * int64_t(sample[j]));
    }
    for (int j = 0; j < n; ++j) {
      const float* p = position + 3 * int64_t(sample[j]);
      for (int a = 0; a < 3; ++a) axes_[a][j] = p[a];
    }
    const float* axes[3] = {axes_[0], axes_[1], axes_[2]};
    for (int l = 0; l < L; ++l) grid_rows(scales_[l], axes, n, &rows_[l]);
    scale_ = place_ = 0;
    skip_small();
  }

  // A short block asks for rows of earlier ones too, which does no harm: what
  // does not exist is not fetched.
  INFNERF_INLINE void ask() {
    if (scale_ == L) return;
    const uint32_t* row = rows_[scale_].row[0] + place_;
    for (int k = 0; k < PORTION; ++k) {
      __builtin_prefetch(tables_[scale_] + size_t(row[k]) * F, 0, 2);
    }
    place_ += PORTION;
    if (place_ < 8 * GRID_BLOCK) return;
    place_ = 0, ++scale_;
    skip_small();
  }
  void drain() {
    while (scale_ < L) ask();
  }

  // Features [n, L * F] of the located samples.
  void gather(int n, float* out) const {
    for (int l = 0; l < L; ++l) {
      gather_block<L * F>(tables_[l], rows_[l], n, out + l * F);
    }
  }

 private:
  // So many at a time end about when a node's layers do.
  static constexpr int PORTION = L > 8 ? 16 : 8;

  void skip_small() {
    while (scale_ < L && int64_t(scales_[scale_].rows) * F * 4 <= SMALL_TABLE) {
      ++scale_;
    }
  }

  Scale scales_[L];
  const float* tables_[L];
  alignas(64) float axes_[3][GRID_BLOCK] = {};
  GridBlock rows_[L] = {};
  int scale_ = L, place_ = 0;
};

}  // namespace infnerf

#endif  // INFNERF_LOOKUP_H_
