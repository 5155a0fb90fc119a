// Page-locked host memory of a context: small inputs and outputs of a pass lie in it side by side,
// as they do on the device, so that one copy each way serves them all. Copies of ordinary memory
// cost as much as several kernels each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

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

// Locks the pages of memory that is another's, for copies at the link's rate. Released before that memory is given back.
class PageLock {
 public:
  static constexpr std::uint64_t kLeast = 256 << 10;  // less travels in a transfer block
  PageLock() = default;
  ~PageLock() { release(); }
  PageLock(const PageLock&) = delete;
  PageLock& operator=(const PageLock&) = delete;
  // What is held already stays so. Where the system refuses, or the device needs no copies, nothing is held.
  void hold(Device& device, std::span<std::byte> memory);
  void release();

 private:
  Device* device_ = nullptr;
  std::span<std::byte> memory_;
};

}  // namespace forebay
