// What happened when, on one clock: spans of the lanes disk, decode, link and compute.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace forebay {

struct TraceSpan {
  enum class Lane : std::uint8_t { disk, decode, link, compute };
  Lane lane = Lane::compute;
  std::uint32_t subject = 0;              // a chunk; of compute, a place in the profile's ops
  std::int64_t begin_ns = 0, end_ns = 0;  // of steady_clock
  std::uint64_t bytes = 0;
};

class TraceLog {  // thread-safe
 public:
  bool on() const { return on_.load(std::memory_order_relaxed); }
  void start() {
    const std::lock_guard lock(mutex_);
    spans_.clear();
    on_.store(true);
  }
  void add(const TraceSpan& span) {
    const std::lock_guard lock(mutex_);
    if (on_.load()) spans_.push_back(span);
  }
  std::vector<TraceSpan> stop() {
    const std::lock_guard lock(mutex_);
    on_.store(false);
    return std::move(spans_);
  }

 private:
  std::atomic<bool> on_{false};
  std::mutex mutex_;  // guards spans_
  std::vector<TraceSpan> spans_;
};

}  // namespace forebay
