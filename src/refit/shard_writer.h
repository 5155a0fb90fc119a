// Writes a shard set: chunks in execution order into shards of at most max_shard_bytes, then the index. docs/shard_format.md has every
// byte.
//
// Crash safety: all files are made through DurableFile. Shards take names that no file of the folder has; the index, renamed into place
// last, names them. So a folder shows the old complete set or the new one, whatever fails. Shards that no index names are strays of a
// killed writer; create() and commit() remove them. One writer per folder at a time. Single-thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/file.h"
#include "plan/plan_data.h"

namespace forebay::refit {

struct ShardWriterOptions {
  std::uint64_t max_shard_bytes = 4ull << 30;  // a chunk that is larger has a shard of its own
  std::uint64_t expected_bytes = 0;  // of all chunks, for the check of free space; 0: unknown
};

class ShardWriter {
 public:
  // `plan` (its id set) outlives the writer. The folder is made when missing.
  static Result<std::unique_ptr<ShardWriter>> create(FileSystem& fs, const std::string& folder, const plan::Plan& plan,
                                                     const ShardWriterOptions& options);
  virtual ~ShardWriter() = default;  // before commit: removes what it wrote
  // The next chunk in order, as stored. The stored digest is computed here, and for gather-only weights stored raw the digests of their
  // row groups. `raw_digest` is of the raw chunk (Chunk::raw_bytes long).
  virtual Status append(std::span<const std::byte> stored, std::uint8_t codec, std::uint8_t codec_version, const Xxh128& raw_digest) = 0;
  // All chunks must have been appended. Shards become durable, then the index appears, then the shards of an older set are removed.
  virtual Status commit() = 0;
  // After commit.
  virtual const std::vector<std::string>& files() const = 0;  // names in the folder, the index last
  virtual const Sha256& weight_set_id() const = 0;
  virtual std::uint64_t bytes() const = 0;  // of all files
};

}  // namespace forebay::refit
