#include "stream/pinned_memory.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/checked.h"

namespace forebay::stream {
namespace {

constexpr std::uint64_t kBlock = 512ull << 20;
constexpr int kFaultThreads = 4;
constexpr std::uint64_t kHugePage = 2ull << 20;

std::uint64_t slot_bytes(std::uint64_t bytes) {
  return align_up(std::max<std::uint64_t>(bytes, 1), kBlockBytes);
}

void fault(std::byte* data, std::uint64_t bytes) {
  for (std::uint64_t at = 0; at < bytes; at += kBlockBytes)
    *reinterpret_cast<volatile std::byte*>(data + at) = std::byte{0};
}

}  // namespace

Result<std::unique_ptr<PinnedBlock>> PinnedBlock::create(Device& device, std::uint64_t bytes,
                                                         Logger& logger) {
  const std::uint64_t rounded = align_up(std::max<std::uint64_t>(bytes, 1), kHugePage);
  void* const memory =
      mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return Status(Code::out_of_memory, "no " + std::to_string(rounded) +
                                           " bytes of host memory: " + std::strerror(errno));
  auto* const data = static_cast<std::byte*>(memory);
  static_cast<void>(madvise(memory, rounded, MADV_HUGEPAGE));
  std::unique_ptr<PinnedBlock> block(new PinnedBlock(device, data, rounded));
  std::vector<std::thread> threads;
  const std::uint64_t share = align_up(rounded / kFaultThreads, kHugePage);
  std::uint64_t at = 0;
  try {
    for (; at + share < rounded; at += share) threads.emplace_back(fault, data + at, share);
  } catch (const std::system_error&) {
    // Fewer threads: this one does what is left.
  }
  fault(data + at, rounded - at);
  for (std::thread& thread : threads) thread.join();
  const Status locked = device.register_host({data, static_cast<std::size_t>(rounded)});
  block->locked_ = locked.ok();
  if (!locked.ok())
    logger.log(LogLevel::warning, "page_lock=off why=\"" + locked.message() +
                                      "\" effect=\"slower copies to the device\"");
  return block;
}

PinnedBlock::~PinnedBlock() {
  if (locked_) device_.unregister_host({data_, static_cast<std::size_t>(bytes_)});
  munmap(data_, bytes_);
}

PinnedPool::~PinnedPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void PinnedPool::want(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  wanted_ = std::max(wanted_, bytes);
  changed_.notify_all();
}

void PinnedPool::start() {
  const std::lock_guard lock(mutex_);
  start_locked();
}

void PinnedPool::start_locked() {
  if (thread_.joinable() || wanted_ == 0 || refused_) return;
  try {
    thread_ = std::thread([this] { grow(); });
    pthread_setname_np(thread_.native_handle(), "fb-pin");
  } catch (const std::system_error& error) {
    logger_.log(LogLevel::warning,
                std::string("host_cache=off why=\"no thread for it: ") + error.what() + "\"");
    refused_ = true;
  }
}

void PinnedPool::grow() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || (held_ < wanted_ && !refused_); });
    if (stop_) return;
    const std::uint64_t bytes = std::min(kBlock, align_up(wanted_ - held_, kHugePage));
    lock.unlock();
    auto block = PinnedBlock::create(device_, bytes, logger_);
    lock.lock();
    if (!block.ok()) {
      logger_.log(LogLevel::warning, "host_cache_bytes=" + std::to_string(held_) + " why=\"" +
                                         block.status().message() + "\"");
      refused_ = true;
      continue;
    }
    held_ += (*block)->bytes();
    free_.emplace((*block)->data(), (*block)->bytes());
    blocks_.push_back(std::move(block).value());
  }
}

std::byte* PinnedPool::take(std::uint64_t bytes) {
  const std::uint64_t size = slot_bytes(bytes);
  const std::lock_guard lock(mutex_);
  start_locked();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < size) continue;
    std::byte* const data = it->first;
    const std::uint64_t rest = it->second - size;
    free_.erase(it);
    if (rest > 0) free_.emplace(data + size, rest);
    return data;
  }
  // What is left at the ends of blocks is too small for this one: a little more is needed than the
  // sum.
  if (held_ >= wanted_ && !refused_) {
    wanted_ = held_ + size;
    changed_.notify_all();
  }
  return nullptr;
}

void PinnedPool::give(std::byte* data, std::uint64_t bytes) {
  std::uint64_t size = slot_bytes(bytes);
  const std::lock_guard lock(mutex_);
  const auto next = free_.lower_bound(data);
  const auto starts_block = [&](const std::byte* at) {
    return std::any_of(blocks_.begin(), blocks_.end(),
                       [&](const auto& block) { return block->data() == at; });
  };
  if (next != free_.end() && data + size == next->first && !starts_block(next->first)) {
    size += next->second;
    free_.erase(next);
  }
  const auto after = free_.lower_bound(data);
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == data && !starts_block(data)) {
      before->second += size;
      return;
    }
  }
  free_.emplace(data, size);
}

}  // namespace forebay::stream
