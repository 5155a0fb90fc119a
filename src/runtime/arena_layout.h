// The division of the arena for a budget: a pure function of plain numbers, tested exhaustively.
//
//   [ state | activations x passes | ring | tables | ... not committed ... | resident ]     all boundaries are multiples of kBlockBytes
//
// Head (state, activations, ring, tables) and resident part are committed separately, each rounded to the granule; their sum never exceeds
// the budget.
#pragma once

#include <cstdint>
#include <string>

#include "forebay/budget.h"
#include "forebay/status.h"
#include "runtime/weight_source.h"

namespace forebay {

struct ArenaDemand {
  std::uint64_t state_bytes = 0;
  std::uint64_t activation_bytes = 0;  // of one pass, workspace included
  std::uint32_t passes = 1;            // that may run at once
  std::uint64_t gathered_bytes = 0;    // weights that are neither resident nor streamed (rows are gathered)
  bool keeps_tables = false;           // they have a place all the same where the budget is full
  SourceLimits source;
  std::uint64_t granule = kBlock;
  std::uint64_t arena_bytes = 0;       // reserved
  static constexpr std::uint64_t kBlock = 4096;
};

struct BudgetBytes {
  std::uint64_t min = 0, no_stream = 0, full = 0;
};
BudgetBytes budget_bytes(const ArenaDemand& demand);

// Bytes that a budget stands for. `free_bytes`: what the device has free now, committed bytes of this arena included.
std::uint64_t resolve_budget(const Budget& budget, const BudgetBytes& sizes, std::uint64_t free_bytes);
// resource_exhausted when that much is not free as `unlimited` (full) or `auto` (the minimum) needs at least.
Status check_free(const Budget& budget, const BudgetBytes& sizes, std::uint64_t free_bytes);

// resource_exhausted, naming the minimum and what it is made of, when `budget` is below it.
Result<ArenaLayout> plan_arena(const ArenaDemand& demand, std::uint64_t budget);

// The same where a host cache of at most so many bytes is page-locked, `locked` of them already: the driver's page table of such memory
// lies on the device, 8 bytes for 4 KiB. What that takes beyond 32 MiB comes out of the budget, down to the minimum, and where anything
// streams at all.
Result<ArenaLayout> plan_linked_arena(const ArenaDemand& demand, std::uint64_t budget, std::uint64_t host_cache_bytes,
                                      std::uint64_t locked);

// What is committed under a layout: [0, head) and [resident_begin, arena_bytes).
struct CommitRanges {
  std::uint64_t head = 0, resident_begin = 0;
  std::uint64_t bytes(std::uint64_t arena_bytes) const { return head + (arena_bytes - resident_begin); }
};
CommitRanges commit_ranges(const ArenaLayout& layout, std::uint64_t granule);

}  // namespace forebay
