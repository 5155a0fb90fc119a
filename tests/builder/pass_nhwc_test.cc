// Images with their channels together: what is turned, what stays, and that the outputs are those of the graph as written.
#include <algorithm>

#include "builder/fused_graph.h"

namespace forebay::builder::test {
namespace {

using Ints = std::vector<std::int64_t>;
using Ops = std::vector<std::string>;

class NhwcPassTest : public ::testing::Test {
 protected:
  NhwcPassTest() { graph_.input("x", type_, {"n", "3", "19", "17"}).output("y"); }

  HostTensor values(Ints dims, std::uint32_t seed) const { return halves(floats(dims, seed, -0.3f, 0.3f)); }
  void conv(const std::string& x, const std::string& y, Ints w, std::int64_t group = 1, Ints strides = {1, 1}) {
    const std::int64_t pad = w[2] / 2;
    graph_.initializer(y + "_w", values(w, seed_++));
    graph_.initializer(y + "_b", values({w[0]}, seed_++));
    graph_.node("Conv", {x, y + "_w", y + "_b"}, {y}).with("pads", Ints{pad, pad, pad, pad}).with("strides", strides).with("group", group);
  }
  // The plan's operators with and without; their outputs agree.
  Ops turned() {
    Options last;
    last.channels_last = true;
    const auto with = build_model(graph_.model(), last), without = build_model(graph_.model());
    EXPECT_TRUE(with.ok() && without.ok()) << with.status().to_string() << without.status().to_string();
    if (!with.ok() || !without.ok()) return {};
    for (const std::string& op : ops_of(without->plan.graphs[0])) EXPECT_FALSE(op.starts_with("Nhwc")) << op;
    Feeds feeds;
    feeds["x"] = values({2, 3, 19, 17}, 99);
    const std::vector<HostTensor> got = run_plan(*with, feeds), want = run_plan(*without, feeds);
    EXPECT_EQ(got[0].shape().to_string(), want[0].shape().to_string());
    for (std::size_t i = 0; i < static_cast<std::size_t>(want[0].shape().elements()); ++i)
      EXPECT_NEAR(element(got[0], i), element(want[0], i), 4e-3 * (1 + std::abs(element(want[0], i)))) << i;
    return ops_of(with->plan.graphs[0]);
  }

  DType type_ = DType::f16;
  std::uint32_t seed_ = 1;
  GraphMaker graph_;
};

TEST_F(NhwcPassTest, AResidualNetworkIsTurnedOnceAtItsInput) {
  conv("x", "stem", {16, 3, 7, 7}, 1, {2, 2});
  graph_.node("Relu", {"stem"}, {"r0"}).node("MaxPool", {"r0"}, {"p0"}).with("kernel_shape", Ints{3, 3}).with("strides", Ints{2, 2});
  conv("p0", "c1", {16, 16, 3, 3});
  graph_.node("Relu", {"c1"}, {"r1"});
  conv("r1", "c2", {16, 16, 1, 1});
  graph_.node("Add", {"c2", "p0"}, {"sum"})
      .node("Relu", {"sum"}, {"r2"})
      .node("Concat", {"r2", "p0"}, {"joined"})
      .with("axis", std::int64_t{1});
  graph_.node("GlobalAveragePool", {"joined"}, {"mean"}).node("Flatten", {"mean"}, {"y"});
  EXPECT_EQ(turned(), (Ops{"NhwcFromNchw", "NhwcConv", "NhwcMaxPool", "NhwcConv", "NhwcConv", "Concat", "NhwcGlobalAveragePool",
                           "Transpose", "Flatten"}));
}

TEST_F(NhwcPassTest, GatesAreFactorsOfChannels) {
  conv("x", "stem", {16, 3, 3, 3});
  graph_.node("HardSwish", {"stem"}, {"s"});
  conv("s", "depth", {16, 1, 5, 5}, 16);
  graph_.node("GlobalAveragePool", {"depth"}, {"mean"});
  conv("mean", "down", {6, 16, 1, 1});
  graph_.node("Relu", {"down"}, {"narrow"});
  conv("narrow", "up", {16, 6, 1, 1});
  graph_.node("Sigmoid", {"up"}, {"gate"}).node("Mul", {"gate", "depth"}, {"gated"});
  conv("gated", "last", {8, 16, 1, 1});
  graph_.node("Softmax", {"last"}, {"y"}).with("axis", std::int64_t{1});
  EXPECT_EQ(turned(), (Ops{"NhwcFromNchw", "NhwcConv", "NhwcConv", "NhwcSqueeze", "NhwcConv", "Transpose", "Softmax"}));
}

TEST_F(NhwcPassTest, AMeanWithAnotherReaderIsNotAGatesAlone) {
  conv("x", "stem", {16, 3, 3, 3});
  graph_.node("GlobalAveragePool", {"stem"}, {"mean"});
  conv("mean", "down", {8, 16, 1, 1});
  conv("down", "up", {16, 8, 1, 1});
  graph_.node("Add", {"up", "mean"}, {"sum"}).node("Mul", {"stem", "sum"}, {"gated"});
  conv("gated", "last", {8, 16, 1, 1});
  graph_.node("Softmax", {"last"}, {"y"}).with("axis", std::int64_t{1});
  const Ops ops = turned();
  EXPECT_EQ(std::count(ops.begin(), ops.end(), "NhwcSqueeze"), 0);
  EXPECT_EQ(std::count(ops.begin(), ops.end(), "NhwcGlobalAveragePool"), 1);
}

TEST_F(NhwcPassTest, WhatGainsNothingStays) {
  conv("x", "odd", {5, 3, 3, 3});  // its one reader is no image operator
  graph_.node("Flatten", {"odd"}, {"y"});
  EXPECT_EQ(turned(), (Ops{"Conv", "Flatten"}));
}

TEST_F(NhwcPassTest, ImagesOfF32Stay) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"1", "8", "9", "9"})
      .output("y")
      .initializer("w", floats({8, 8, 3, 3}, 1))
      .initializer("v", floats({8, 8, 1, 1}, 2));
  graph.node("Conv", {"x", "w"}, {"a"}).node("Conv", {"a", "v"}, {"y"});
  Options last;
  last.channels_last = true;
  const auto built = build_model(graph.model(), last);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(ops_of(built->plan.graphs[0]), (Ops{"Conv", "Conv"}));
}

}  // namespace
}  // namespace forebay::builder::test
