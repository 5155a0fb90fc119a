#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "op_runner.h"

namespace forebay {
namespace {

HostTensor normal(float seed, int threads = 2) {
  OpRunner op("RandomNormal", 18, threads);
  op.attr("shape", plan::AttributeValue(std::vector<std::int64_t>{100, 100})).attr("seed", seed).attr("mean", 2.0f).attr("scale", 0.5f);
  return op.run();
}

TEST(Random, SeedDecidesAndThreadsDoNot) {
  EXPECT_EQ(values_of<float>(normal(1)), values_of<float>(normal(1, 5)));
  EXPECT_NE(values_of<float>(normal(1)), values_of<float>(normal(2)));
}

TEST(Random, MomentsAreRight) {
  const std::vector<float> values = values_of<float>(normal(3));
  double mean = 0, square = 0;
  for (const float v : values) mean += v;
  mean /= static_cast<double>(values.size());
  for (const float v : values) square += (v - mean) * (v - mean);
  EXPECT_NEAR(mean, 2.0, 0.03);
  EXPECT_NEAR(std::sqrt(square / static_cast<double>(values.size())), 0.5, 0.02);
}

TEST(Random, UniformStaysInItsRange) {
  OpRunner op("RandomUniformLike");
  op.attr("low", -1.0f).attr("high", 3.0f).attr("seed", 4.0f).in(HostTensor(DType::f64, Shape{5000}));
  const HostTensor out = op.run();
  double least = 10, most = -10;
  for (const double v : out.as<double>()) {
    least = std::min(least, v);
    most = std::max(most, v);
  }
  EXPECT_GE(least, -1.0);
  EXPECT_LT(least, -0.9);
  EXPECT_LT(most, 3.0);
  EXPECT_GT(most, 2.9);
}

TEST(Random, BernoulliFollowsItsProbabilities) {
  OpRunner op("Bernoulli");
  HostTensor p(DType::f32, Shape{3, 4000});
  for (std::size_t i = 0; i < 12000; ++i) p.as<float>()[i] = i < 4000 ? 0.0f : i < 8000 ? 1.0f : 0.25f;
  const HostTensor out = op.attr("dtype", 9).attr("seed", 1.0f).in(std::move(p)).run();
  const auto values = out.as<std::uint8_t>();
  EXPECT_EQ(std::count(values.begin(), values.begin() + 4000, 1), 0);
  EXPECT_EQ(std::count(values.begin() + 4000, values.begin() + 8000, 1), 4000);
  EXPECT_NEAR(static_cast<double>(std::count(values.begin() + 8000, values.end(), 1)), 1000.0, 120.0);
}

TEST(Random, MultinomialFollowsItsLogits) {
  OpRunner op("Multinomial");
  const HostTensor out =
      op.attr("sample_size", 6000).attr("seed", 1.0f).in(tensor<float>({1, 3}, {std::log(1.0f), -HUGE_VALF, std::log(3.0f)})).run();
  const auto values = out.as<std::int32_t>();
  EXPECT_EQ(std::count(values.begin(), values.end(), 1), 0);
  EXPECT_NEAR(static_cast<double>(std::count(values.begin(), values.end(), 2)), 4500.0, 200.0);
}

TEST(Random, IsNeverFolded) {
  for (const char* name : {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}) {
    EXPECT_NE(OpRegistry::builtin().find("", name, 18)->flags & kOpRandom, 0u) << name;
  }
}

}  // namespace
}  // namespace forebay
