// How weights are cut into slabs and slabs are put into chunks. Pure: numbers in, numbers out.
//
// Invariants: the parts of a weight cover its rows in order without gaps; parts in a chunk are 64-byte aligned and do not overlap; chunks
// are numbered by the first use of what they hold; a slab is at most slab_bytes unless one row (or a byte-aligned group of rows) is larger.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "forebay/status.h"
#include "plan/plan_data.h"

namespace forebay::builder {

inline constexpr std::uint64_t kMinSlabBytes = 4096, kMinAutoSlabBytes = 64ull << 10, kMaxAutoSlabBytes = 8ull << 20;
// Weights of at most this size (and below half a slab) share chunks.
inline constexpr std::uint64_t kSmallWeightBytes = 64ull << 10;

// The rule of --slab auto: all weight bytes / 256, rounded to the nearest power of two within the bounds above.
std::uint64_t auto_slab_bytes(std::uint64_t weight_bytes);

struct SlabWeight {
  DType dtype = DType::none;
  Shape shape;
  bool cut = false;         // may be cut on the outermost axis
  std::uint32_t graph = 0;  // of its first use: weights of different graphs share no chunk, as a body may not run
  std::uint64_t unit = 1;   // cuts fall on multiples of so many rows
  std::uint32_t follows = plan::kNone;  // an earlier weight: cut where that one is, in proportion,
                                        // and laid beside its slabs
};
struct SlabLayout {
  std::vector<plan::Part> parts;           // grouped by weight, in order
  std::vector<std::uint32_t> first_part;   // per weight, and one past the last
  std::vector<std::uint32_t> chunk_parts;  // grouped by chunk
  std::vector<plan::Chunk> chunks;
};

// Rows of each slab but the last; `rows` when it is not cut.
std::uint64_t slab_rows(const SlabWeight& weight, std::uint64_t slab_bytes);
// `weights` in the order of first use; none is empty. unsupported when a chunk would be above what a plan can hold.
Result<SlabLayout> lay_out_slabs(std::span<const SlabWeight> weights, std::uint64_t slab_bytes);

}  // namespace forebay::builder
