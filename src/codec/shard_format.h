// The bytes of shard files and of their index: constants and on-disk structs, no functions. docs/shard_format.md explains them.
// Everything is little-endian; reserved fields are zero when written and must be zero when read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace forebay::codec {

inline constexpr std::array<char, 8> kShardMagic = {'F', 'B', 'S', 'H', 'A', 'R', 'D', '\n'};
inline constexpr std::array<char, 8> kShardEndMagic = {'F', 'B', 'S', 'H', 'E', 'N', 'D', '\n'};
inline constexpr std::array<char, 8> kIndexMagic = {'F', 'B', 'I', 'N', 'D', 'E', 'X', '\n'};
inline constexpr std::uint32_t kEndianMark = 0x0A0B0C0Du;
inline constexpr std::uint32_t kSwappedEndianMark = 0x0D0C0B0Au;
inline constexpr std::uint16_t kShardMajor = 1, kShardMinor = 0;
inline constexpr const char* kIndexName = "forebay.index";
inline constexpr const char* kShardPrefix = "forebay-";  // forebay-00001.shard; a second set in the folder: forebay-s2-00001.shard
inline constexpr const char* kShardSuffix = ".shard";

// Caps, checked before anything is allocated.
inline constexpr std::uint64_t kMaxIndexBytes = 1ull << 30;
inline constexpr std::uint32_t kMaxShardFiles = 65'536, kMaxShardChunks = 16'777'216, kMaxShardWeights = 4'194'304,
                               kMaxShardParts = 16'777'216;
inline constexpr std::uint32_t kMaxShardNameBytes = 48;

// Block 0 of a shard; the rest of the 4 KiB block is zero.
struct ShardHeader {
  std::array<char, 8> magic;
  std::uint32_t endian;
  std::uint16_t major, minor;
  std::uint16_t min_reader_major, min_reader_minor;
  std::uint32_t sequence;  // 0 is the first shard of the set
  std::uint64_t required_features;  // bits; none is defined
  std::uint32_t first_chunk, chunk_count;
  std::uint64_t file_bytes;
  std::array<std::uint8_t, 32> plan_id;
  std::array<std::uint8_t, 32> weight_set_id;
  std::array<std::uint8_t, 32> records_sha256;  // of this shard's ChunkRecords as they stand in the index
};
static_assert(sizeof(ShardHeader) == 144 && offsetof(ShardHeader, plan_id) == 48);

// The last bytes of a shard, at a block boundary: a cut file has none.
struct ShardFooter {
  std::array<char, 8> magic;
  std::uint64_t file_bytes;
  std::uint32_t sequence, chunk_count;
  std::array<std::uint8_t, 32> weight_set_id;
  std::array<std::uint8_t, 8> reserved;
};
static_assert(sizeof(ShardFooter) == 64);

// The index: IndexHeader, then the tables in the order of their counts, each packed without gaps, the string bytes, and the SHA-256 of
// all that precedes it as the last 32 bytes.
struct IndexHeader {
  std::array<char, 8> magic;
  std::uint32_t endian;
  std::uint16_t major, minor;
  std::uint16_t min_reader_major, min_reader_minor;
  std::uint32_t reserved0;
  std::uint64_t required_features;
  std::uint64_t index_bytes;  // the whole file, digest included
  std::array<std::uint8_t, 32> plan_id;
  std::array<std::uint8_t, 32> weight_set_id;  // see docs/shard_format.md: the same weights have the same id in any codec
  std::uint32_t file_count, chunk_count, part_count, weight_count;
  std::uint64_t group_count;
  std::uint64_t string_bytes;
  std::uint64_t group_bytes;  // 65,536
  // The place of a signature over the index: all zero in format 1.0.
  std::uint32_t signature_algorithm, signature_bytes;
  std::uint64_t signature_offset;
  std::array<std::uint8_t, 96> reserved1;
};
static_assert(sizeof(IndexHeader) == 256 && offsetof(IndexHeader, plan_id) == 40 && offsetof(IndexHeader, file_count) == 104);

struct FileRecord {
  std::array<char, 48> name;  // zero-padded; a single component
  std::uint64_t file_bytes;
  std::uint32_t first_chunk, chunk_count;
  std::array<std::uint8_t, 32> records_sha256;
  std::array<std::uint8_t, 32> reserved;
};
static_assert(sizeof(FileRecord) == 128);

struct ChunkRecord {
  std::uint32_t file;
  std::uint8_t codec, codec_version;
  std::uint16_t flags;  // none is defined
  std::uint64_t offset;  // in the file; a multiple of 4,096
  std::uint64_t stored_bytes, raw_bytes;
  std::uint64_t table_offset;  // of the codec's own table within the stored bytes; 0 for raw and zstd
  std::uint64_t stored_low, stored_high;  // XXH3-128 of the stored bytes
  std::uint64_t raw_low, raw_high;  // XXH3-128 of the raw bytes
  std::array<std::uint8_t, 24> reserved;
};
static_assert(sizeof(ChunkRecord) == 96);

// A slab of a weight in its chunk, grouped by weight, in the order of the weight's bytes.
struct PartRecord {
  std::uint32_t weight, chunk;
  std::uint64_t row_begin, row_count;
  std::uint64_t offset_in_weight, offset_in_chunk, bytes;
};
static_assert(sizeof(PartRecord) == 48);

struct WeightRecord {
  std::uint64_t name_offset;  // into the string bytes
  std::uint32_t name_bytes;
  std::uint8_t dtype, rank;
  std::uint16_t flags;  // none is defined
  std::array<std::int64_t, 8> dims;  // unused places are 0
  std::uint64_t bytes;
  std::uint32_t first_part, part_count;
  std::uint64_t first_group;  // digests of its 64 KiB groups, for reading single rows
  std::uint32_t group_count;  // 0: none
  std::uint32_t reserved;
};
static_assert(sizeof(WeightRecord) == 112);

struct GroupRecord {
  std::uint64_t low, high;  // XXH3-128 of up to 65,536 raw bytes of the weight
};
static_assert(sizeof(GroupRecord) == 16);

}  // namespace forebay::codec
