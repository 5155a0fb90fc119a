// Copies of loads from host memory to the device: given to one queue as they come, so that they
// follow each other without a gap, and told by a timeline when they are done.
#include <utility>

#include "base/check.h"
#include "stream/read_pipeline.h"

namespace forebay::stream {

namespace {
constexpr std::uint32_t kCopyCommands = 1024;
}

Status ReadPipeline::open_copies(Device& device) {
  tools_ = dynamic_cast<DeviceTools*>(&device);
  FB_ASSIGN(copied_, device.create_timeline());
  FB_ASSIGN(copy_queue_, device.create_queue("copy", kCopyCommands));
  copied_->set_listener([this] { engine_->wake(); });
  return {};
}

// The stage comes first: the copy may be done before this returns.
void ReadPipeline::copy_to_device(LoadSlot& slot) {
  const std::uint64_t bytes = config_.bound->raw_bytes(slot.chunk);
  const std::lock_guard lock(copy_mutex_);
  const std::uint64_t number = ++copies_;
  slot.copy_number = number;
  slot.copy_begun.store(false, std::memory_order_relaxed);
  slot.stage.store(Stage::copying, std::memory_order_release);
  if (trace_.on() && copy_watch_ != nullptr) {
    trace_copy(slot, bytes);
  } else {
    copy_queue_->copy(slot.device, slot.copy_from, bytes);
  }
  // Left out by a queue that has failed.
  copy_queue_->launch(
      [](void* begun) {
        static_cast<std::atomic<bool>*>(begun)->store(true, std::memory_order_release);
        return Status();
      },
      &slot.copy_begun);
  copy_queue_->signal({copied_.get(), number});
}

bool ReadPipeline::settled(LoadSlot& slot) {
  const Stage stage = slot.stage.load(std::memory_order_acquire);
  if (stage == Stage::finished) return true;
  if (stage != Stage::copying || copied_->value() < slot.copy_number) return false;
  if (!slot.copy_begun.load(std::memory_order_acquire)) {
    const std::lock_guard lock(copy_mutex_);
    Status failed = copy_queue_->synchronize();
    copy_queue_->clear_error();
    slot.status = config_.bound->name_failure(
        slot.chunk, failed.ok() ? Status(Code::device_lost, "a copy to the device was dropped")
                                : std::move(failed));
  }
  slot.stage.store(Stage::finished, std::memory_order_relaxed);
  return true;
}

}  // namespace forebay::stream
