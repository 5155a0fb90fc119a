// The compute pool of the CPU device: a fixed number of threads, parallel loops only. The partition of a loop never depends on timing.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace forebay {

class ThreadPool {
 public:
  // `threads` >= 1, the caller of parallel_for included: threads - 1 workers are made. If the system gives fewer, threads() says so.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  int threads() const;
  // Runs body(context, begin, end) over [0, count) cut in at most threads() ranges of at least `grain`. Blocks until done. Callers on several
  // threads take turns. Allocates nothing. std::bad_alloc from a body comes out here, once every range is done. Not re-entrant from inside a body (a nested call runs serially).
  using Body = void (*)(void* context, std::int64_t begin, std::int64_t end);
  void parallel_for(std::int64_t count, std::int64_t grain, Body body, void* context);
  template <typename F>
  void parallel_for(std::int64_t count, std::int64_t grain, F&& f) {
    parallel_for(
        count, grain, [](void* c, std::int64_t b, std::int64_t e) { (*static_cast<std::remove_reference_t<F>*>(c))(b, e); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace forebay
