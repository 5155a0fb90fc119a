// Rows of gather-only weights, fetched on the caller's thread: in groups of 64 KiB where the binding has them so, else chunk by chunk. The
// groups of a call that are not there yet are read all at once: a prompt wants hundreds, and a disk answers one after the other at a
// hundredth of its rate. Groups that were read and checked stay, up to 64 MiB of them, and so does the last chunk: reading and checking a
// group for each row of each pass takes longer than an encoder. Many rows are copied by several threads: one alone needs more than a
// millisecond for the words of 32 sentences. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "codec/chunk_codec.h"
#include "runtime/thread_pool.h"
#include "stream/bound_generation.h"
#include "stream/streamer.h"

namespace forebay::stream {

class RowReader {
 public:
  explicit RowReader(std::shared_ptr<BoundGeneration> bound, IoChoice io = IoChoice::automatic) : bound_(std::move(bound)), io_(io) {}
  Status gather(plan::WeightId weight, std::span<const std::int64_t> rows, std::byte* to);
  std::uint64_t gathered_bytes() const { return gathered_.load(std::memory_order_relaxed); }
  const std::shared_ptr<BoundGeneration>& bound() const { return bound_; }

 private:
  Status copy_range(plan::WeightId weight, std::uint64_t offset, std::span<std::byte> out);
  struct Name {
    plan::WeightId weight = plan::kNone;
    std::uint64_t number = 0;
    bool operator==(const Name&) const = default;
  };
  struct NameHash {
    std::size_t operator()(const Name& name) const {
      return (name.number + name.weight * 0x9e3779b97f4a7c15ull) * 0xff51afd7ed558ccdull >> 20;
    }
  };
  struct Group {
    Name name;
    bool whole = false;      // read and checked
    std::uint64_t call = 0;  // the last load_together that wants it
    std::vector<std::byte> bytes;
  };
  using Groups = std::list<Group>;
  struct Piece {
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    std::size_t bytes = 0;
  };
  static constexpr std::uint64_t kKeptGroups = 1024;

  // Of a group, now the last used; where it has none and all are taken, that of the one not used for longest.
  Group& place_of(plan::WeightId weight, std::uint64_t group);
  void copy_found();
  Result<std::span<const std::byte>> load_group(plan::WeightId weight, std::uint64_t group);
  // Groups of the first of `rows`: of as many as find a place each. How many rows that is, one at least.
  Result<std::size_t> load_together(plan::WeightId weight, std::span<const std::int64_t> rows, std::uint64_t row_bytes);
  Status read_together(plan::WeightId weight, std::span<const std::uint64_t> groups);
  Status name_failure(plan::WeightId weight, std::uint64_t group, Status status) const;
  Status load_chunk(plan::ChunkId chunk);
  Status check_group(plan::WeightId weight, std::uint64_t group, std::span<const std::byte> bytes);

  const std::shared_ptr<BoundGeneration> bound_;
  const IoChoice io_;
  std::atomic<std::uint64_t> gathered_{0};
  std::mutex mutex_;  // guards everything below
  Groups groups_;     // the last used first
  std::unordered_map<Name, Groups::iterator, NameHash> places_;
  std::uint64_t call_ = 0;
  std::vector<Piece> found_;  // to be copied before what they lie in is replaced
  std::uint64_t found_bytes_ = 0;
  std::unique_ptr<ThreadPool> copiers_;  // made when first wanted
  plan::ChunkId chunk_ = plan::kNone;
  std::vector<std::byte> chunk_bytes_, stored_bytes_;
  codec::ChunkCodec codec_;
  std::unordered_map<plan::WeightId, std::vector<std::pair<bool, Xxh128>>> recorded_;  // of first reads, by group
};

}  // namespace forebay::stream
