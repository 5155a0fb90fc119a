// Rooms of the staging: the lowest that is large enough, none twice, all of it again at the end.
#include "stream/staging_rooms.h"

#include <gtest/gtest.h>

#include <map>

#include "support/random.h"

namespace forebay::stream {
namespace {

TEST(StagingRooms, TheLowestThatIsLargeEnough) {
  StagingRooms rooms;
  EXPECT_FALSE(rooms.take(1).has_value());
  rooms.reset(100);
  EXPECT_EQ(rooms.take(40), 0u);
  EXPECT_EQ(rooms.take(40), 40u);
  EXPECT_FALSE(rooms.take(40).has_value());
  EXPECT_EQ(rooms.take(20), 80u);
  rooms.give(0, 40);
  EXPECT_EQ(rooms.take(30), 0u) << "not behind what is in use";
  rooms.give(40, 40);
  EXPECT_EQ(rooms.take(50), 30u) << "neighbours are one";
  rooms.reset(100);
  EXPECT_EQ(rooms.take(100), 0u);
}

TEST(StagingRooms, NoneTwiceAndAllAgain) {
  constexpr std::uint64_t kSize = 1 << 20;
  StagingRooms rooms;
  rooms.reset(kSize);
  test::Random random(11);
  std::map<std::uint64_t, std::uint64_t> held;
  std::uint64_t refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t bytes = 1 + random.below(kSize / 8);
    if (const auto at = rooms.take(bytes)) {
      ASSERT_LE(*at + bytes, kSize);
      const auto next = held.lower_bound(*at);
      ASSERT_TRUE(next == held.end() || *at + bytes <= next->first);
      ASSERT_TRUE(next == held.begin() || std::prev(next)->first + std::prev(next)->second <= *at);
      held.emplace(*at, bytes);
    } else {
      ++refused;
    }
    while (!held.empty() && random.chance(2)) {
      const auto gone = std::next(held.begin(), static_cast<std::ptrdiff_t>(random.below(held.size())));
      rooms.give(gone->first, gone->second);
      held.erase(gone);
    }
  }
  EXPECT_GT(refused, 0u);
  for (const auto& [at, bytes] : held) rooms.give(at, bytes);
  EXPECT_EQ(rooms.take(kSize), 0u);
}

}  // namespace
}  // namespace forebay::stream
