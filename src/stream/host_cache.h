// Stored chunks kept in host memory: a fixed set among the streamed ones, filled as they pass by. No eviction: in a cyclic order any fixed
// set does best, and LRU scores nothing. Chunks are copied or decoded from here into the arena, never used in place.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "plan/plan_data.h"
#include "stream/pinned_memory.h"

namespace forebay::stream {

struct CacheFree {
  PinnedPool* pool = nullptr;
  std::uint64_t size = 0;
  void operator()(std::byte* bytes) const {
    if (pool != nullptr) {
      pool->give(bytes, size);
    } else {
      delete[] bytes;
    }
  }
};

// configure and drop: with nothing in flight. find and offer: any thread; a chunk used twice in a pass may be offered twice at once.
class HostCache {
 public:
  // With a pool the chunks lie in page-locked memory, as it becomes there.
  explicit HostCache(std::size_t chunks, PinnedPool* pool = nullptr) : pool_(pool), entries_(chunks) {}
  // The set from now on; what is in both sets stays.
  void configure(std::span<const plan::ChunkId> wanted);
  void drop(plan::ChunkId chunk);
  // The stored bytes, or null while they are not here.
  const std::byte* find(plan::ChunkId chunk) const {
    const Entry& entry = entries_[chunk];
    return entry.filled.load(std::memory_order_acquire) ? entry.bytes.get() : nullptr;
  }
  // Chunks will be offered: their memory may be made.
  void start() {
    if (pool_ != nullptr) pool_->start();
  }
  // Keeps a copy of a wanted chunk (first time only). Does without when the host refuses memory.
  void offer(plan::ChunkId chunk, std::span<const std::byte> stored);
  std::uint64_t held_bytes() const { return held_.load(std::memory_order_relaxed); }

 private:
  struct Entry {
    std::atomic<bool> wanted{false};  // the first offer takes it down
    std::uint64_t size = 0;
    std::unique_ptr<std::byte[], CacheFree> bytes;
    std::atomic<bool> filled{false};
  };
  PinnedPool* const pool_;
  std::vector<Entry> entries_;
  std::atomic<std::uint64_t> held_{0};
};

// The first chunks of `order` from `first` on whose stored bytes fit into `limit`; those with stored_bytes 0 are passed over.
std::vector<plan::ChunkId> choose_cached(std::span<const plan::ChunkId> order, std::size_t first,
                                         std::span<const std::uint64_t> stored_bytes, std::uint64_t limit);

}  // namespace forebay::stream
