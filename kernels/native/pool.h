// One thread pool for all native libraries (defined in pool.cc, which is
// loaded first with global symbols).
#ifndef INFNERF_POOL_H_
#define INFNERF_POOL_H_

#include <cstdint>

extern "C" {
// Calls fn(ctx, item, worker) for every item in [0, items), each exactly once,
// worker in [0, infnerf_num_threads()). Jobs never overlap.
void infnerf_parallel(int64_t items, void (*fn)(void*, int64_t, int),
                      void* ctx);
void infnerf_set_num_threads(int n);
int infnerf_num_threads();
}

namespace infnerf {

template <typename Fn>
void parallel(int64_t items, Fn&& fn) {
  infnerf_parallel(
      items,
      [](void* ctx, int64_t item, int worker) {
        (*static_cast<Fn*>(ctx))(item, worker);
      },
      &fn);
}

}  // namespace infnerf

#endif  // INFNERF_POOL_H_
