#include "stream/residency.h"

#include <algorithm>
#include <numeric>

#include "base/checked.h"

namespace forebay::stream {

std::vector<ChunkTraits> chunk_traits(const plan::Plan& plan, const PassProgram& program) {
  std::vector<ChunkTraits> traits(plan.chunks.size());
  for (std::size_t i = 0; i < plan.chunks.size(); ++i) {
    const plan::Chunk& chunk = plan.chunks[i];
    ChunkTraits& t = traits[i];
    t.raw_bytes = chunk.raw_bytes;
    t.first = chunk.part_count > 1;
    if (chunk.part_count == 0) continue;
    const std::uint32_t part = plan.chunk_parts[chunk.first_part];
    const plan::Weight& weight = plan.weights[plan.parts[part].weight];
    t.weight = plan.parts[part].weight;
    t.slab = part - weight.first_part;
    t.slab_count = std::max<std::uint32_t>(1, weight.part_count);
  }
  for (const PassProgram::Segment& segment : program.segments) {
    for (std::uint32_t s = 0; s < segment.substep_count; ++s) {
      const PassProgram::Substep& substep = program.substeps[segment.first_substep + s];
      for (std::uint32_t u = 0; u < substep.use_count; ++u) {
        ChunkTraits& t = traits[program.uses[substep.first_use + u]];
        t.uses += 1;
        t.first = t.first || segment.in_body;
      }
    }
  }
  return traits;
}

namespace {

// Where in the growth from nothing to everything the chunk comes in, as a 32-bit fraction (and more). Each weight has its own phase, golden
// ratio apart, so that weights of one slab spread evenly too.
std::uint64_t entry_point(const ChunkTraits& t) {
  const std::uint32_t phase = (t.weight + 1u) * 2654435769u;
  return ((static_cast<std::uint64_t>(t.slab) << 32) + phase) / t.slab_count;
}

}  // namespace

ResidencyOrder residency_order(std::span<const ChunkTraits> traits) {
  ResidencyOrder result;
  for (std::size_t i = 0; i < traits.size(); ++i) {
    if (traits[i].uses > 0) result.order.push_back(static_cast<plan::ChunkId>(i));
  }
  std::sort(result.order.begin(), result.order.end(), [&](plan::ChunkId a, plan::ChunkId b) {
    const ChunkTraits &x = traits[a], &y = traits[b];
    if (x.first != y.first) return x.first;
    if (x.uses != y.uses) return x.uses > y.uses;
    const std::uint64_t p = entry_point(x), q = entry_point(y);
    return p != q ? p < q : a < b;
  });
  std::uint64_t end = 0;
  for (const plan::ChunkId chunk : result.order) {
    end += align_up(traits[chunk].raw_bytes, kBlockBytes);
    result.end.push_back(end);
  }
  return result;
}

std::size_t resident_count(const ResidencyOrder& order, std::uint64_t resident_bytes) {
  return static_cast<std::size_t>(std::upper_bound(order.end.begin(), order.end.end(), resident_bytes) - order.end.begin());
}

}  // namespace forebay::stream
