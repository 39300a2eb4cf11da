// Large pages for large tables: rows at random miss the TLB of 4 KB pages.
#ifndef INFNERF_PAGES_H_
#define INFNERF_PAGES_H_

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace infnerf {

// Asks the kernel once for 2 MB pages under an array; what it cannot do stays
// as it is. Arrays that are updated in place keep their address.
inline void use_large_pages(const void* array, size_t bytes) {
#ifdef __linux__
  constexpr uintptr_t PAGE = uintptr_t(2) << 20;
  constexpr int COLLAPSE = 25;  // MADV_COLLAPSE of Linux 6.1
  if (bytes < 8 * PAGE) return;
  struct Seen {
    uintptr_t array;
    size_t bytes;
  };
  static std::mutex mutex;
  static std::array<Seen, 16> seen = {};
  static size_t next = 0;
  const uintptr_t start = reinterpret_cast<uintptr_t>(array);
  std::lock_guard<std::mutex> lock(mutex);
  for (const Seen& s : seen) {
    if (s.array == start && s.bytes == bytes) return;
  }
  seen[next++ % seen.size()] = {start, bytes};
  const uintptr_t begin = (start + PAGE - 1) / PAGE * PAGE;
  const uintptr_t end = (start + bytes) / PAGE * PAGE;
  madvise(reinterpret_cast<void*>(begin), end - begin, COLLAPSE);
#endif
}

}  // namespace infnerf

#endif  // INFNERF_PAGES_H_
