#include "runtime/cpu/cpu_timeline.h"

#include <utility>

namespace forebay {

void CpuTimeline::signal(std::uint64_t value) {
  {
    std::lock_guard lock(mutex_);
    if (value <= value_.load(std::memory_order_relaxed)) return;
    value_.store(value, std::memory_order_release);
    changed_.notify_all();  // under the lock: a waiter that saw the value may destroy the timeline once it has the lock
  }
  notify_listener();
}

void CpuTimeline::fail(Status status) {
  {
    std::lock_guard lock(mutex_);
    if (!failure_.ok()) return;
    failure_ = std::move(status);
    changed_.notify_all();
  }
  notify_listener();
}

void CpuTimeline::reset() {
  std::lock_guard lock(mutex_);
  failure_ = Status();
}

void CpuTimeline::set_listener(std::function<void()> listener) {
  std::lock_guard lock(listener_mutex_);
  listener_ = std::move(listener);
}

void CpuTimeline::notify_listener() {
  std::lock_guard lock(listener_mutex_);
  if (listener_) listener_();
}

void CpuTimeline::poke() {
  std::lock_guard lock(mutex_);
  changed_.notify_all();
}

Status CpuTimeline::wait_unless(std::uint64_t value, const std::atomic<bool>* stop) {
  if (value_.load(std::memory_order_acquire) >= value) return {};
  std::unique_lock lock(mutex_);
  for (;;) {
    if (value_.load(std::memory_order_relaxed) >= value) return {};
    if (!failure_.ok()) return failure_;
    if (stop != nullptr && stop->load(std::memory_order_acquire)) return Status(Code::cancelled, "the queue is being destroyed");
    changed_.wait(lock);
  }
}

}  // namespace forebay
