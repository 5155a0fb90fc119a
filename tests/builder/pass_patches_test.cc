// Convolutions of patches side by side become products of rows where the places are made rows; others stay. Outputs are those of the graph
// as written.
#include "builder/fused_graph.h"

namespace forebay::builder::test {
namespace {

using Ints = std::vector<std::int64_t>;
using Ops = std::vector<std::string>;

struct Patches {
  DType type = DType::f16;
  Ints window{4, 8}, strides{4, 8}, pads{0, 0, 0, 0}, perm{0, 2, 1};
  bool biased = true, read_twice = false, asks = false;  // asks: the target shape is made of the convolution's own
};

// The plan's operators; its outputs agree with those of the plan that leaves images as they are.
Ops ops_with(const Patches& p) {
  constexpr std::int64_t kFilters = 24, kHeight = 20, kWidth = 32;
  const auto values = [&](Ints dims, std::uint32_t seed) {
    HostTensor made = floats(dims, seed, -0.3f, 0.3f);
    return p.type == DType::f32 ? std::move(made) : halves(made);
  };
  GraphMaker graph;
  graph.input("x", p.type, {"n", "3", std::to_string(kHeight), std::to_string(kWidth)}).output("y");
  graph.initializer("w", values({kFilters, 3, p.window[0], p.window[1]}, 1)).initializer("shape", integers({0, kFilters, -1}));
  std::vector<std::string> inputs{"x", "w"};
  if (p.biased) {
    graph.initializer("b", values({kFilters}, 2));
    inputs.push_back("b");
  }
  graph.node("Conv", inputs, {"c"}).with("strides", p.strides).with("pads", p.pads);
  if (p.asks) {
    graph.initializer("zero", integers({0})).initializer("two", integers({2})).initializer("rest", integers({-1}));
    graph.node("Shape", {"c"}, {"sizes"}).node("Slice", {"sizes", "zero", "two"}, {"kept"});
    graph.node("Concat", {"kept", "rest"}, {"asked"}).with("axis", std::int64_t{0});
  }
  graph.node("Reshape", {"c", p.asks ? "asked" : "shape"}, {"flat"}).node("Transpose", {"flat"}, {"y"}).with("perm", p.perm);
  if (p.read_twice) graph.node("Relu", {"flat"}, {"z"}).output("z");
  Options options;
  options.channels_last = true;
  const auto with = build_model(graph.model(), options), without = build_model(graph.model());
  EXPECT_TRUE(with.ok() && without.ok()) << with.status().to_string() << without.status().to_string();
  if (!with.ok() || !without.ok()) return {};
  Feeds feeds;
  feeds["x"] = values({2, 3, kHeight, kWidth}, 99);
  const std::vector<HostTensor> got = run_plan(*with, feeds), want = run_plan(*without, feeds);
  EXPECT_EQ(got[0].shape().to_string(), want[0].shape().to_string());
  for (std::size_t i = 0; i < static_cast<std::size_t>(want[0].shape().elements()); ++i)
    EXPECT_NEAR(element(got[0], i), element(want[0], i), 4e-3 * (1 + std::abs(element(want[0], i)))) << i;
  return ops_of(with->plan.graphs[0]);
}

TEST(PatchesPassTest, PatchesSideBySideAreRowsOfAProduct) {
  const Ops wanted{"Reshape", "Transpose", "Reshape", "Linear"};
  EXPECT_EQ(ops_with({}), wanted);
  Patches plain, asking;
  plain.biased = false;
  asking.asks = true;
  EXPECT_EQ(ops_with(plain), wanted);
  EXPECT_EQ(ops_with(asking), wanted);
}

TEST(PatchesPassTest, WhatIsNoSuchPatchStays) {
  const Ops stays{"Conv", "Reshape", "Transpose"};
  Patches overlaps, padded, rest, f32, other, twice;
  overlaps.strides = {4, 4};
  padded.pads = {0, 0, 0, 8};
  rest.window = rest.strides = {8, 8};  // 20 rows are no multiple of 8
  f32.type = DType::f32;
  other.perm = {2, 0, 1};
  for (const Patches& p : {overlaps, padded, rest, f32, other}) EXPECT_EQ(ops_with(p), stays);
  twice.read_twice = true;
  const Ops seen = ops_with(twice);
  EXPECT_EQ(std::count(seen.begin(), seen.end(), "Conv"), 1);
}

}  // namespace
}  // namespace forebay::builder::test
