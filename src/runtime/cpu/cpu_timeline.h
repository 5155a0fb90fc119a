// A timeline over a mutex and a condition variable. Thread-safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "runtime/device.h"

namespace forebay {

class CpuTimeline final : public Timeline {
 public:
  std::uint64_t value() const override { return value_.load(std::memory_order_acquire); }
  void signal(std::uint64_t value) override;
  void fail(Status status) override;
  Status wait(std::uint64_t value) override { return wait_unless(value, nullptr); }
  void reset() override;
  void set_listener(std::function<void()> listener) override;

  // As wait; `stop` becoming true (followed by poke()) ends it with cancelled.
  Status wait_unless(std::uint64_t value, const std::atomic<bool>* stop);
  void poke();

 private:
  void notify_listener();

  std::atomic<std::uint64_t> value_{0};
  std::mutex mutex_;  // guards failure_, and growth of value_
  std::condition_variable changed_;
  Status failure_;
  std::mutex listener_mutex_;  // held while the listener runs, so that it is never called after set_listener({}) returned
  std::function<void()> listener_;
};

}  // namespace forebay
