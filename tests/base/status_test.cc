#include "forebay/status.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/checked.h"
#include "forebay/types.h"

namespace forebay {
namespace {

Result<int> half_of(int value) {
  if (value % 2 != 0) return Status(Code::invalid_argument, "odd");
  return value / 2;
}
Result<int> quarter_of(int value) {
  FB_ASSIGN(const int half, half_of(value));
  FB_ASSIGN(const int quarter, half_of(half));
  return quarter;
}

TEST(Status, OkIsEmpty) {
  const Status ok;
  EXPECT_TRUE(ok.ok());
  EXPECT_EQ(ok.to_string(), "ok");
  EXPECT_TRUE(ok.problems().empty());
  EXPECT_EQ(exit_code(ok), 0);
}

TEST(Status, CarriesWhereAndWhatNext) {
  const Status status =
      Status(Code::corruption, "digest differs").with_file("a.shard").with_tensor("w").with_offset(4096).with_hint("pack again");
  EXPECT_EQ(status.to_string(), "corruption: digest differs [file=a.shard tensor=w offset=4096] (pack again)");
  EXPECT_EQ(exit_code(status), 5);
  Status copy = status;
  copy = std::move(copy).with_context("reading chunk 3");
  EXPECT_EQ(copy.message(), "reading chunk 3: digest differs");
  EXPECT_EQ(copy.problems().front().message, copy.message());
  EXPECT_EQ(status.message(), "digest differs");
}

TEST(Status, ResultsPassFailuresOn) {
  EXPECT_EQ(*quarter_of(8), 2);
  EXPECT_EQ(quarter_of(6).status().code(), Code::invalid_argument);
}

TEST(Types, SizesAreChecked) {
  EXPECT_EQ(checked_bytes(DType::f32, std::vector<std::int64_t>{2, 3}), 24u);
  EXPECT_EQ(checked_bytes(DType::i4, std::vector<std::int64_t>{3}), 2u);
  EXPECT_EQ(checked_bytes(DType::f32, std::vector<std::int64_t>{-1}), std::nullopt);
  EXPECT_EQ(checked_bytes(DType::u8, std::vector<std::int64_t>{std::int64_t{1} << 40, std::int64_t{1} << 40}), std::nullopt);
  EXPECT_EQ(checked_bytes(DType::u8, std::vector<std::int64_t>{std::int64_t{1} << 40, std::int64_t{1} << 40, 0}), std::nullopt);
  EXPECT_EQ(checked_bytes(DType::u8, std::vector<std::int64_t>{0, 5}), 0u);
  EXPECT_FALSE(range_within(5, UINT64_MAX, 10));
  EXPECT_TRUE(range_within(10, 0, 10));
}

TEST(Types, NamesRoundTrip) {
  for (int i = 1; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(dtype_from_name("float"), std::nullopt);
}

}  // namespace
}  // namespace forebay
