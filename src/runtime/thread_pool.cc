#include "runtime/thread_pool.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace forebay {
namespace {

constexpr int kMaxThreads = 1024;
// A worker looks this often before it sleeps: kernels of one pass follow each other within microseconds.
constexpr int kSpins = 2000;

// Which pool's body this thread is in: a nested call must run serially, or the thread would wait for itself.
thread_local const void* inside_pool = nullptr;

// The ticket: job number (32 bits), ranges of the job (16), ranges taken (16). Taking a range is one compare-exchange, so a worker that
// wakes late can never take a range of a job it has not seen published.
constexpr std::uint64_t kTaken = 0xffff;
constexpr std::uint64_t ranges_of(std::uint64_t ticket) { return (ticket >> 16) & 0xffff; }
constexpr std::uint64_t taken_of(std::uint64_t ticket) { return ticket & kTaken; }

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex turn;  // callers on several threads take turns

  std::atomic<std::uint64_t> ticket{0};
  std::atomic<int> unfinished{0};
  std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stop{false};
  std::atomic<bool> out_of_memory{false};  // of the job; read by its caller when unfinished is 0
  std::mutex mutex;  // of the two condition variables only
  std::condition_variable wake, done;

  // Written before the ticket is published, stable until `unfinished` is 0.
  Body body = nullptr;
  void* context = nullptr;
  std::int64_t count = 0;

  // Takes and runs one range of the job now published; false when none is left.
  bool run_one() {
    std::uint64_t seen = ticket.load(std::memory_order_acquire);
    do {
      if (taken_of(seen) >= ranges_of(seen)) return false;
    } while (!ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire));
    const auto ranges = static_cast<__int128>(ranges_of(seen));
    const auto index = static_cast<__int128>(taken_of(seen));
    const auto begin = static_cast<std::int64_t>(count * index / ranges);
    const auto end = static_cast<std::int64_t>(count * (index + 1) / ranges);
    const void* outer = inside_pool;
    inside_pool = this;
    try {
      body(context, begin, end);
    } catch (const std::bad_alloc&) {
      out_of_memory.store(true, std::memory_order_relaxed);
    }
    inside_pool = outer;
    if (unfinished.fetch_sub(1, std::memory_order_seq_cst) == 1 && caller_sleeps.load(std::memory_order_seq_cst)) {
      const std::lock_guard lock(mutex);
      done.notify_all();
    }
    return true;
  }

  bool work_waits() const {
    const std::uint64_t seen = ticket.load(std::memory_order_seq_cst);
    return taken_of(seen) < ranges_of(seen) || stop.load(std::memory_order_seq_cst);
  }

  void worker() {
    while (true) {
      for (int spin = 0; spin < kSpins && !work_waits(); ++spin) _mm_pause();
      if (!work_waits()) {
        std::unique_lock lock(mutex);
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        wake.wait(lock, [this] { return work_waits(); });
        sleepers.fetch_sub(1, std::memory_order_seq_cst);
      }
      if (stop.load(std::memory_order_acquire)) return;
      while (run_one()) {
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  const int wanted = std::clamp(threads, 1, kMaxThreads) - 1;
  state_->workers.reserve(static_cast<std::size_t>(wanted));
  for (int i = 0; i < wanted; ++i) {
    try {
      state_->workers.emplace_back([state = state_.get()] { state->worker(); });
    } catch (const std::system_error&) {
      break;  // the system gives no more threads: threads() tells
    }
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_seq_cst);
  {
    const std::lock_guard lock(state_->mutex);
    state_->wake.notify_all();
  }
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::parallel_for(std::int64_t count, std::int64_t grain, Body body, void* context) {
  if (count <= 0) return;
  const std::int64_t by_grain = count / std::max<std::int64_t>(grain, 1);
  const std::int64_t ranges = std::clamp<std::int64_t>(by_grain, 1, threads());
  State& state = *state_;
  if (ranges == 1 || inside_pool == &state) {
    body(context, 0, count);
    return;
  }
  const std::lock_guard turn(state.turn);
  state.body = body;
  state.context = context;
  state.count = count;
  state.unfinished.store(static_cast<int>(ranges), std::memory_order_relaxed);
  const std::uint64_t job = (state.ticket.load(std::memory_order_relaxed) >> 32) + 1;
  state.ticket.store((job << 32) | (static_cast<std::uint64_t>(ranges) << 16), std::memory_order_seq_cst);
  if (state.sleepers.load(std::memory_order_seq_cst) > 0) {
    const std::lock_guard lock(state.mutex);
    state.wake.notify_all();
  }
  while (state.run_one()) {
  }
  for (int spin = 0; spin < kSpins && state.unfinished.load(std::memory_order_acquire) != 0; ++spin) _mm_pause();
  if (state.unfinished.load(std::memory_order_acquire) != 0) {
    std::unique_lock lock(state.mutex);
    state.caller_sleeps.store(true, std::memory_order_seq_cst);
    state.done.wait(lock, [&state] { return state.unfinished.load(std::memory_order_seq_cst) == 0; });
    state.caller_sleeps.store(false, std::memory_order_seq_cst);
  }
  if (state.out_of_memory.exchange(false, std::memory_order_relaxed)) throw std::bad_alloc();
}

}  // namespace forebay
