// Channels-last operators beside the ONNX ones that they stand for, with the images and weights turned by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/kernels_harness.h"

namespace forebay::testing {
namespace {

using Ints = std::vector<std::int64_t>;

plan::AttributeValue ints(Ints values) {
  return plan::AttributeValue(std::move(values));
}
plan::AttributeValue integer(std::int64_t value) {
  return plan::AttributeValue(value);
}

class Nhwc : public ::testing::Test {
 protected:
  HostTensor made(const NodeRun& run) {
    auto outputs = run_node(run, pool_);
    EXPECT_TRUE(outputs.ok()) << run.op << ": " << outputs.status().to_string();
    return outputs.ok() ? std::move((*outputs)[0]) : HostTensor();
  }
  HostTensor turned(const HostTensor& x) { return made({"", "Transpose", 13, {{"perm", ints({0, 2, 3, 1})}}, {&x}, 1, plan::kNone, {}}); }
  void close(const HostTensor& a, const HostTensor& b, double tolerance, const std::string& what) {
    ASSERT_EQ(a.shape(), b.shape()) << what;
    for (std::int64_t i = 0; i < a.shape().elements(); ++i)
      ASSERT_LE(std::abs(number(a, i) - number(b, i)), tolerance * std::max(1.0, std::abs(number(a, i)))) << what << " at " << i;
  }

  std::mt19937_64 random_{7};
  ThreadPool pool_{2};
};

TEST_F(Nhwc, ConvolutionsAreThoseOfTurnedImages) {
  struct Case {
    Ints x, w;
    std::int64_t group;
    Ints strides, pads, dilations;
  };
  const Case cases[] = {{{2, 8, 9, 11}, {6, 8, 3, 3}, 1, {2, 1}, {1, 0, 2, 1}, {1, 2}},
                        {{1, 12, 5, 5}, {12, 1, 5, 5}, 12, {1, 1}, {2, 2, 2, 2}, {1, 1}},
                        {{2, 12, 7, 6}, {8, 3, 3, 2}, 4, {1, 2}, {0, 1, 1, 0}, {1, 1}},
                        {{3, 17, 1, 1}, {5, 17, 1, 1}, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}}};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const Case& c : cases) {
      const std::string what = std::string(dtype_name(type)) + ", case " + std::to_string(&c - cases);
      const HostTensor x = random_tensor(random_, type, Shape(c.x)), w = random_tensor(random_, type, Shape(c.w)),
                       b = random_tensor(random_, type, Shape{c.w[0]});
      NodeRun run{"forebay", "Conv", 1, {}, {&x, &w, &b}, 1, plan::kNone, {}};
      run.attributes = {{"group", integer(c.group)},
                        {"strides", ints(c.strides)},
                        {"pads", ints(c.pads)},
                        {"dilations", ints(c.dilations)},
                        {"activation", plan::AttributeValue(std::string("Relu"))}};
      const HostTensor sum = random_tensor(random_, type, made(run).shape());
      run.inputs.push_back(&sum);
      const HostTensor expected = turned(made(run)), last = turned(x), weights = turned(w), sums = turned(sum);
      run.op = "NhwcConv";
      run.attributes.push_back({"kernel_shape", ints({c.w[2], c.w[3]})});
      run.inputs = {&last, &weights, &b, &sums};
      const double tolerance = type == DType::f32 ? 1e-5 : type == DType::f16 ? 2e-3 : 2e-2;
      const HostTensor whole = made(run);
      close(expected, whole, tolerance, what);
      if (c.group != 1 && c.w[1] != 1) continue;
      run.sliced = 1;
      run.slab_rows = random_cut(random_, c.w[0]);
      EXPECT_TRUE(same_bytes(whole, made(run))) << what;
    }
  }
}

TEST_F(Nhwc, PoolsAreThoseOfTurnedImages) {
  const std::vector<plan::Attribute> window = {{"kernel_shape", ints({3, 2})}, {"strides", ints({2, 1})}, {"pads", ints({1, 0, 1, 1})}};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const double tolerance = type == DType::f32 ? 1e-6 : type == DType::f16 ? 1e-3 : 1e-2;
    const HostTensor x = random_tensor(random_, type, Shape{2, 5, 9, 7}), last = turned(x);
    for (const char* op : {"MaxPool", "AveragePool"})
      close(turned(made({"", op, 11, window, {&x}, 1, plan::kNone, {}})),
            made({"forebay", std::string("Nhwc") + op, 1, window, {&last}, 1, plan::kNone, {}}), tolerance, op);
    std::vector<plan::Attribute> padded = window;
    padded.push_back({"count_include_pad", integer(1)});
    close(turned(made({"", "AveragePool", 11, padded, {&x}, 1, plan::kNone, {}})),
          made({"forebay", "NhwcAveragePool", 1, padded, {&last}, 1, plan::kNone, {}}), tolerance, "padded");
    close(turned(made({"", "GlobalAveragePool", 1, {}, {&x}, 1, plan::kNone, {}})),
          made({"forebay", "NhwcGlobalAveragePool", 1, {}, {&last}, 1, plan::kNone, {}}), tolerance, "mean");
  }
}

TEST_F(Nhwc, FactorsAndTurnsKeepEveryBit) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{2, 3, 5, 4}), last = turned(x);
    EXPECT_TRUE(same_bytes(last, made({"forebay", "NhwcFromNchw", 1, {}, {&x}, 1, plan::kNone, {}})));
    const HostTensor wide = made({"forebay", "NhwcFromNchw", 1, {{"channels", integer(4)}}, {&x}, 1, plan::kNone, {}});
    ASSERT_EQ(wide.shape(), (Shape{2, 5, 4, 4}));
    for (std::int64_t i = 0; i < wide.shape().elements(); ++i) {
      const double expected = i % 4 == 3 ? 0.0 : number(last, i / 4 * 3 + i % 4);
      ASSERT_EQ(number(wide, i), expected) << i;
    }
    for (const std::int64_t images : {1, 2}) {
      const HostTensor scale = random_tensor(random_, type, Shape{images, 1, 1, 3});
      const HostTensor product = made({"forebay", "NhwcScale", 1, {}, {&last, &scale}, 1, plan::kNone, {}});
      const HostTensor w = random_tensor(random_, type, Shape{7, 3});
      const std::vector<plan::Attribute> point = {{"kernel_shape", ints({1, 1})}};
      close(made({"forebay", "NhwcConv", 1, point, {&product, &w}, 1, plan::kNone, {}}),
            made({"forebay", "NhwcConv", 1, point, {&last, &w, nullptr, nullptr, &scale}, 1, plan::kNone, {}}),
            type == DType::f32   ? 1e-6
            : type == DType::f16 ? 4e-3
                                 : 4e-2,
            "factors in a convolution");
      EXPECT_TRUE(same_bytes(made({"", "Mul", 14, {}, {&last, &scale}, 1, plan::kNone, {}}),
                             made({"forebay", "NhwcScale", 1, {}, {&last, &scale}, 1, plan::kNone, {}})));
    }
  }
}

TEST_F(Nhwc, SqueezesAreAMeanAndTwoProducts) {
  const auto activated = [](std::vector<plan::Attribute> attributes, const char* name, const char* activation) {
    attributes.push_back({name, plan::AttributeValue(std::string(activation))});
    return attributes;
  };
  const std::vector<plan::Attribute> point = {{"kernel_shape", ints({1, 1})}};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{3, 4, 5, 24}), w = random_tensor(random_, type, Shape{5, 24}),
                     b = random_tensor(random_, type, Shape{5}), v = random_tensor(random_, type, Shape{16, 5, 1, 1}),
                     c = random_tensor(random_, type, Shape{16});
    const HostTensor mean = made({"forebay", "NhwcGlobalAveragePool", 1, {}, {&x}, 1, plan::kNone, {}});
    const HostTensor narrow = made({"forebay", "NhwcConv", 1, activated(point, "activation", "Relu"), {&mean, &w, &b}, 1, plan::kNone, {}});
    const HostTensor wide =
        made({"forebay", "NhwcConv", 1, activated(point, "activation", "Sigmoid"), {&narrow, &v, &c}, 1, plan::kNone, {}});
    const std::vector<plan::Attribute> both = activated(activated({}, "squeeze_activation", "Relu"), "activation", "Sigmoid");
    close(wide, made({"forebay", "NhwcSqueeze", 1, both, {&x, &w, &b, &v, &c}, 1, plan::kNone, {}}),
          type == DType::f32   ? 1e-6
          : type == DType::f16 ? 2e-3
                               : 2e-2,
          "squeeze");
    const auto refused = run_node({"forebay", "NhwcSqueeze", 1, both, {&x, &v, &c, &w, &b}, 1, plan::kNone, {}}, pool_);
    EXPECT_EQ(refused.status().code(), Code::invalid_model) << refused.status().to_string();
  }
}

// The number of taps is an attribute, which nothing else of the graph holds to the weight.
TEST_F(Nhwc, WindowsWhoseNumbersWrapAreRefused) {
  const std::int64_t wide = std::int64_t{1} << 31;
  const HostTensor x = random_tensor(random_, DType::f32, Shape{1, 2, 2, 4}), none = random_tensor(random_, DType::f32, Shape{4, 0});
  const NodeRun run{"forebay",   "NhwcConv", 1,           {{"kernel_shape", ints({wide, wide})}, {"pads", ints({wide, wide, wide, wide})}},
                    {&x, &none}, 1,          plan::kNone, {}};
  const auto refused = run_node(run, pool_);
  EXPECT_EQ(refused.status().code(), Code::invalid_model) << refused.status().to_string();
}

}  // namespace
}  // namespace forebay::testing
