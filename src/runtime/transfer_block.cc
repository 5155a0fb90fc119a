#include "runtime/transfer_block.h"

#include <cstdlib>
#include <string>

#include "base/checked.h"

namespace forebay {
namespace {

constexpr std::uint64_t kPage = 4096;

}  // namespace

void TransferBlock::Free::operator()(std::byte* data) const {
  std::free(data);
}

Status TransferBlock::reserve(Device& device, std::uint64_t bytes) {
  if (bytes <= bytes_) return {};
  give_back();
  const std::uint64_t rounded = align_up(bytes, kPage);
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kPage, rounded)));
  if (data_ == nullptr)
    return Status(Code::out_of_memory,
                  "the host refused " + std::to_string(rounded) + " bytes for inputs and outputs");
  bytes_ = rounded;
  if (device.register_host({data_.get(), static_cast<std::size_t>(rounded)}).ok())
    locked_by_ = &device;
  return {};
}

void TransferBlock::give_back() {
  if (locked_by_ != nullptr)
    locked_by_->unregister_host({data_.get(), static_cast<std::size_t>(bytes_)});
  locked_by_ = nullptr;
  data_.reset();
  bytes_ = 0;
}

void PageLock::hold(Device& device, std::span<std::byte> memory) {
  if (memory.size() < kLeast || device.info().arena_host_addressable) return;
  if (device_ != nullptr && memory_.data() == memory.data() && memory_.size() == memory.size()) return;
  release();
  if (!device.register_host(memory).ok()) return;
  device_ = &device;
  memory_ = memory;
}

void PageLock::release() {
  if (device_ != nullptr) device_->unregister_host(memory_);
  device_ = nullptr;
}

}  // namespace forebay
