// Rows of gather-only weights, fetched on the caller's thread: group by group of 64 KiB where the binding has them so, else chunk by chunk.
// The last group and the last chunk read stay, for rows that lie close. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "codec/chunk_codec.h"
#include "stream/bound_generation.h"

namespace forebay::stream {

class RowReader {
 public:
  explicit RowReader(std::shared_ptr<BoundGeneration> bound) : bound_(std::move(bound)) {}
  Status gather(plan::WeightId weight, std::span<const std::int64_t> rows, std::byte* to);
  std::uint64_t gathered_bytes() const { return gathered_.load(std::memory_order_relaxed); }
  const std::shared_ptr<BoundGeneration>& bound() const { return bound_; }

 private:
  Status copy_range(plan::WeightId weight, std::uint64_t offset, std::span<std::byte> out);
  Status load_group(plan::WeightId weight, std::uint64_t group);
  Status load_chunk(plan::ChunkId chunk);
  Status check_group(plan::WeightId weight, std::uint64_t group);

  const std::shared_ptr<BoundGeneration> bound_;
  std::atomic<std::uint64_t> gathered_{0};
  std::mutex mutex_;  // guards everything below
  plan::WeightId group_weight_ = plan::kNone;
  std::uint64_t group_ = 0;
  std::vector<std::byte> group_bytes_;
  plan::ChunkId chunk_ = plan::kNone;
  std::vector<std::byte> chunk_bytes_, stored_bytes_;
  codec::ChunkCodec codec_;
  std::unordered_map<plan::WeightId, std::vector<std::pair<bool, Xxh128>>> recorded_;  // of first reads, by group
};

}  // namespace forebay::stream
