// The executor's and the control thread's side of the pipeline, and the pool's work on what was read.
#include <chrono>
#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "stream/read_pipeline.h"

namespace forebay::stream {

void ReadPipeline::work(void* self, void* item, int worker) {
  auto* pipeline = static_cast<ReadPipeline*>(self);
  auto& slot = *static_cast<LoadSlot*>(item);
  slot.copy_from = nullptr;
  try {
    slot.status = pipeline->process(slot, worker);
  } catch (const std::bad_alloc&) {
    slot.status = Status(Code::out_of_memory, "the host refused memory to decode a chunk");
  }
  // A copy to the device finishes the load when it is done, and wakes then.
  if (slot.status.ok() && slot.copy_from != nullptr) return pipeline->copy_to_device(slot);
  slot.stage.store(Stage::finished, std::memory_order_release);
  pipeline->engine_->wake();
}

Status ReadPipeline::process(LoadSlot& slot, int worker) {
  BoundGeneration& bound = *config_.bound;
  const plan::ChunkBinding& binding = bound.binding(slot.chunk);
  const ChunkSource& source = bound.source(slot.chunk);
  const std::uint64_t raw_bytes = bound.raw_bytes(slot.chunk);
  if (source.file == nullptr) {
    if (slot.device == nullptr) stats_.link_bytes.fetch_add(raw_bytes, std::memory_order_relaxed);
    deliver(slot, binding.host->data(), raw_bytes);
    return {};
  }
  std::span<const std::byte> stored(slot.cached, binding.stored_bytes);
  if (slot.cached == nullptr) {
    stored = {slot.read_to + source.lead, static_cast<std::size_t>(binding.stored_bytes)};
    stats_.disk_bytes.fetch_add(binding.stored_bytes, std::memory_order_relaxed);
    Xxh128 digest;
    if (slot.page_cached) {
      FB_ASSIGN(digest, read_page_cache(slot, scratch_[static_cast<std::size_t>(worker)].digest));
    } else {
      digest = xxh128(stored);
    }
    FB_TRY(bound.check_arrival(slot.chunk, stored, digest));
    if (!slot.fill && !(slot.page_cached && slot.first_pass)) cache_.offer(slot.chunk, stored);
  } else {
    if (slot.device == nullptr) stats_.link_bytes.fetch_add(binding.stored_bytes, std::memory_order_relaxed);
  }
  if (source.coded) {
    const std::int64_t begin = now_ns();
    codec::ChunkCodec& codec = scratch_[static_cast<std::size_t>(worker)].codec;
    Status decoded = codec.decode(static_cast<std::uint8_t>(binding.codec), binding.codec_version, stored,
                                  {slot.raw, static_cast<std::size_t>(raw_bytes)});
    if (!decoded.ok()) return bound.name_failure(slot.chunk, std::move(decoded));
    trace(TraceSpan::Lane::decode, slot, begin, raw_bytes);
    deliver(slot, slot.raw, raw_bytes);
  } else {
    deliver(slot, stored.data(), raw_bytes);
  }
  return {};
}

// The raw bytes to where kernels read them.
void ReadPipeline::deliver(LoadSlot& slot, const std::byte* from, std::uint64_t bytes) {
  if (bytes == 0) return;
  if (slot.device != nullptr) {
    stats_.link_bytes.fetch_add(bytes, std::memory_order_relaxed);
    slot.copy_from = from;
  } else if (from != slot.raw) {
    const std::int64_t begin = now_ns();
    std::memmove(slot.raw, from, bytes);
    trace(TraceSpan::Lane::link, slot, begin, bytes);
  }
}

std::string ReadPipeline::engine_name() const { return on_threads_.load() ? "threads" : "uring"; }

bool ReadPipeline::halted() const {
  std::lock_guard lock(mutex_);
  return halted_;
}

bool ReadPipeline::filled(plan::ChunkId chunk) const {
  std::lock_guard lock(mutex_);
  return fills_[chunk] == Fill::filled;
}

void ReadPipeline::forget(plan::ChunkId chunk) {
  std::lock_guard lock(mutex_);
  fills_[chunk] = Fill::none;
}

void ReadPipeline::cancel() {
  std::lock_guard lock(mutex_);
  if (!halted_) {
    halted_ = true;
    failure_ = Status(Code::cancelled, "the weight source was shut down");
  }
  if (failed_) return;
  failed_ = true;
  ready_.fail(failure_);
}

void ReadPipeline::quiesce(const std::function<void(PipelineConfig&, IoEngine&)>& change) {
  std::unique_lock lock(mutex_);
  FB_CHECK(command_ == nullptr && !stop_);
  command_ = &change;
  engine_->wake();
  changed_.wait(lock, [&] { return command_ == nullptr; });
}

Walk ReadPipeline::push_walk(std::uint32_t segment) {
  const SegmentSchedule& schedule = config_.schedule.segments[segment];
  Walk walk;
  walk.segment = segment;
  walk.load_base = next_sequence_;
  walk.step_base = next_step_;
  next_sequence_ += schedule.loads.size();
  next_step_ += schedule.step_count;
  walks_[walk_end_++ % kWalks] = walk;
  return walk;
}

Walk ReadPipeline::enter_segment(std::uint32_t segment) {
  std::unique_lock lock(mutex_);
  Walk walk;
  if (unclaimed_) {
    unclaimed_ = false;
    walk = walks_[(walk_end_ - 1) % kWalks];
  } else {
    // Room for another walk comes as reads go on; they never wait for the caller here, whose earlier steps are all released.
    changed_.wait(lock, [&] { return walk_end_ - walk_first_ < kWalks || halted_; });
    if (walk_end_ - walk_first_ == kWalks) walk_first_ = walk_end_ - 1;  // halted: nothing of them is read any more
    walk = push_walk(segment);
  }
  started_ = true;
  claimed_loads_ = walk.load_base + config_.schedule.segments[segment].loads.size();
  claimed_steps_ = walk.step_base + config_.schedule.segments[segment].step_count;
  if (halted_ && !failed_) {
    failed_ = true;
    ready_.fail(failure_);
  }
  engine_->wake();
  return walk;
}

ChunkAddress ReadPipeline::address(const Walk& walk, std::uint32_t use) const {
  const SegmentSchedule& schedule = config_.schedule.segments[walk.segment];
  const std::uint32_t index = schedule.use_load[use - schedule.first_use];
  ChunkAddress address;
  if (index == kResidentUse) return address;
  const Load& load = schedule.loads[index];
  address.data = load.fill ? config_.resident[load.chunk] : config_.ring + load.raw_offset + config_.bound->source(load.chunk).shift;
  address.ready = TimelinePoint{&ready_, walk.load_base + index + 1};
  return address;
}

void ReadPipeline::acquired(std::uint64_t step) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  std::lock_guard lock(mutex_);
  acquired_step_ = step + 1;
  acquired_ns_ = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

void ReadPipeline::released(std::uint64_t step, TimelinePoint done) {
  std::unique_lock lock(mutex_);
  if (done.timeline != nullptr && done.timeline != step_timeline_) {
    step_timeline_ = done.timeline;
    step_timeline_->set_listener([this] {
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      last_done_ns_.store(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count(), std::memory_order_relaxed);
      if (gate_blocked_.exchange(false)) engine_->wake();
    });
  }
  update_done();
  while (step >= released_step_ && step - done_step_ >= step_values_.size()) {
    // Far more steps enqueued than any program has: wait for the oldest.
    const std::uint64_t oldest = step_values_[done_step_ % step_values_.size()];
    Timeline* timeline = step_timeline_;
    lock.unlock();
    const Status waited = timeline == nullptr ? Status() : timeline->wait(oldest);
    lock.lock();
    if (!waited.ok()) return;  // the pass fails
    update_done();
  }
  // Steps without a release of their own (none is expected) are done when the next one is.
  for (; released_step_ <= step; ++released_step_) step_values_[released_step_ % step_values_.size()] = done.value;
  if (gate_blocked_.exchange(false)) engine_->wake();
}

void ReadPipeline::update_done() {
  if (done_step_ == released_step_) return;
  const std::uint64_t reached = step_timeline_ == nullptr ? ~0ull : step_timeline_->value();
  while (done_step_ < released_step_ && step_values_[done_step_ % step_values_.size()] <= reached) ++done_step_;
}

void ReadPipeline::finish_pass(bool failed) {
  std::unique_lock lock(mutex_);
  Timeline* timeline = std::exchange(step_timeline_, nullptr);
  done_step_ = released_step_ = claimed_steps_;
  passed_ = passed_ || !failed;
  if (failed && !halted_) {
    halted_ = true;
    failure_ = Status(Code::cancelled, "the pass failed");
  }
  if (failed && !failed_) {
    failed_ = true;
    ready_.fail(failure_);  // whoever still waits
  }
  engine_->wake();
  lock.unlock();
  if (timeline != nullptr) timeline->set_listener({});
}

}  // namespace forebay::stream
