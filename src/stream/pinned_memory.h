// Page-locked host memory for devices whose arena the host does not address: reads land in it,
// copies to the device leave from it at the speed of the link.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "forebay/logger.h"
#include "runtime/device.h"

namespace forebay::stream {

// One block, faulted by several threads and then locked: the other way round the driver faults it
// alone. Where the system refuses to lock, the block is ordinary memory: copies from it are slower.
class PinnedBlock {
 public:
  static Result<std::unique_ptr<PinnedBlock>> create(Device& device, std::uint64_t bytes,
                                                     Logger& logger);
  ~PinnedBlock();
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  std::byte* data() const { return data_; }
  std::uint64_t bytes() const { return bytes_; }
  bool locked() const { return locked_; }

 private:
  PinnedBlock(Device& device, std::byte* data, std::uint64_t bytes)
      : device_(device), data_(data), bytes_(bytes) {}
  Device& device_;
  std::byte* const data_;
  const std::uint64_t bytes_;
  bool locked_ = false;
};

// Memory of the host cache, grown block by block by a thread of its own, from start() or the first
// take() on: the first pass never waits for it. Thread-safe.
class PinnedPool {
 public:
  PinnedPool(Device& device, Logger& logger) : device_(device), logger_(logger) {}
  ~PinnedPool();  // everything taken has been given back
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;
  void want(std::uint64_t bytes);  // to grow until so much is there
  void start();
  std::byte* take(std::uint64_t bytes);  // null: not there yet
  void give(std::byte* data, std::uint64_t bytes);

 private:
  void start_locked();
  void grow();

  Device& device_;
  Logger& logger_;
  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::vector<std::unique_ptr<PinnedBlock>> blocks_;
  std::map<std::byte*, std::uint64_t> free_;  // extents by address; they merge within a block
  std::uint64_t wanted_ = 0, held_ = 0;
  bool stop_ = false, refused_ = false;
  std::thread thread_;
};

}  // namespace forebay::stream
