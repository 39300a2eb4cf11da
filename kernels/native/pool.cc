#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace {

class Pool {
 public:
  void set_num_threads(int n) {
    std::lock_guard<std::mutex> one_job(job_mutex_);
    num_threads_ = n < 1 ? 1 : n;
  }

  int num_threads() const { return num_threads_; }

  void run(int64_t items, void (*fn)(void*, int64_t, int), void* ctx) {
    // XLA may run independent calls at once; results do not depend on order.
    std::lock_guard<std::mutex> one_job(job_mutex_);
    int helpers = num_threads_ - 1;
    if (items < helpers + 1) helpers = items > 0 ? int(items) - 1 : 0;
    if (helpers <= 0) {
      for (int64_t i = 0; i < items; ++i) fn(ctx, i, 0);
      return;
    }
    if (getpid() != owner_) {  // threads do not survive a fork
      owner_ = getpid();
      spawned_ = 0;
    }
    while (spawned_ < helpers) {
      std::thread(&Pool::work, this, ++spawned_, generation_).detach();
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      fn_ = fn, ctx_ = ctx, items_ = items;
      helpers_ = helpers, busy_ = helpers;
      next_.store(0);
      ++generation_;
    }
    start_.notify_all();
    drain(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return busy_ == 0; });
  }

 private:
  void drain(int worker) {
    for (int64_t i; (i = next_.fetch_add(1)) < items_;) fn_(ctx_, i, worker);
  }

  void work(int worker, uint64_t seen) {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        start_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
        if (worker > helpers_) continue;
      }
      drain(worker);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex job_mutex_, mutex_;
  std::condition_variable start_, done_;
  void (*fn_)(void*, int64_t, int) = nullptr;
  void* ctx_ = nullptr;
  int64_t items_ = 0;
  std::atomic<int64_t> next_{0};
  uint64_t generation_ = 0;
  int helpers_ = 0, busy_ = 0, spawned_ = 0;
  std::atomic<int> num_threads_{1};
  pid_t owner_ = getpid();
};

// Never destroyed: detached threads may outlive static destructors.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

}  // namespace

extern "C" {
void infnerf_parallel(int64_t items, void (*fn)(void*, int64_t, int),
                      void* ctx) {
  pool().run(items, fn, ctx);
}
void infnerf_set_num_threads(int n) { pool().set_num_threads(n); }
int infnerf_num_threads() { return pool().num_threads(); }
}
