// The bytes of a plan file around and inside its sections: constants and on-disk structs, no functions. docs/plan_format.md explains them.
// Everything is little-endian; reserved fields are zero when written and must be zero when read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace forebay::plan {

// The line ends make text-mode transfers visible.
inline constexpr std::array<char, 8> kPlanMagic = {'F', 'B', 'P', 'L', 'A', 'N', '\r', '\n'};
inline constexpr std::uint32_t kEndianMark = 0x0A0B0C0Du;
inline constexpr std::uint32_t kSwappedEndianMark = 0x0D0C0B0Au;

// Section ids are never reused. Ids below 0x8000'0000 belong to forebay.
enum SectionId : std::uint32_t {
  kSectionGraph = 1,  // plan_wire.GraphSection
  kSectionWeights = 2,  // plan_wire.WeightSection
  kSectionParts = 3,  // PartRecord[]
  kSectionChunkParts = 4,  // u32[]
  kSectionChunks = 5,  // ChunkRecord[]
  kSectionConstantData = 6,  // bytes
  kSectionInfo = 7,  // plan_wire.InfoSection
  kSectionStoredChunks = 8,  // StoredChunkRecord[]; only where weights are embedded
  kSectionKernels = 9,  // plan_wire.KernelSection; one per device kind, named "kernels.<kind>"
  kSectionSignature = 10,  // reserved: a signature over the table entries of the structural sections
};
inline constexpr std::uint32_t kFlagCritical = 1u;  // a reader that does not know it refuses the plan
inline constexpr std::uint32_t kFlagStructural = 2u;  // part of the plan id
inline constexpr std::uint32_t kKnownFlags = kFlagCritical | kFlagStructural;
inline constexpr std::uint32_t kDigestSha256 = 1u;
inline constexpr std::uint64_t kSectionAlign = 64;
inline constexpr const char* kPlanIdPrefix = "forebay plan structure 1\n";

// Caps, checked before anything is allocated.
inline constexpr std::uint64_t kMaxStructureBytes = 2ull << 30;  // all sections together
inline constexpr std::uint64_t kMaxMessageBytes = 128ull << 20;  // one section that is a protobuf message
inline constexpr std::uint32_t kMaxSections = 1024;
inline constexpr std::uint64_t kMaxNameBytes = 64 * 1024;
inline constexpr std::uint64_t kMaxPlanChunkBytes = 4ull << 30;
inline constexpr int kMaxBodyDepth = 32;
inline constexpr std::uint64_t kPartAlign = 64;

struct PlanHeader {
  std::array<char, 8> magic;
  std::uint32_t endian;
  std::uint16_t major, minor;  // of the writer
  std::uint16_t min_reader_major, min_reader_minor;  // an older reader refuses
  std::uint32_t section_count;
  std::uint64_t required_features;  // bits; none is defined
  std::uint64_t structure_bytes;  // end of the last section
  std::uint64_t file_bytes;  // the whole file
  std::array<std::uint8_t, 32> plan_id;
  std::array<std::uint8_t, 32> digest;  // SHA-256 of header and section table, this field taken as zero
  // The place of a signature over the structural sections: all zero in format 1.0.
  std::uint32_t signature_algorithm, signature_bytes;
  std::uint64_t signature_offset;
  std::array<std::uint8_t, 128> reserved;
};
static_assert(sizeof(PlanHeader) == 256 && offsetof(PlanHeader, required_features) == 24 && offsetof(PlanHeader, plan_id) == 48 &&
              offsetof(PlanHeader, digest) == 80 && offsetof(PlanHeader, reserved) == 128);

// The section table follows the header: entries in ascending order of (id, name).
struct SectionRecord {
  std::uint32_t id, flags;
  std::uint64_t offset;  // a multiple of 64; sections follow each other with less than 64 zero bytes between them
  std::uint64_t bytes;
  std::uint32_t digest_algorithm, reserved;
  std::array<std::uint8_t, 32> digest;
  std::array<char, 32> name;  // zero-padded, printable
};
static_assert(sizeof(SectionRecord) == 96 && offsetof(SectionRecord, digest) == 32 && offsetof(SectionRecord, name) == 64);

struct PartRecord {
  std::uint32_t weight, chunk;
  std::uint64_t row_begin, row_count;
  std::uint64_t offset_in_weight, offset_in_chunk, bytes;
};
static_assert(sizeof(PartRecord) == 48);

struct ChunkRecord {
  std::uint32_t first_part, part_count;
  std::uint64_t raw_bytes;
};
static_assert(sizeof(ChunkRecord) == 16);

struct StoredChunkRecord {
  std::uint64_t offset, stored_bytes;
  std::uint8_t codec, codec_version;
  std::uint16_t flags;  // none is defined
  std::uint32_t reserved;
  std::uint64_t table_offset;  // of the codec's own table within the stored bytes; 0 for raw and zstd
  std::uint64_t stored_low, stored_high;  // XXH3-128 of the stored bytes
  std::uint64_t raw_low, raw_high;  // XXH3-128 of the raw bytes
};
static_assert(sizeof(StoredChunkRecord) == 64);

}  // namespace forebay::plan
