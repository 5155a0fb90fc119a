// The arena's division is pure: every small case is tried.
#include "runtime/arena_layout.h"

#include <gtest/gtest.h>

#include "base/checked.h"
#include "support/status_test.h"

namespace forebay {
namespace {

ArenaDemand demand(std::uint64_t state, std::uint64_t activations, std::uint32_t passes, std::uint64_t min_ring, std::uint64_t resident, std::uint64_t granule) {
  ArenaDemand d;
  d.state_bytes = state;
  d.activation_bytes = activations;
  d.passes = passes;
  d.gathered_bytes = 12345;
  d.source = {min_ring, resident, 4 * min_ring};
  d.granule = granule;
  d.arena_bytes = align_up(state + passes * (activations + 8192) + resident + 4 * min_ring + (64u << 20), granule);
  return d;
}

TEST(ArenaLayout, CommittedBytesNeverExceedTheBudgetAndPartsNeverOverlap) {
  std::uint64_t tried = 0;
  for (const std::uint64_t granule : {4096ull, 65536ull, 2ull << 20}) {
    for (const std::uint64_t state : {0ull, 1ull, 70000ull}) {
      for (const std::uint64_t activations : {0ull, 4096ull, 300001ull}) {
        for (const std::uint32_t passes : {1u, 3u}) {
          for (const std::uint64_t ring : {0ull, 8192ull, 100000ull}) {
            ArenaDemand d = demand(state, activations, passes, ring, ring == 0 ? 0 : 40 * 65536, granule);
            d.keeps_tables = tried % 2 == 0;
            const BudgetBytes sizes = budget_bytes(d);
            EXPECT_LE(sizes.min, sizes.no_stream);
            EXPECT_LE(sizes.no_stream, sizes.full);
            const std::uint64_t step = std::max<std::uint64_t>(granule, (sizes.full - sizes.min) / 23 + 1);
            for (std::uint64_t budget = sizes.min; budget <= sizes.full + step; budget += step) {
              auto layout = plan_arena(d, budget);
              ASSERT_TRUE(layout.ok()) << layout.status().to_string();
              const CommitRanges ranges = commit_ranges(*layout, granule);
              EXPECT_LE(ranges.bytes(d.arena_bytes), align_down(budget, granule));
              EXPECT_LE(ranges.head, ranges.resident_begin);
              EXPECT_GE(layout->activation_offset, state);
              EXPECT_GE(layout->ring_offset, layout->activation_offset + activations * passes);
              EXPECT_GE(layout->ring_bytes, ring);
              if (budget >= sizes.no_stream) {
                EXPECT_GE(layout->resident_bytes, d.source.resident_total_bytes);
              }
              EXPECT_EQ(layout->table_bytes >= d.gathered_bytes, d.keeps_tables && budget >= sizes.full);
              ++tried;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(tried, 1000u);
}

TEST(ArenaLayout, WhatIsBelowTheMinimumIsRefusedAndBothAreNamed) {
  const ArenaDemand d = demand(0, 100000, 1, 65536, 1 << 20, 4096);
  const std::uint64_t min = budget_bytes(d).min;
  EXPECT_TRUE(plan_arena(d, min).ok());
  auto refused = plan_arena(d, min - 1);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), Code::resource_exhausted);
  EXPECT_NE(refused.status().message().find(std::to_string(min)), std::string::npos);
  for (const std::uint64_t less_than_a_granule : {1u, 4095u}) {
    const std::string said = plan_arena(d, resolve_budget(Budget::of_bytes(less_than_a_granule), budget_bytes(d), 1 << 30)).status().message();
    EXPECT_NE(said.find("the budget of " + std::to_string(less_than_a_granule) + " bytes"), std::string::npos) << said;
  }
}

TEST(ArenaLayout, ResidentPartGrowsWithTheBudget) {
  const ArenaDemand d = demand(4096, 100000, 1, 65536, 64 << 20, 4096);
  const BudgetBytes sizes = budget_bytes(d);
  std::uint64_t last = 0;
  for (std::uint64_t budget = sizes.min; budget <= sizes.full; budget += 1 << 20) {
    auto layout = plan_arena(d, budget);
    ASSERT_TRUE(layout.ok());
    // The ring may grow too; from one megabyte to the next the resident part never shrinks by more than the ring's share of it.
    EXPECT_GE(layout->resident_bytes + (1 << 20), last);
    last = layout->resident_bytes;
  }
}

TEST(ArenaLayout, LargeHostCachesPayForTheirPageTable) {
  constexpr std::uint64_t kGiB = 1ull << 30, kMiB = 1ull << 20;
  ArenaDemand d = demand(4096, 100000, 1, 32 * kMiB, 44 * kGiB, 2 * kMiB);
  const auto resident = [&](std::uint64_t budget, std::uint64_t cache, std::uint64_t locked) {
    const auto layout = plan_linked_arena(d, budget, cache, locked);
    EXPECT_TRUE(layout.ok());
    EXPECT_EQ(layout->budget, budget);
    EXPECT_LE(commit_ranges(*layout, d.granule).bytes(layout->arena_bytes), budget);
    return layout->resident_bytes;
  };
  const std::uint64_t budget = 4 * kGiB, without = resident(budget, 0, 0);
  EXPECT_EQ(without, plan_arena(d, budget)->resident_bytes);
  EXPECT_EQ(resident(budget, 16 * kGiB, 0), without);                 // a table of 32 MiB
  EXPECT_EQ(resident(budget, 20 * kGiB, 0), without - 8 * kMiB);      // 8 bytes for 4 KiB, beyond those
  EXPECT_EQ(resident(budget, 0, 20 * kGiB), without - 8 * kMiB);      // locked before
  const std::uint64_t all = resident(budget, ~0ull, 0);               // all that streams: 40 GiB and what the table moves out
  EXPECT_LE(all, without - 48 * kMiB);
  EXPECT_GE(all, without - 52 * kMiB);
  EXPECT_EQ(resident(budget, ~0ull, 44 * kGiB - all), all);           // the same when it is asked again
  EXPECT_EQ(resident(budget_bytes(d).no_stream, ~0ull, 44 * kGiB), 44 * kGiB);  // nothing streams: all stays
  const std::uint64_t min = budget_bytes(d).min;
  EXPECT_EQ(resident(min, ~0ull, 0), plan_arena(d, min)->resident_bytes);
  d = demand(4096, 100000, 1, 65536, 44 * kGiB, 2 * kMiB);
  std::uint64_t last = 0;
  for (std::uint64_t more = 0; more <= 256 * kMiB; more += d.granule) {
    const std::uint64_t now = resident(budget_bytes(d).min + more, ~0ull, 0);
    EXPECT_GE(now + 4 * kMiB, last) << more;  // the ring may grow too
    last = now;
  }
}

TEST(ResolveBudget, KindsMeanWhatTheySay) {
  const BudgetBytes sizes{1000 * 4096, 5000 * 4096, 8000 * 4096};
  EXPECT_EQ(resolve_budget(Budget::of_percent(50), sizes, 1ull << 40), 4000u * 4096);
  EXPECT_EQ(resolve_budget(Budget::of_percent(100), sizes, 1ull << 40), sizes.full);
  EXPECT_EQ(resolve_budget(Budget::unlimited(), sizes, 0), sizes.full);
  // What auto and unlimited need at least has to be free: no budget that nobody gave is named.
  EXPECT_OK(check_free(Budget::automatic(), sizes, sizes.min));
  EXPECT_OK(check_free(Budget::unlimited(), sizes, sizes.full));
  EXPECT_OK(check_free(Budget::of_bytes(sizes.min), sizes, 0));  // is refused where it is committed
  for (const auto& [budget, least] : {std::pair(Budget::automatic(), sizes.min), std::pair(Budget::unlimited(), sizes.full)}) {
    const Status refused = check_free(budget, sizes, least - 1);
    EXPECT_CODE(refused, Code::resource_exhausted);
    EXPECT_NE(refused.message().find("needs " + std::to_string(least) + " bytes, the device has " + std::to_string(least - 1) + " free"),
              std::string::npos);
    EXPECT_FALSE(refused.problems().front().hint.empty());
  }
  EXPECT_EQ(resolve_budget(Budget::of_bytes(1ull << 60), sizes, 0), sizes.full);
  EXPECT_EQ(resolve_budget(Budget::of_bytes(4097), sizes, 0), 4097u);
  EXPECT_EQ(resolve_budget(Budget::automatic(), sizes, 1ull << 40), sizes.full);
  EXPECT_LE(resolve_budget(Budget::automatic(), sizes, 2ull << 30), 2ull << 30);
}

}  // namespace
}  // namespace forebay
