// A few threads that take jobs from one bounded queue: digests, decoding and copies of loads.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "forebay/status.h"

namespace forebay::stream {

class WorkPool {
 public:
  // `worker` is the number of the thread, for scratch of its own.
  using Job = void (*)(void* context, void* item, int worker);
  // Gets by with fewer threads when the system gives fewer; none at all: unavailable.
  static Result<std::unique_ptr<WorkPool>> create(int threads, std::size_t capacity, Job job, void* context);
  ~WorkPool();  // finishes what was submitted
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;
  void submit(void* item);  // never more than `capacity` unfinished; allocates nothing

 private:
  WorkPool(std::size_t capacity, Job job, void* context) : job_(job), context_(context), items_(capacity) {}
  void work(int worker);

  const Job job_;
  void* const context_;
  std::mutex mutex_;  // guards everything below
  std::condition_variable wake_;
  std::vector<void*> items_;
  std::size_t first_ = 0, count_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace forebay::stream
