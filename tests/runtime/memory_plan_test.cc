#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace forebay {
namespace {

TEST(MemoryPlan, ValuesThatLiveTogetherNeverOverlap) {
  for (std::uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    std::vector<Lifetime> values(1 + random() % 60);
    std::uint64_t sum = 0, largest_moment = 0;
    for (Lifetime& v : values) {
      v.first = random() % 40;
      v.last = v.first + random() % 12;
      v.bytes = random() % 5 == 0 ? 0 : random() % 100000;
      sum += (std::max<std::uint64_t>(1, v.bytes) + 63) / 64 * 64;
    }
    const std::uint64_t total = plan_memory(values);
    EXPECT_LE(total, sum) << "seed " << seed;
    for (std::uint32_t t = 0; t < 60; ++t) {
      std::uint64_t alive = 0;
      for (const Lifetime& v : values) alive += v.first <= t && t <= v.last ? v.bytes : 0;
      largest_moment = std::max(largest_moment, alive);
    }
    EXPECT_GE(total, largest_moment) << "seed " << seed;
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i].offset % 64, 0u);
      EXPECT_LE(values[i].offset + values[i].bytes, total);
      for (std::size_t j = 0; j < i; ++j) {
        const Lifetime &a = values[i], &b = values[j];
        if (a.last < b.first || b.last < a.first) continue;
        EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset) << "seed " << seed << " values " << i << " and " << j;
      }
    }
  }
}

TEST(MemoryPlan, DisjointLifetimesShare) {
  std::vector<Lifetime> values = {{0, 1, 1000, 0}, {2, 3, 1000, 0}, {4, 5, 1000, 0}};
  EXPECT_EQ(plan_memory(values), 1024u);
}

TEST(MemoryPlan, NothingNeedsNothing) {
  std::vector<Lifetime> none;
  EXPECT_EQ(plan_memory(none), 0u);
}

}  // namespace
}  // namespace forebay
