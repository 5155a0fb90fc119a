// A generation as the reader uses it: for each chunk the extent to read (the aligned superset when direct), the ring bytes it takes, and
// what is known of its digest.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "plan/binding.h"
#include "runtime/weight_source.h"
#include "stream/schedule.h"

namespace forebay::stream {

struct ChunkSource {
  File* file = nullptr;      // null: Where::host
  File* buffered = nullptr;
  std::uint64_t read_offset = 0, read_bytes = 0;
  std::uint64_t needed = 0;  // of read_bytes: lead + stored
  std::uint32_t lead = 0;    // where the stored bytes start in what is read
  std::uint32_t shift = 0;   // where the raw bytes start in the raw slot: lead when that is aligned for kernels, else they are moved to 0
  bool coded = false;
};

// What is known of a chunk's bytes beyond the binding.
struct ArrivalRecord {
  bool recorded = false;  // has_digest is false: the digest of the first read
  bool sha_checked = false;
  Xxh128 digest;
};

class BoundGeneration {
 public:
  // Checks the binding against the plan and the files' sizes. `direct`: use the direct handles where they are. `staged`: nothing lands in
  // its resident place directly, all of it passes through host memory, and a fill takes nothing of the ring.
  static Result<std::shared_ptr<BoundGeneration>> bind(std::shared_ptr<const plan::Plan> plan, plan::GenerationPtr generation, bool direct,
                                                       bool staged = false);

  const plan::Plan& plan() const { return *plan_; }
  const plan::GenerationPtr& generation() const { return generation_; }
  const plan::ChunkBinding& binding(plan::ChunkId chunk) const { return generation_->binding.chunks[chunk]; }
  const ChunkSource& source(plan::ChunkId chunk) const { return sources_[chunk]; }
  std::span<const ChunkShape> shapes() const { return shapes_; }
  std::uint64_t raw_bytes(plan::ChunkId chunk) const { return plan_->chunks[chunk].raw_bytes; }
  bool any_direct() const { return any_direct_; }

  // Digest, identity of the file, SHA-256 where the binding asks for them. Names file, weight and offset. Thread-safe.
  // `digest` is what came out for `stored`.
  Status check_arrival(plan::ChunkId chunk, std::span<const std::byte> stored, const Xxh128& digest);
  // Whether the file is still the one that was bound.
  Status check_identity(std::uint32_t file) const;
  // Fills file, tensor and offset of a failure about `chunk`.
  Status name_failure(plan::ChunkId chunk, Status status) const;
  // Whether the raw bytes of `chunk` are surely the same under `other`.
  bool same_bytes(plan::ChunkId chunk, const BoundGeneration& other) const;
  // Takes over recorded digests of chunks that are the same extent of the same file.
  void inherit_records(const BoundGeneration& older);

 private:
  BoundGeneration(std::shared_ptr<const plan::Plan> plan, plan::GenerationPtr generation)
      : plan_(std::move(plan)), generation_(std::move(generation)) {}
  Status check_rows(std::span<const std::uint64_t> file_bytes) const;
  Status bind_chunk(plan::ChunkId chunk, std::span<const std::uint64_t> file_bytes, bool direct, bool staged);

  std::shared_ptr<const plan::Plan> plan_;
  plan::GenerationPtr generation_;
  std::vector<ChunkSource> sources_;
  std::vector<ChunkShape> shapes_;
  std::mutex records_mutex_;  // a chunk used twice in a pass may arrive twice at once
  std::vector<ArrivalRecord> records_;
  bool any_direct_ = false;
};

// Shapes that hold for every way the binding may lie on disk: what the minimum is computed with.
std::vector<ChunkShape> widest_shapes(const plan::Plan& plan, const plan::Generation& generation);

}  // namespace forebay::stream
