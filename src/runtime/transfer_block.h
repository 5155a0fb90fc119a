// Page-locked host memory of a context: small inputs and outputs of a pass lie in it side by side,
// as they do on the device, so that one copy each way serves them all. Copies of ordinary memory
// cost as much as several kernels each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "forebay/status.h"
#include "runtime/device.h"

namespace forebay {

class TransferBlock {
 public:
  TransferBlock() = default;
  ~TransferBlock() { give_back(); }
  TransferBlock(const TransferBlock&) = delete;
  TransferBlock& operator=(const TransferBlock&) = delete;
  // Room for so many bytes; what was there is lost when it grows. The device outlives the block,
  // and nothing is under way.
  Status reserve(Device& device, std::uint64_t bytes);
  std::byte* data() { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  void give_back();

  std::unique_ptr<std::byte, Free> data_;
  std::uint64_t bytes_ = 0;
  Device* locked_by_ = nullptr;  // null: the system refused to lock it, and copies are slower
};

}  // namespace forebay
