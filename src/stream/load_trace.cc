// When loads are read, decoded and copied. Copies to a device are timed by marks around them, read when the trace is taken.
#include <chrono>

#include "stream/read_pipeline.h"

namespace forebay::stream {

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of a load that was begun before the trace there is no begin.
void ReadPipeline::trace(TraceSpan::Lane lane, const LoadSlot& slot, std::int64_t begin_ns, std::uint64_t bytes) {
  if (trace_.on() && begin_ns != 0) trace_.add({lane, slot.chunk, begin_ns, now_ns(), bytes});
}

void ReadPipeline::start_trace() {
  const std::lock_guard lock(copy_mutex_);
  traced_copies_.clear();
  if (tools_ != nullptr && copy_watch_ == nullptr) {
    auto watch = tools_->create_stopwatch();
    if (watch.ok()) copy_watch_ = std::move(watch).value();
  }
  if (copy_watch_ != nullptr && !copy_watch_->reset().ok()) return;
  trace_.start();
}

std::vector<TraceSpan> ReadPipeline::stop_trace() {
  std::vector<TraceSpan> spans = trace_.stop();
  const std::lock_guard lock(copy_mutex_);
  for (const TracedCopy& copy : traced_copies_) {
    const auto begin = copy_watch_->read(copy.mark), end = copy_watch_->read(copy.mark + 1);
    if (begin.ok() && end.ok()) spans.push_back({TraceSpan::Lane::link, copy.chunk, *begin, *end, copy.bytes});
  }
  traced_copies_.clear();
  return spans;
}

// copy_mutex_ held; in place of the plain copy.
void ReadPipeline::trace_copy(LoadSlot& slot, std::uint64_t bytes) {
  slot.pipeline = this;
  slot.copy_mark = next_mark_;
  next_mark_ += 2;
  traced_copies_.push_back({slot.chunk, slot.copy_mark, bytes});
  copy_queue_->launch([](void* s) { return static_cast<LoadSlot*>(s)->pipeline->copy_watch_->mark(static_cast<LoadSlot*>(s)->copy_mark); },
                      &slot);
  copy_queue_->copy(slot.device, slot.copy_from, bytes);
  copy_queue_->launch(
      [](void* s) { return static_cast<LoadSlot*>(s)->pipeline->copy_watch_->mark(static_cast<LoadSlot*>(s)->copy_mark + 1); }, &slot);
}

}  // namespace forebay::stream
