#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "op_runner.h"

namespace forebay {
namespace {

using Dims = std::vector<std::int64_t>;
using Floats = std::vector<float>;
constexpr float kInf = std::numeric_limits<float>::infinity();

HostTensor reduce(const char* op, HostTensor in, const Dims& axes, int keep = 0) {
  OpRunner runner(op, 18);
  runner.attr("keepdims", keep).in(std::move(in)).in(ints(axes));
  return runner.run();
}

TEST(Reduce, KnownAnswers) {
  struct Case {
    const char* op;
    Floats rows, columns;
  };
  const Case cases[] = {{"ReduceSum", {3, 7}, {4, 6}},
                        {"ReduceMean", {1.5f, 3.5f}, {2, 3}},
                        {"ReduceMax", {2, 4}, {3, 4}},
                        {"ReduceMin", {1, 3}, {1, 2}},
                        {"ReduceProd", {2, 12}, {3, 8}},
                        {"ReduceL1", {3, 7}, {4, 6}},
                        {"ReduceL2", {std::sqrt(5.0f), 5}, {std::sqrt(10.0f), std::sqrt(20.0f)}},
                        {"ReduceSumSquare", {5, 25}, {10, 20}},
                        {"ReduceLogSum", {std::log(3.0f), std::log(7.0f)}, {std::log(4.0f), std::log(6.0f)}},
                        {"ReduceLogSumExp",
                         {std::log(std::exp(1.0f) + std::exp(2.0f)), std::log(std::exp(3.0f) + std::exp(4.0f))},
                         {std::log(std::exp(1.0f) + std::exp(3.0f)), std::log(std::exp(2.0f) + std::exp(4.0f))}}};
  for (const Case& c : cases) {
    const HostTensor in = tensor<float>({2, 2}, {1, 2, 3, 4});
    const Floats rows = values_of<float>(reduce(c.op, in.clone(), {-1})), columns = values_of<float>(reduce(c.op, in.clone(), {0}));
    ASSERT_EQ(rows.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_FLOAT_EQ(rows[i], c.rows[i]) << c.op;
      EXPECT_FLOAT_EQ(columns[i], c.columns[i]) << c.op;
    }
  }
}

TEST(Reduce, EmptySets) {
  const std::pair<const char*, float> cases[] = {{"ReduceSum", 0.0f},     {"ReduceProd", 1.0f},       {"ReduceMax", -kInf},
                                                 {"ReduceMin", kInf},     {"ReduceL1", 0.0f},         {"ReduceL2", 0.0f},
                                                 {"ReduceLogSum", -kInf}, {"ReduceLogSumExp", -kInf}, {"ReduceSumSquare", 0.0f}};
  for (const auto& [op, value] : cases) {
    EXPECT_EQ(values_of<float>(reduce(op, HostTensor(DType::f32, Shape{2, 0}), {1})), (Floats{value, value})) << op;
    EXPECT_EQ(values_of<float>(reduce(op, HostTensor(DType::f32, Shape{0, 2}), {0})), (Floats{value, value})) << op;
    EXPECT_EQ(dims_of(reduce(op, HostTensor(DType::f32, Shape{0, 2}), {1}, 1)), (Dims{0, 1})) << op;
  }
}

TEST(Reduce, AxesFormsAndKeepdims) {
  OpRunner noop("ReduceSumSquare", 18), old("ReduceMax", 11), all("ReduceSum", 13), bad("ReduceSum", 13);
  EXPECT_EQ(values_of<float>(noop.attr("noop_with_empty_axes", 1).in(tensor<float>({2}, {2, 3})).run()), (Floats{4, 9}));
  EXPECT_EQ(dims_of(old.attr("axes", plan::AttributeValue(Dims{0, -1})).in(HostTensor(DType::f32, Shape{2, 3, 4})).run()), (Dims{1, 3, 1}));
  EXPECT_EQ(dims_of(all.attr("keepdims", 0).in(HostTensor(DType::f32, Shape{2, 3})).run()), Dims{});
  EXPECT_EQ(bad.in(HostTensor(DType::f32, Shape{2})).in(ints({1})).code(), Code::invalid_model);
}

TEST(Reduce, IntegersWrapAndTruncate) {
  EXPECT_EQ(values_of<std::int64_t>(reduce("ReduceSum", ints({INT64_MAX, 1}), {0}))[0], INT64_MIN);
  EXPECT_EQ(values_of<std::int64_t>(reduce("ReduceMean", ints({-3, 0}), {0}))[0], -1);
  EXPECT_EQ(values_of<std::int64_t>(reduce("ReduceL1", ints({-3, 4}), {0}))[0], 7);
  EXPECT_EQ(values_of<std::int64_t>(reduce("ReduceL2", ints({-3, 4}), {0}))[0], 5);
  EXPECT_EQ(values_of<std::int64_t>(reduce("ReduceMax", ints({INT64_MIN, -5}), {0}))[0], -5);
  EXPECT_EQ(values_of<std::uint8_t>(reduce("ReduceMin", bools({3}, {1, 0, 1}), {0}))[0], 0);
}

TEST(Reduce, ExtremesOfLogSumExp) {
  EXPECT_FLOAT_EQ(values_of<float>(reduce("ReduceLogSumExp", tensor<float>({2}, {1000, 1000}), {0}))[0], 1000 + std::log(2.0f));
  EXPECT_EQ(values_of<float>(reduce("ReduceLogSumExp", tensor<float>({2}, {-kInf, -kInf}), {0}))[0], -kInf);
  EXPECT_EQ(values_of<float>(reduce("ReduceLogSumExp", tensor<float>({2}, {kInf, 0}), {0}))[0], kInf);
}

// Against a plain sum in double, over shapes that reach every way through the plan; and the same bits for any number of threads.
TEST(Reduce, ShapesAndThreads) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> draw(-1, 1);
  const std::vector<std::pair<Shape, Dims>> cases = {{{3, 4, 5}, {1}},  {{3, 4, 5}, {0, 2}},         {{7, 1, 9000}, {2}},
                                                     {{300, 700}, {0}}, {{2, 3, 4, 5}, {1, 3}},      {{40000}, {0}},
                                                     {{5, 1}, {1}},     {{2, 3, 4, 5}, {0, 1, 2, 3}}};
  for (const auto& [shape, axes] : cases) {
    HostTensor in(DType::f32, shape);
    for (float& value : in.as<float>()) value = draw(random);
    const auto run = [&](int threads) {
      OpRunner op("ReduceSum", 18, threads);
      return op.in(in.clone()).in(ints(axes)).run();
    };
    const HostTensor one = run(1), three = run(3);
    EXPECT_EQ(values_of<float>(one), values_of<float>(three));
    std::vector<double> sums(one.as<float>().size(), 0.0);
    for (std::int64_t flat = 0; flat < shape.elements(); ++flat) {
      std::int64_t rest = flat, to = 0, stride = 1;
      for (int d = shape.rank() - 1; d >= 0; --d) {
        to += (rest % shape[d]) % one.shape()[d] * stride;
        stride *= one.shape()[d];
        rest /= shape[d];
      }
      sums[static_cast<std::size_t>(to)] += static_cast<double>(in.as<float>()[static_cast<std::size_t>(flat)]);
    }
    for (std::size_t i = 0; i < sums.size(); ++i) EXPECT_NEAR(one.as<float>()[i], sums[i], 2e-5 * std::max(1.0, std::fabs(sums[i])));
  }
}

TEST(Reduce, HalvesAddUpInWider) {
  const std::vector<float> ones(4096, 1.0f);  // in f16 a running sum would stop at 2048
  EXPECT_EQ(half_values(reduce("ReduceSum", halves(DType::f16, {4096}, ones), {0}))[0], 4096.0f);
  EXPECT_EQ(half_values(reduce("ReduceMean", halves(DType::bf16, {4096, 1}, ones), {0}))[0], 1.0f);
}

TEST(Search, ArgMaxTies) {
  const auto arg = [](const char* op, HostTensor in, int last, std::int64_t axis) {
    OpRunner runner(op, 13);
    return values_of<std::int64_t>(runner.attr("axis", axis).attr("select_last_index", last).in(std::move(in)).run());
  };
  EXPECT_EQ(arg("ArgMax", tensor<float>({4}, {1, 5, 5, 2}), 0, 0), (Dims{1}));
  EXPECT_EQ(arg("ArgMax", tensor<float>({4}, {1, 5, 5, 2}), 1, 0), (Dims{2}));
  EXPECT_EQ(arg("ArgMin", tensor<float>({2, 2}, {4, 1, 3, 1}), 0, -2), (Dims{1, 0}));
  EXPECT_EQ(arg("ArgMax", tensor<float>({3}, {1, std::nanf(""), kInf}), 0, 0), (Dims{1}));
  EXPECT_EQ(arg("ArgMax", halves(DType::f16, {2}, {-1, -2}), 0, 0), (Dims{0}));
  EXPECT_EQ(OpRunner("ArgMax").in(HostTensor(DType::f32, Shape{0})).code(), Code::invalid_model);
}

TEST(Search, TopK) {
  OpRunner largest("TopK", 11), smallest("TopK", 11), none("TopK", 11), beyond("TopK", 11);
  auto out = largest.outputs(2).in(tensor<float>({5}, {1, 3, 3, 2, 5})).in(ints({3})).run_all();
  EXPECT_EQ(values_of<float>(out[0]), (Floats{5, 3, 3}));
  EXPECT_EQ(values_of<std::int64_t>(out[1]), (Dims{4, 1, 2}));
  out = smallest.attr("largest", 0)
            .attr("axis", 0)
            .outputs(2)
            .in(tensor<std::uint64_t>({2, 2}, {UINT64_MAX, 1, 5, 9}))
            .in(ints({1}))
            .run_all();
  EXPECT_EQ(values_of<std::uint64_t>(out[0]), (std::vector<std::uint64_t>{5, 1}));
  EXPECT_EQ(dims_of(none.outputs(2).in(tensor<float>({2}, {1, 2})).in(ints({0})).run_all()[0]), (Dims{0}));
  EXPECT_EQ(beyond.outputs(2).in(tensor<float>({2}, {1, 2})).in(ints({3})).code(), Code::invalid_model);
}

TEST(Search, HardmaxByVersion) {
  OpRunner flat("Hardmax", 11), last("Hardmax", 13);
  const HostTensor in = tensor<float>({1, 2, 2}, {1, 2, 4, 3});
  EXPECT_EQ(values_of<float>(flat.in(in.clone()).run()), (Floats{0, 0, 1, 0}));
  EXPECT_EQ(values_of<float>(last.in(in.clone()).run()), (Floats{0, 1, 1, 0}));
}

TEST(CumSum, Directions) {
  struct Case {
    int exclusive, reverse;
    Floats out;
  };
  const Case cases[] = {{0, 0, {1, 3, 6}}, {1, 0, {0, 1, 3}}, {0, 1, {6, 5, 3}}, {1, 1, {5, 3, 0}}};
  for (const Case& c : cases) {
    OpRunner op("CumSum");
    op.attr("exclusive", c.exclusive).attr("reverse", c.reverse).in(tensor<float>({3}, {1, 2, 3})).in(tensor<std::int32_t>({}, {-1}));
    EXPECT_EQ(values_of<float>(op.run()), c.out);
  }
  EXPECT_EQ(values_of<float>(OpRunner("CumSum").in(tensor<float>({2, 2}, {1, 2, 3, 4})).in(tensor<std::int64_t>({}, {0})).run()),
            (Floats{1, 2, 4, 6}));
}

}  // namespace
}  // namespace forebay
