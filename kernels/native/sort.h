// Stable counting sort of samples by slot, cut into chunks of one slot each.
#ifndef INFNERF_SORT_H_
#define INFNERF_SORT_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace infnerf {

struct Chunk {
  int32_t slot;
  int32_t count;
  int64_t begin;  // in sorted order
};

struct Sorted {
  std::vector<int32_t> order;  // sorted place -> sample
  std::vector<int64_t> begin;  // slot -> first sorted place; [num_slots + 1]
  int64_t num_valid() const { return order.size(); }
};

// Samples whose slot lies outside [0, num_slots) are left out.
inline Sorted sort_by_slot(const int32_t* slot, int64_t num_samples,
                           int64_t num_slots) {
  Sorted out;
  out.begin.assign(num_slots + 1, 0);
  const uint32_t limit = uint32_t(num_slots);
  for (int64_t i = 0; i < num_samples; ++i) {
    if (uint32_t(slot[i]) < limit) ++out.begin[slot[i] + 1];
  }
  for (int64_t n = 0; n < num_slots; ++n) out.begin[n + 1] += out.begin[n];
  out.order.resize(out.begin[num_slots]);
  std::vector<int64_t> next(out.begin.begin(), out.begin.end() - 1);
  for (int64_t i = 0; i < num_samples; ++i) {
    if (uint32_t(slot[i]) < limit) out.order[next[slot[i]]++] = int32_t(i);
  }
  return out;
}

// Chunk size is fixed: sums are formed per chunk, so it must not depend on the
// number of threads.
inline std::vector<Chunk> make_chunks(const Sorted& sorted, int64_t size) {
  std::vector<Chunk> chunks;
  for (size_t n = 0; n + 1 < sorted.begin.size(); ++n) {
    for (int64_t b = sorted.begin[n]; b < sorted.begin[n + 1]; b += size) {
      const int64_t count = std::min(size, sorted.begin[n + 1] - b);
      chunks.push_back({int32_t(n), int32_t(count), b});
    }
  }
  return chunks;
}

}  // namespace infnerf

#endif  // INFNERF_SORT_H_
