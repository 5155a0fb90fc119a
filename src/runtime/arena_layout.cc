#include "runtime/arena_layout.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/checked.h"

namespace forebay {
namespace {

constexpr std::uint64_t kRingMax = 256ull << 20;

struct Sizes {
  std::uint64_t state, activations, fixed, min_ring, resident_total;
};

Sizes sizes_of(const ArenaDemand& demand) {
  Sizes s{};
  s.state = align_up(demand.state_bytes, kBlockBytes);
  s.activations = align_up(demand.activation_bytes, kBlockBytes) * std::max<std::uint32_t>(1, demand.passes);
  s.fixed = s.state + s.activations;
  s.min_ring = align_up(demand.source.min_ring_bytes, kBlockBytes);
  s.resident_total = align_up(demand.source.resident_total_bytes, kBlockBytes);
  return s;
}

// Ring when something streams: an eighth of what is left, within the source's wish; the rest holds weights. A larger ring only delays
// reads less; a resident byte saves its reading in every pass.
std::uint64_t ring_bytes(const ArenaDemand& demand, const Sizes& s, std::uint64_t available) {
  const std::uint64_t preferred = std::min(demand.source.preferred_ring_bytes, kRingMax);
  const std::uint64_t share = align_down(available / 8, kBlockBytes);
  const std::uint64_t wish = std::min(preferred, std::max(share, std::min(preferred, 3 * s.min_ring)));
  return std::min(available, std::max(s.min_ring, align_down(wish, kBlockBytes)));
}

}  // namespace

BudgetBytes budget_bytes(const ArenaDemand& demand) {
  const Sizes s = sizes_of(demand);
  BudgetBytes b;
  // Head and resident part are rounded apart: one granule more where both are there.
  b.min = align_up(s.fixed + s.min_ring, demand.granule);
  b.no_stream = align_up(s.fixed + s.min_ring, demand.granule) + align_up(s.resident_total, demand.granule);
  b.full = b.no_stream + align_up(demand.gathered_bytes, demand.granule);
  return b;
}

std::uint64_t resolve_budget(const Budget& budget, const BudgetBytes& sizes, std::uint64_t free_bytes) {
  std::uint64_t bytes = sizes.full;
  switch (budget.kind) {
    case Budget::Kind::automatic: {
      // Headroom for everybody else: a tenth of what is free, at least 256 MiB.
      const std::uint64_t headroom = std::max<std::uint64_t>(free_bytes / 10, 256ull << 20);
      bytes = std::min(sizes.full, free_bytes > headroom ? free_bytes - headroom : 0);
      bytes = std::max(bytes, std::min(sizes.min, free_bytes));
      break;
    }
    case Budget::Kind::percent:
      bytes = static_cast<std::uint64_t>(std::floor(static_cast<double>(sizes.full) * std::min(budget.percent, 100.0) / 100.0));
      break;
    case Budget::Kind::bytes: bytes = std::min(budget.bytes, sizes.full); break;
    case Budget::Kind::unlimited: break;
  }
  return bytes;
}

Status check_free(const Budget& budget, const BudgetBytes& sizes, std::uint64_t free_bytes) {
  const bool all = budget.kind == Budget::Kind::unlimited;
  const std::uint64_t least = all ? sizes.full : budget.kind == Budget::Kind::automatic ? sizes.min : 0;
  if (least <= free_bytes) return {};
  return std::move(Status(Code::resource_exhausted, std::string(all ? "full residency" : "the smallest budget") + " needs " +
                                                        std::to_string(least) + " bytes, the device has " + std::to_string(free_bytes) + " free")
                       .with_hint(all ? "give a budget or use auto"
                                      : "other processes may hold the device's memory (nvidia-smi lists a GPU's); smaller input shapes need less"));
}

Result<ArenaLayout> plan_arena(const ArenaDemand& demand, std::uint64_t given) {
  const Sizes s = sizes_of(demand);
  const BudgetBytes sizes = budget_bytes(demand);
  const std::uint64_t budget = align_down(given, demand.granule);
  if (budget < sizes.min) {
    Problem problem;
    problem.code = "budget_below_minimum";
    problem.message = "the budget of " + std::to_string(given) + " bytes is below the minimum of " + std::to_string(sizes.min) +
                      " bytes (activations and workspace " + std::to_string(s.activations) + ", state " + std::to_string(s.state) +
                      ", ring for the largest step " + std::to_string(s.min_ring) + ")";
    problem.hint = "give at least " + std::to_string(sizes.min) + " bytes, or smaller input shapes";
    return Status(Code::resource_exhausted, std::move(problem));
  }
  ArenaLayout layout;
  layout.budget = budget;
  layout.arena_bytes = demand.arena_bytes;
  layout.state_bytes = s.state;
  layout.activation_offset = s.state;
  layout.activation_bytes = s.activations;
  layout.ring_offset = s.fixed;
  if (budget >= sizes.no_stream) {
    layout.ring_bytes = s.min_ring;
    layout.resident_bytes = s.resident_total;
    if (demand.keeps_tables && budget >= sizes.full) layout.table_bytes = align_up(demand.gathered_bytes, kBlockBytes);
  } else {
    layout.ring_bytes = ring_bytes(demand, s, budget - s.fixed);
    const std::uint64_t head = align_up(s.fixed + layout.ring_bytes, demand.granule);
    layout.resident_bytes = budget > head ? std::min(budget - head, s.resident_total) : 0;
  }
  const CommitRanges ranges = commit_ranges(layout, demand.granule);
  if (ranges.head > ranges.resident_begin || ranges.bytes(layout.arena_bytes) > budget) {
    return Status(Code::resource_exhausted, "the arena of " + std::to_string(demand.arena_bytes) + " bytes is too small for " +
                                                std::to_string(ranges.head) + " bytes of activations, state and ring and " +
                                                std::to_string(layout.resident_bytes) + " resident bytes");
  }
  return layout;
}

Result<ArenaLayout> plan_linked_arena(const ArenaDemand& demand, std::uint64_t budget, std::uint64_t host_cache_bytes,
                                      std::uint64_t locked) {
  constexpr std::uint64_t kLockedPerByte = 512, kBesideBudget = 32 << 20;
  auto layout = plan_arena(demand, budget);
  if (!layout.ok()) return layout;
  const std::uint64_t all = demand.source.resident_total_bytes, streamed = all - std::min(all, layout->resident_bytes);
  if (streamed == 0) return layout;
  // With what streams because of the page table itself.
  const std::uint64_t cached = std::min(streamed + streamed / kLockedPerByte, host_cache_bytes);
  const std::uint64_t table = align_up(std::max(cached, locked) / kLockedPerByte, demand.granule);
  if (table <= kBesideBudget) return layout;
  const std::uint64_t least = budget_bytes(demand).min;
  auto less = plan_arena(demand, std::max(least, budget - std::min(budget, table - kBesideBudget)));
  if (!less.ok()) return less;
  less->budget = layout->budget;
  return less;
}

CommitRanges commit_ranges(const ArenaLayout& layout, std::uint64_t granule) {
  CommitRanges ranges;
  ranges.head = align_up(layout.ring_offset + layout.ring_bytes + layout.table_bytes, granule);
  const std::uint64_t resident = align_up(layout.resident_bytes, granule);
  ranges.resident_begin = resident <= layout.arena_bytes ? layout.arena_bytes - resident : 0;
  return ranges;
}

}  // namespace forebay
