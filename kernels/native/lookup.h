// Features of all samples: one work item a chunk of one slot and grid scale, so
// that a scale's rows stay in a core's cache.
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

// features [L, stride, F] in sorted order.
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

}  // namespace infnerf

#endif  // INFNERF_LOOKUP_H_
