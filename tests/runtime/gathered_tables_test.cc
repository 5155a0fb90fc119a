// When a gathered table is worth copying to the device, and that only one which its room holds is.
#include "runtime/gathered_tables.h"

#include <gtest/gtest.h>

#include <array>

namespace forebay {
namespace {

// Two tables of odd sizes: the second begins at the next multiple of 64.
CompiledPlan two_tables() {
  auto plan = std::make_shared<plan::Plan>();
  for (const std::int64_t rows : {1001, 2001}) {
    plan::Weight weight;
    weight.shape = Shape{rows, 1};
    weight.dtype = DType::u8;
    weight.bytes = static_cast<std::uint64_t>(rows);
    plan->weights.push_back(weight);
  }
  CompiledPlan compiled;
  compiled.plan = std::move(plan);
  compiled.gathered = {true, true};
  return compiled;
}

TEST(GatheredTables, OnlyWhatTheRoomHoldsIsCopied) {
  const CompiledPlan compiled = two_tables();
  plan::Generation generation;
  generation.number = 1;
  std::array<std::byte, 64> place;
  constexpr std::uint64_t kSecond = 1024;  // where it begins
  for (const std::uint64_t room : {std::uint64_t{0}, std::uint64_t{1000}, std::uint64_t{1001}, kSecond + 2000, kSecond + 2001}) {
    GatheredTables tables(compiled);
    tables.place(place.data(), room);
    EXPECT_EQ(tables.asks(0, generation, 1001), room >= 1001) << room;
    EXPECT_EQ(tables.asks(1, generation, 2001), room >= kSecond + 2001) << room;
    EXPECT_EQ(tables.find(0, generation), nullptr) << "nothing has been copied";
  }
}

TEST(GatheredTables, AnEighthOfOneGenerationIsWorthIt) {
  const CompiledPlan compiled = two_tables();
  GatheredTables tables(compiled);
  std::array<std::byte, 64> place;
  tables.place(place.data(), 4096);
  plan::Generation first, second;
  first.number = 1;
  second.number = 2;
  EXPECT_FALSE(tables.asks(0, first, 124));
  EXPECT_FALSE(tables.asks(0, second, 124)) << "counted anew";
  EXPECT_TRUE(tables.asks(0, second, 1));
  EXPECT_FALSE(tables.asks(0, second, 1001)) << "somebody copies it";
}

}  // namespace
}  // namespace forebay
