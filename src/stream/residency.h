// Which chunks stay in the arena: a prefix of one fixed order, so that the sets are nested as the budget grows. Pure.
//
// Order: chunks of bodies and packs first, then by uses in a pass (loads saved per byte held), all matrices interleaved: any prefix holds
// the same share of every large matrix, and of the many small ones an even spread over the pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/plan_data.h"
#include "runtime/weight_source.h"

namespace forebay::stream {

struct ChunkTraits {
  std::uint64_t raw_bytes = 0;
  std::uint32_t uses = 0;      // in one pass; 0: takes no place in the arena
  bool first = false;          // of a body, or a pack
  std::uint32_t weight = 0;    // slab `slab` of `slab_count` of this weight
  std::uint32_t slab = 0, slab_count = 1;
};
std::vector<ChunkTraits> chunk_traits(const plan::Plan& plan, const PassProgram& program);

struct ResidencyOrder {
  std::vector<plan::ChunkId> order;     // used chunks only
  std::vector<std::uint64_t> end;       // of the chunk at the same place: bytes from the arena's end down to its start
  std::uint64_t total_bytes() const { return end.empty() ? 0 : end.back(); }
};
ResidencyOrder residency_order(std::span<const ChunkTraits> traits);

// How many chunks of the order `resident_bytes` hold.
std::size_t resident_count(const ResidencyOrder& order, std::uint64_t resident_bytes);

}  // namespace forebay::stream
