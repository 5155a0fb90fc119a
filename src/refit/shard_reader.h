// A validated shard set: index and open shard files. Nothing is trusted: SHA-256 of the index before use, every range against the real
// file sizes, headers and footers of the shards against the index. Chunk bytes are checked by whoever reads them (digests below).
// Immutable after open; thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/file.h"
#include "codec/shard_format.h"
#include "plan/binding.h"
#include "plan/plan_data.h"

namespace forebay::refit {

struct ShardChunk {
  std::uint32_t file = 0;
  std::uint64_t offset = 0, stored_bytes = 0, raw_bytes = 0;
  std::uint8_t codec = 0, codec_version = 0;
  Xxh128 stored_digest, raw_digest;
};
struct ShardPart {
  std::uint32_t weight = 0, chunk = 0;
  std::uint64_t row_begin = 0, row_count = 0, offset_in_weight = 0, offset_in_chunk = 0, bytes = 0;
};
struct ShardWeight {
  std::string name;
  DType dtype = DType::none;
  Shape shape;
  std::uint64_t bytes = 0;
  std::uint32_t first_part = 0, part_count = 0;
  std::vector<Xxh128> group_digests;  // per RowBinding::kGroupBytes of the weight; empty when rows are not to be read one by one
};

// The tables of an index, without files: what the parser gives (and the fuzzer drives).
struct ShardIndex {
  Sha256 plan_id{}, weight_set_id{};
  struct File {
    std::string name;
    std::uint64_t bytes = 0;
    std::uint32_t first_chunk = 0, chunk_count = 0;
    Sha256 records_sha256{};
  };
  std::vector<File> files;
  std::vector<ShardChunk> chunks;  // in execution order; Plan::chunks has the same numbers
  std::vector<ShardPart> parts;
  std::vector<ShardWeight> weights;
};
// All checks that need no file. corruption, or unsupported for a newer format. `name` is for messages.
Result<ShardIndex> parse_shard_index(std::span<const std::byte> bytes, const std::string& name);
// Reads and parses forebay.index of `folder`; no shard is opened.
Result<ShardIndex> read_shard_index(FileSystem& fs, const std::string& folder);
// What names a set of weights: plan id, raw digests, names, dtypes and shapes. Independent of codec and shard size.
Sha256 shard_weight_set_id(const ShardIndex& index);

// Block 0 of shard `sequence` as this index wants it: what the writer puts there and the reader compares with.
codec::ShardHeader shard_header(const ShardIndex& index, std::uint32_t sequence);

class ShardSet {
 public:
  // `folder` holds forebay.index and the shards it names. Every shard is opened (twice where direct I/O works) and checked.
  static Result<std::shared_ptr<const ShardSet>> open(FileSystem& fs, const std::string& folder, DirectIo direct);
  const ShardIndex& index() const { return index_; }
  const std::vector<plan::BoundFile>& files() const { return files_; }  // as index().files
  const std::string& folder() const { return folder_; }
  // Whether these are shards of `plan`: ids (both named), then chunk sizes and the names, dtypes and shapes of all weights.
  // weight_mismatch.
  Status check_plan(const plan::Plan& plan) const;
  // The binding for `plan`, after check_plan: one ChunkBinding per chunk, rows of gather-only weights where they lie contiguous and raw.
  Result<plan::Binding> bind(const plan::Plan& plan) const;
  // One chunk as stored, digest checked; `stored` is resized. For pack, refit and verify. corruption with file and offset.
  Status read_stored(std::uint32_t chunk, std::vector<std::byte>& stored) const;
  // That every byte between chunks is zero, for verify: those bytes are never used.
  Status check_padding() const;

 private:
  ShardIndex index_;
  std::vector<plan::BoundFile> files_;
  std::string folder_;
};

// Whether `folder` looks like a shard folder (holds forebay.index).
Result<bool> is_shard_folder(FileSystem& fs, const std::string& folder);

}  // namespace forebay::refit
