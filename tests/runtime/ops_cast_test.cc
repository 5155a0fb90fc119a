#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "op_runner.h"

namespace forebay {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

// ONNX's numbers of dtypes, as the attribute holds them.
constexpr std::int64_t kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kBool = 9, kHalf = 10, kBfloat = 16, kE4m3 = 17,
                       kE5m2 = 19, kUint4 = 21, kInt4 = 22, kFloat4 = 23, kE8m0 = 24, kInt2 = 26;

HostTensor cast(HostTensor in, std::int64_t to, int saturate = 1) {
  OpRunner op("Cast", 25);
  op.attr("to", to).attr("saturate", saturate).in(std::move(in));
  return op.run();
}

TEST(Cast, FloatsToIntegersTruncate) {
  EXPECT_EQ(values_of<std::int32_t>(cast(tensor<float>({4}, {1.9f, -1.9f, -0.5f, 2147483520.0f}), kInt32)),
            (std::vector<std::int32_t>{1, -1, 0, 2147483520}));
  EXPECT_EQ(values_of<std::int64_t>(cast(tensor<double>({2}, {9007199254740993.0, -1e30}), kInt64)),
            (std::vector<std::int64_t>{9007199254740992, INT64_MIN}));
  EXPECT_EQ(values_of<std::int32_t>(cast(tensor<float>({3}, {kNan, kInf, 3e9f}), kInt32)),
            (std::vector<std::int32_t>{INT32_MIN, INT32_MIN, INT32_MIN}));
  EXPECT_EQ(values_of<std::uint8_t>(cast(tensor<float>({2}, {-1.0f, 255.5f}), kUint8)), (std::vector<std::uint8_t>{255, 255}));
}

TEST(Cast, IntegersDropHighBits) {
  EXPECT_EQ(values_of<std::int8_t>(cast(tensor<std::int16_t>({2}, {200, -129}), kInt8)), (std::vector<std::int8_t>{-56, 127}));
  EXPECT_EQ(values_of<std::uint8_t>(cast(ints({-1, 256}), kUint8)), (std::vector<std::uint8_t>{255, 0}));
}

TEST(Cast, BooleansAreZeroOrOne) {
  EXPECT_EQ(values_of<std::uint8_t>(cast(tensor<float>({4}, {0.0f, -0.0f, 0.25f, kNan}), kBool)), (std::vector<std::uint8_t>{0, 0, 1, 1}));
  EXPECT_EQ(values_of<float>(cast(bools({2}, {0, 1}), kFloat)), (std::vector<float>{0, 1}));
}

TEST(Cast, WideSourcesRoundOnceToNarrowOnes) {
  // Just above the tie between 1 and the next f16: by way of float it would fall on the tie and round down.
  const double above_tie = 1.0 + 0x1p-11 + 0x1p-40;
  EXPECT_EQ(half_values(cast(tensor<double>({1}, {above_tie}), kHalf))[0], 1.0f + 0x1p-10f);
  EXPECT_EQ(half_values(cast(tensor<double>({1}, {-above_tie}), kHalf))[0], -1.0f - 0x1p-10f);
  const std::int64_t odd = (std::int64_t{1} << 40) + (std::int64_t{1} << 32) + 1;  // above the tie between two bf16
  EXPECT_EQ(half_values(cast(ints({odd}), kBfloat))[0], 0x1p40f + 0x1p33f);
  EXPECT_EQ(half_values(cast(ints({INT64_MIN}), kBfloat))[0], -0x1p63f);
  EXPECT_EQ(half_values(cast(tensor<float>({3}, {65519.0f, 65520.0f, 1e-8f}), kHalf)), (std::vector<float>{65504.0f, kInf, 0.0f}));
}

TEST(Cast, EightBitFloatsSaturateOrNot) {
  const HostTensor in = tensor<float>({5}, {448.0f, 1000.0f, kInf, -kInf, kNan});
  EXPECT_EQ(values_of<std::uint8_t>(cast(in.clone(), kE4m3)), (std::vector<std::uint8_t>{0x7e, 0x7e, 0x7e, 0xfe, 0x7f}));
  EXPECT_EQ(values_of<std::uint8_t>(cast(in.clone(), kE4m3, 0)), (std::vector<std::uint8_t>{0x7e, 0x7f, 0x7f, 0xff, 0x7f}));
  const auto e5m2 = values_of<std::uint8_t>(cast(tensor<float>({2}, {1e6f, kInf}), kE5m2, 0));
  EXPECT_EQ(e5m2, (std::vector<std::uint8_t>{0x7c, 0x7c}));
}

TEST(Cast, ScaleFloatsRoundUpByDefault) {
  const HostTensor in = tensor<float>({4}, {1.0f, 1.5f, 0.75f, kInf});
  EXPECT_EQ(values_of<std::uint8_t>(cast(in.clone(), kE8m0)), (std::vector<std::uint8_t>{127, 128, 127, 254}));
  OpRunner down("Cast", 25);
  down.attr("to", kE8m0).attr("round_mode", "down").in(in.clone());
  EXPECT_EQ(values_of<std::uint8_t>(down.run()), (std::vector<std::uint8_t>{127, 127, 126, 254}));
}

TEST(Cast, PacksFourAndTwoBits) {
  const HostTensor four = cast(tensor<float>({3}, {-8.0f, 7.0f, -1.0f}), kInt4);
  EXPECT_EQ(four.dtype(), DType::i4);
  EXPECT_EQ(values_of<std::uint8_t>(four), (std::vector<std::uint8_t>{0x78, 0x0f}));
  EXPECT_EQ(values_of<float>(cast(four.clone(), kFloat)), (std::vector<float>{-8, 7, -1}));
  EXPECT_EQ(values_of<std::int8_t>(cast(four.clone(), kInt8)), (std::vector<std::int8_t>{-8, 7, -1}));
  EXPECT_EQ(values_of<std::uint8_t>(cast(ints({1, 15, 16}), kUint4)), (std::vector<std::uint8_t>{0xf1, 0x00}));
  EXPECT_EQ(values_of<float>(cast(cast(tensor<float>({5}, {-2, -1, 0, 1, -2}), kInt2), kFloat)), (std::vector<float>{-2, -1, 0, 1, -2}));
  EXPECT_EQ(values_of<float>(cast(cast(tensor<float>({6}, {0.25f, 0.75f, -1.25f, 5.0f, 100.0f, 2.5f}), kFloat4), kFloat)),
            (std::vector<float>{0.0f, 1.0f, -1.0f, 4.0f, 6.0f, 2.0f}));
}

TEST(Cast, PackedRowsLongerThanABlock) {
  std::vector<float> in;
  for (int i = 0; i < 5001; ++i) in.push_back(static_cast<float>(i % 16 - 8));
  EXPECT_EQ(values_of<float>(cast(cast(tensor<float>({5001}, in), kInt4), kFloat)), in);
}

TEST(Cast, LikeAndBits) {
  OpRunner like("CastLike", 19), bits("BitCast", 26);
  like.in(tensor<float>({1}, {2.5f})).in(ints({0, 0}));
  EXPECT_EQ(values_of<std::int64_t>(like.run()), (std::vector<std::int64_t>{2}));
  bits.attr("to", kInt32).in(tensor<float>({1}, {1.0f}));
  EXPECT_EQ(values_of<std::int32_t>(bits.run()), (std::vector<std::int32_t>{0x3f800000}));
  OpRunner narrow("BitCast", 26), text("Cast", 18);
  narrow.attr("to", kInt64).in(tensor<float>({1}, {1.0f}));
  EXPECT_EQ(narrow.code(), Code::invalid_model);
  text.attr("to", 8).in(tensor<float>({1}, {1.0f}));
  EXPECT_EQ(text.code(), Code::unsupported);
}

}  // namespace
}  // namespace forebay
