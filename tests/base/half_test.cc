#include "base/half.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "support/random.h"

namespace forebay {
namespace {

constexpr Float8 kAll[] = {Float8::e4m3fn, Float8::e4m3fnuz, Float8::e5m2, Float8::e5m2fnuz};

TEST(Half, F16RoundTrips) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = f16_to_f32(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      EXPECT_EQ(f32_to_f16(value), half);
    }
    const float wide = bf16_to_f32(half);
    if (!std::isnan(wide)) {
      EXPECT_EQ(f32_to_bf16(wide), half);
    }
  }
}

TEST(Half, F16RoundsToNearestEven) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto low = static_cast<std::uint16_t>(bits);
    const auto high = static_cast<std::uint16_t>(bits + 1);
    const float high_value = bits == 0x7bff ? 65536.0f : f16_to_f32(high);
    const float middle = (f16_to_f32(low) + high_value) / 2;
    EXPECT_EQ(f32_to_f16(middle), bits % 2 == 0 ? low : high) << bits;
    EXPECT_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), low) << bits;
    EXPECT_EQ(f32_to_f16(std::nextafter(middle, 1e30f)), high) << bits;
  }
}

TEST(Half, KnownF8Values) {
  EXPECT_EQ(f8_to_f32(Float8::e4m3fn, 0x7e), 448.0f);
  EXPECT_EQ(f8_to_f32(Float8::e4m3fn, 0x01), 0x1p-9f);
  EXPECT_TRUE(std::isnan(f8_to_f32(Float8::e4m3fn, 0x7f)));
  EXPECT_EQ(f8_to_f32(Float8::e4m3fnuz, 0x7f), 240.0f);
  EXPECT_EQ(f8_to_f32(Float8::e4m3fnuz, 0x01), 0x1p-10f);
  EXPECT_TRUE(std::isnan(f8_to_f32(Float8::e4m3fnuz, 0x80)));
  EXPECT_EQ(f8_to_f32(Float8::e5m2, 0x7b), 57344.0f);
  EXPECT_TRUE(std::isinf(f8_to_f32(Float8::e5m2, 0x7c)));
  EXPECT_TRUE(std::isnan(f8_to_f32(Float8::e5m2, 0x7d)));
  EXPECT_EQ(f8_to_f32(Float8::e5m2fnuz, 0x7f), 57344.0f);
}

TEST(Half, F8RoundTripsAndRounds) {
  for (const Float8 format : kAll) {
    float before = -1;
    for (int bits = 0; bits < 256; ++bits) {
      const auto code = static_cast<std::uint8_t>(bits);
      const float value = f8_to_f32(format, code);
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(f8_to_f32(format, f32_to_f8(format, value, true))));
        continue;
      }
      EXPECT_EQ(f32_to_f8(format, value, false), code) << bits;
      if (bits < 128 && !std::isinf(value)) {
        EXPECT_GT(value, before);
        if (bits > 0) {
          const float middle = (value + before) / 2;
          const auto even = static_cast<std::uint8_t>(bits % 2 == 0 ? bits : bits - 1);
          EXPECT_EQ(f32_to_f8(format, middle, true), even) << bits;
          EXPECT_EQ(f32_to_f8(format, std::nextafter(middle, 1e30f), true), code) << bits;
          EXPECT_EQ(f32_to_f8(format, std::nextafter(middle, 0.0f), true), code - 1) << bits;
        }
        before = value;
      }
    }
  }
}

TEST(Half, F8Overflow) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(f32_to_f8(Float8::e4m3fn, 1e9f, true), 0x7e);
  EXPECT_EQ(f32_to_f8(Float8::e4m3fn, -inf, true), 0xfe);
  EXPECT_EQ(f32_to_f8(Float8::e4m3fn, 1e9f, false), 0x7f);
  EXPECT_EQ(f32_to_f8(Float8::e4m3fn, 464.0f, false), 0x7e);  // a tie goes to the even code
  EXPECT_EQ(f32_to_f8(Float8::e4m3fn, 464.1f, false), 0x7f);
  EXPECT_EQ(f32_to_f8(Float8::e4m3fnuz, -1e9f, true), 0xff);
  EXPECT_EQ(f32_to_f8(Float8::e4m3fnuz, -1e9f, false), 0x80);
  EXPECT_EQ(f32_to_f8(Float8::e5m2, 1e9f, true), 0x7b);
  EXPECT_EQ(f32_to_f8(Float8::e5m2, 1e9f, false), 0x7c);
  EXPECT_EQ(f32_to_f8(Float8::e5m2, -inf, false), 0xfc);
  EXPECT_EQ(f32_to_f8(Float8::e5m2fnuz, inf, false), 0x80);
  EXPECT_EQ(f32_to_f8(Float8::e4m3fnuz, -0.0f, true), 0x00);
  EXPECT_EQ(f32_to_f8(Float8::e4m3fnuz, -1e-9f, true), 0x00);
  EXPECT_EQ(f32_to_f8(Float8::e4m3fn, -0.0f, true), 0x80);
}

}  // namespace
}  // namespace forebay
