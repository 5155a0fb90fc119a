// Binding: which extent of which file supplies each chunk: what a refit produces. Generation: an immutable binding that
// passes hold a lease on (a shared_ptr). Both are immutable after construction and thread-safe to read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/file.h"
#include "plan/plan_data.h"

namespace forebay::plan {

enum class Codec : std::uint8_t { raw = 0, zstd = 1, huffman = 2 };  // stable ids; huffman is reserved until its issue

// An open file of the binding. Both handles name the same inode (checked when made).
struct BoundFile {
  std::string name;                   // for messages
  std::shared_ptr<File> buffered;     // always there
  std::shared_ptr<File> direct;       // null where the file system refuses O_DIRECT, or it is off
  FileIdentity identity;              // at bind time; compared when digests are of the first read
};

struct ChunkBinding {
  enum class Where : std::uint8_t { file, host };
  Where where = Where::file;
  std::uint32_t file = 0;             // index into Binding::files
  std::uint64_t offset = 0;           // in the file; any alignment for the user's own files, kBlockBytes multiples in shards and plans
  std::uint64_t stored_bytes = 0;
  Codec codec = Codec::raw;
  std::uint8_t codec_version = 0;
  bool has_digest = false;            // false: the user's own file, the first read records its digest
  Xxh128 stored_digest;               // of the stored bytes
  bool has_sha256 = false;            // identical plans from the user's own files: checked on first arrival
  Sha256 slab_sha256{};
  std::shared_ptr<const std::vector<std::byte>> host;  // Where::host: the raw chunk, computed at open (recipes, packs of the user's own files)
};

// A gather-only weight's rows can be fetched one by one: from here, group by group of 64 KiB.
struct RowBinding {
  bool available = false;
  std::uint32_t file = 0;
  std::uint64_t offset = 0;           // of row 0
  std::uint64_t row_bytes = 0;
  static constexpr std::uint64_t kGroupBytes = 64 * 1024;
  std::vector<Xxh128> group_digests;  // empty: first read records
};

struct Binding {
  std::vector<BoundFile> files;
  std::vector<ChunkBinding> chunks;   // one per Plan::chunks
  std::vector<RowBinding> rows;       // one per Plan::weights; available only for gather-only weights stored raw and contiguous
  std::string integrity;              // "digests" or "first-read"
  std::uint64_t host_bytes = 0;       // sum of Where::host chunks
};

struct Generation {
  std::uint64_t number = 0;  // 1 is the first
  std::shared_ptr<const Plan> plan;
  Binding binding;
};
using GenerationPtr = std::shared_ptr<const Generation>;

}  // namespace forebay::plan
