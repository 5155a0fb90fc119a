#include "stream/host_cache.h"

#include <cstring>
#include <new>

namespace forebay::stream {

void HostCache::configure(std::span<const plan::ChunkId> wanted) {
  std::vector<bool> keep(entries_.size());
  for (const plan::ChunkId chunk : wanted) keep[chunk] = true;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (!keep[i]) drop(static_cast<plan::ChunkId>(i));
    entries_[i].wanted.store(keep[i] && entries_[i].bytes == nullptr);
  }
}

void HostCache::drop(plan::ChunkId chunk) {
  Entry& entry = entries_[chunk];
  if (entry.bytes == nullptr) return;
  entry.filled.store(false, std::memory_order_release);
  entry.bytes.reset();
  held_.fetch_sub(entry.size, std::memory_order_relaxed);
  entry.size = 0;
}

void HostCache::offer(plan::ChunkId chunk, std::span<const std::byte> stored) {
  Entry& entry = entries_[chunk];
  if (!entry.wanted.load(std::memory_order_relaxed) || !entry.wanted.exchange(false)) return;
  std::byte* memory = pool_ != nullptr ? pool_->take(stored.size()) : new (std::nothrow) std::byte[stored.size()];
  if (memory == nullptr) {
    if (pool_ != nullptr) entry.wanted.store(true);  // the pool grows: the next pass offers it again
    return;
  }
  std::memcpy(memory, stored.data(), stored.size());
  entry.bytes = std::unique_ptr<std::byte[], CacheFree>(memory, CacheFree{pool_, stored.size()});
  entry.size = stored.size();
  held_.fetch_add(entry.size, std::memory_order_relaxed);
  entry.filled.store(true, std::memory_order_release);
}

std::vector<plan::ChunkId> choose_cached(std::span<const plan::ChunkId> order, std::size_t first,
                                         std::span<const std::uint64_t> stored_bytes, std::uint64_t limit) {
  std::vector<plan::ChunkId> chosen;
  std::uint64_t sum = 0;
  for (std::size_t i = first; i < order.size(); ++i) {
    const std::uint64_t bytes = stored_bytes[order[i]];
    if (bytes == 0) continue;
    if (bytes > limit - sum) break;
    sum += bytes;
    chosen.push_back(order[i]);
  }
  return chosen;
}

}  // namespace forebay::stream
