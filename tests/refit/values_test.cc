#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "base/half.h"
#include "refit/source_view.h"
#include "refit/value_scan.h"
#include "support/random.h"
#include "support/status_test.h"

namespace forebay::test {
namespace {

using refit::cast_loss;
using refit::CastLoss;
using refit::count_non_finite;
using refit::Found;

// The slow judge: exponent bits all set, value by value.
template <typename Bits>
Found slow_count(std::span<const Bits> values, Bits exponent) {
  Found found;
  for (std::size_t i = 0; i < values.size(); ++i)
    if ((values[i] & exponent) == exponent) found.add({1, i}, 0);
  return found;
}

template <typename Bits>
void compare_counts(DType dtype, Bits exponent, std::uint64_t seed) {
  Random random(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<Bits> values(random.below(9000));
    const bool clean = round % 3 == 0;
    for (Bits& value : values) {
      value = static_cast<Bits>(random.next());
      if (clean && (value & exponent) == exponent) value = 0;
      if (round % 3 == 1 && !random.chance(1000)) value = static_cast<Bits>(value & static_cast<Bits>(~(exponent & (~exponent + 1))));
    }
    const Found fast = count_non_finite(dtype, std::as_bytes(std::span(values)));
    const Found slow = slow_count<Bits>(values, exponent);
    ASSERT_EQ(fast.count, slow.count);
    if (slow.count != 0) { ASSERT_EQ(fast.first, slow.first); }
  }
}

TEST(NonFinite, CountsLikeTheSlowJudge) {
  compare_counts<std::uint16_t>(DType::f16, 0x7c00, 1);
  compare_counts<std::uint16_t>(DType::bf16, 0x7f80, 2);
  compare_counts<std::uint32_t>(DType::f32, 0x7f800000u, 3);
  compare_counts<std::uint64_t>(DType::f64, 0x7ff0000000000000u, 4);
  compare_counts<std::uint8_t>(DType::f8e5m2, 0x7c, 5);
  compare_counts<std::uint8_t>(DType::f8e4m3fn, 0x7f, 6);
}

TEST(NonFinite, OtherTypesHaveTheirOwnRules) {
  const std::uint8_t bytes[] = {0x00, 0x80, 0xff, 0x7f, 0x80};
  const auto all = std::as_bytes(std::span(bytes));
  EXPECT_EQ(count_non_finite(DType::f8e4m3fnuz, all).count, 2u);
  EXPECT_EQ(count_non_finite(DType::f8e4m3fnuz, all).first, 1u);
  EXPECT_EQ(count_non_finite(DType::f8e8m0, all).count, 1u);
  EXPECT_EQ(count_non_finite(DType::i8, all).count, 0u);
  EXPECT_EQ(count_non_finite(DType::boolean, all).count, 0u);
  EXPECT_EQ(count_non_finite(DType::f32, {}).count, 0u);
}

HostTensor floats(std::initializer_list<float> values) {
  HostTensor tensor(DType::f32, Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.as<float>().begin());
  return tensor;
}

TEST(CastLoss, TellsOverflowAndFlushWithTheFirst) {
  const float inf = std::numeric_limits<float>::infinity();
  const HostTensor from = floats({1.0f, 65504.0f, 70000.0f, 1e-9f, 0.0f, -0.0f, inf, std::nanf(""), -1e30f, 6e-8f});
  HostTensor to(DType::f16, from.shape());
  for (std::size_t i = 0; i < 10; ++i) to.as<std::uint16_t>()[i] = f32_to_f16(from.as<float>()[i]);
  const CastLoss loss = cast_loss(from, to);
  EXPECT_EQ(loss.overflow.count, 2u);
  EXPECT_EQ(loss.overflow.first, 2u);
  EXPECT_EQ(loss.flush.count, 1u);
  EXPECT_EQ(loss.flush.first, 3u);
}

TEST(CastLoss, NarrowIntegersAndSaturatingFloats) {
  HostTensor from(DType::i64, Shape{4}), to(DType::i8, Shape{4});
  const std::int64_t wide[] = {1, -128, 128, std::numeric_limits<std::int64_t>::max()};
  for (std::size_t i = 0; i < 4; ++i) {
    from.as<std::int64_t>()[i] = wide[i];
    to.as<std::int8_t>()[i] = static_cast<std::int8_t>(wide[i]);
  }
  CastLoss loss = cast_loss(from, to);
  EXPECT_EQ(loss.overflow.count, 2u);
  EXPECT_EQ(loss.overflow.first, 2u);

  const HostTensor big = floats({1.0f, 448.0f, 449.0f, 1000.0f, 1e-12f});
  HostTensor small(DType::f8e4m3fn, big.shape());
  for (std::size_t i = 0; i < 5; ++i) small.as<std::uint8_t>()[i] = f32_to_f8(Float8::e4m3fn, big.as<float>()[i], true);
  loss = cast_loss(big, small);
  EXPECT_EQ(loss.overflow.count, 1u);  // 449 rounds to 448, 1000 is clipped
  EXPECT_EQ(loss.overflow.first, 3u);
  EXPECT_EQ(loss.flush.count, 1u);

  const HostTensor fractions = floats({1.5f, -0.5f, 3e9f});
  HostTensor whole(DType::i32, fractions.shape());
  whole.as<std::int32_t>()[0] = 1;
  whole.as<std::int32_t>()[1] = 0;
  whole.as<std::int32_t>()[2] = std::numeric_limits<std::int32_t>::max();
  loss = cast_loss(fractions, whole);  // cutting a fraction is what the cast is for
  EXPECT_EQ(loss.overflow.count, 1u);
  EXPECT_EQ(loss.overflow.first, 2u);
  EXPECT_EQ(loss.flush.count, 0u);
}

SourceTensor in_memory(const HostTensor& tensor) {
  SourceTensor source;
  source.name = "t";
  source.dtype = tensor.dtype();
  source.shape = tensor.shape();
  source.memory = std::make_shared<const HostTensor>(tensor.clone());
  source.stored_bytes = tensor.bytes();
  return source;
}

TEST(SourceView, TransposesAnyRange) {
  Random random(7);
  for (const DType dtype : {DType::u8, DType::bf16, DType::f32, DType::i64}) {
    for (int round = 0; round < 40; ++round) {
      Shape shape;
      if (random.chance(2)) shape.push_back(1 + static_cast<std::int64_t>(random.below(3)));
      shape.push_back(1 + static_cast<std::int64_t>(random.below(70)));
      shape.push_back(1 + static_cast<std::int64_t>(random.below(70)));
      const HostTensor tensor = random_tensor(dtype, shape, random.next());
      const SourceTensor source = in_memory(tensor);
      const refit::SourceView view(source, true);
      const std::int64_t rows = shape[shape.rank() - 2], columns = shape[shape.rank() - 1], batches = shape.elements() / rows / columns;
      const auto element = static_cast<std::size_t>(dtype_bits(dtype) / 8);
      std::vector<std::byte> wanted(tensor.bytes());
      for (std::int64_t b = 0; b < batches; ++b)
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t c = 0; c < columns; ++c)
            std::memcpy(wanted.data() + static_cast<std::size_t>(b * rows * columns + c * rows + r) * element,
                        tensor.data() + static_cast<std::size_t>(b * rows * columns + r * columns + c) * element, element);
      EXPECT_EQ(view.shape()[shape.rank() - 1], rows);
      ASSERT_VALUE(const HostTensor whole, view.load());
      ASSERT_EQ(std::memcmp(whole.data(), wanted.data(), wanted.size()), 0);
      const std::size_t begin = random.below(wanted.size() / element) * element;
      const std::size_t size = (1 + random.below((wanted.size() - begin) / element)) * element;
      std::vector<std::byte> part(size);
      ASSERT_OK(view.read(begin, part));
      ASSERT_EQ(std::memcmp(part.data(), wanted.data() + begin, size), 0);
      ASSERT_VALUE(const Sha256 digest, view.digest({}));
      EXPECT_EQ(digest, sha256(wanted));
    }
  }
}

}  // namespace
}  // namespace forebay::test
