// The depth of reads by measurement, against disks of plain arithmetic. No clock but the numbers given.
#include "stream/depth_finder.h"

#include <algorithm>
#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "support/random.h"

namespace forebay::stream {
namespace {

constexpr std::uint64_t kRead = 1u << 20;

// Reads until the finder has settled, at most `reads` of them; ns of a read at a depth and a time. Returns how many were made.
std::uint64_t read_on(DepthFinder& finder, std::uint64_t reads, const std::function<double(std::uint64_t, std::uint64_t)>& ns) {
  double now = 0;
  for (std::uint64_t i = 0; i < reads; ++i) {
    if (finder.settled()) return i;
    now += ns(finder.reads(), i);
    finder.ended(kRead, static_cast<std::int64_t>(now));
  }
  return reads;
}

// A disk that gets faster up to `knee` reads in flight.
std::function<double(std::uint64_t, std::uint64_t)> disk(std::uint64_t knee) {
  return [knee](std::uint64_t depth, std::uint64_t) { return 8e6 / static_cast<double>(std::min(depth, knee)); };
}

TEST(DepthFinder, KeepsTheSmallestThatIsAsGood) {
  for (const std::uint64_t knee : {1u, 8u, 16u, 32u, 64u, 1000u}) {
    DepthFinder finder(kRead, 0);
    EXPECT_LT(read_on(finder, 10000, disk(knee)), 2500u);
    ASSERT_TRUE(finder.settled());
    EXPECT_EQ(finder.reads(), std::clamp<std::uint64_t>(knee, 8, 64)) << "knee " << knee;
    EXPECT_EQ(finder.limit_bytes(), finder.reads() * kRead);
  }
}

TEST(DepthFinder, ADiskThatSlowsDownDoesNotMoveTheAnswerFar) {
  // Ten times slower during the second half of the first round.
  DepthFinder finder(kRead, 0);
  const auto knee = disk(32);
  read_on(finder, 10000, [&](std::uint64_t depth, std::uint64_t i) { return knee(depth, i) * (i > 150 && i < 300 ? 10 : 1); });
  ASSERT_TRUE(finder.settled());
  EXPECT_EQ(finder.reads(), 32u);
}

TEST(DepthFinder, SmallDifferencesPreferLess) {
  const std::uint64_t seed = 7;
  SCOPED_TRACE("seed " + std::to_string(seed));
  test::Random random(seed);
  DepthFinder finder(kRead, 0);
  read_on(finder, 10000, [&](std::uint64_t depth, std::uint64_t) {
    return 1e6 * (1.0 - 0.0001 * static_cast<double>(depth)) * (1.0 + 0.001 * static_cast<double>(random.below(10)));
  });
  ASSERT_TRUE(finder.settled());
  EXPECT_EQ(finder.reads(), 8u);
}

TEST(DepthFinder, StarvedReadingSaysNothing) {
  DepthFinder finder(kRead, 0);
  double now = 0;
  for (int i = 0; i < 10000; ++i) {
    now += 1e6;
    finder.ended(kRead, static_cast<std::int64_t>(now));
    if (i % 20 == 19) finder.starved();
  }
  EXPECT_FALSE(finder.settled());
  EXPECT_EQ(finder.reads(), DepthFinder::kCandidates[0].reads);
}

// Into a buffer that stays in the cache, where that is worth the copy.
TEST(DepthFinder, BouncesWhereItGains) {
  for (const double gain : {0.9, 1.0, 1.02, 1.1, 1.3}) {
    DepthFinder finder(kRead, 0);
    const auto knee = disk(8);
    read_on(finder, 10000, [&](std::uint64_t depth, std::uint64_t i) { return knee(depth, i) / (finder.bounced() ? gain : 1.0); });
    ASSERT_TRUE(finder.settled());
    EXPECT_EQ(finder.bounced(), gain > 1.05) << gain;
    EXPECT_EQ(finder.reads(), 8u);
  }
}

TEST(DepthFinder, OneBurstDecidesNothing) {
  DepthFinder finder(kRead, 0);
  const auto knee = disk(16);
  std::uint64_t burst = 0;
  read_on(finder, 10000, [&](std::uint64_t depth, std::uint64_t i) { return knee(depth, i) / (depth == 64 && ++burst < 150 ? 3 : 1); });
  ASSERT_TRUE(finder.settled());
  EXPECT_EQ(finder.reads(), 16u);
}

TEST(DepthFinder, AGivenDepthIsKept) {
  DepthFinder finder(kRead, 5);
  EXPECT_TRUE(finder.settled());
  EXPECT_EQ(read_on(finder, 100, disk(64)), 0u);
  EXPECT_EQ(finder.limit_bytes(), 5 * kRead);
}

}  // namespace
}  // namespace forebay::stream
