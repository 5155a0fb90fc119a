// Forms of attention, rotary positions and normalisation that one exporter alone writes.
#include "builder/fused_graph.h"

namespace forebay::builder::test {
namespace {

using Ops = std::vector<std::string>;
using Ints = std::vector<std::int64_t>;
constexpr float kLowest = -3.4028235e38f;

std::int64_t count(const Ops& ops, const char* op) {
  return std::count(ops.begin(), ops.end(), op);
}

// Scores [2,4,5,7] under Where(seen, scores, lowest) and an additive mask, in either order, or
// under two additive masks.
GraphMaker two_masks(const std::string& kind, float fill = kLowest) {
  GraphMaker g;
  g.input("q", DType::f32, {"2", "4", "5", "8"}).input("k", DType::f32, {"2", "4", "7", "8"});
  g.input("v", DType::f32, {"2", "4", "7", "8"}).input("pad", DType::f32, {"2", "1", "1", "7"});
  g.node("Transpose", {"k"}, {"kt"})
      .with("perm", Ints{0, 1, 3, 2})
      .node("MatMul", {"q", "kt"}, {"s"});
  if (kind == "two") {
    g.input("seen", DType::f32, {"1", "1", "5", "7"});
    g.node("Add", {"s", "seen"}, {"s1"}).node("Add", {"s1", "pad"}, {"m"});
  } else {
    g.input("seen", DType::boolean, {"1", "1", "5", "7"}).constant("low", list({fill}, true));
    if (kind == "gate")
      g.node("Where", {"seen", "s", "low"}, {"s1"}).node("Add", {"s1", "pad"}, {"m"});
    if (kind == "hide")
      g.node("Where", {"seen", "low", "s"}, {"s1"}).node("Add", {"pad", "s1"}, {"m"});
    if (kind == "last")
      g.node("Add", {"s", "pad"}, {"s1"}).node("Where", {"seen", "s1", "low"}, {"m"});
  }
  g.node("Softmax", {"m"}, {"p"}).with("axis", std::int64_t{-1});
  return g.node("MatMul", {"p", "v"}, {"y"}).output("y", DType::f32);
}

Feeds two_mask_feeds(const std::string& kind, bool hidden_row) {
  Feeds feeds;
  feeds["q"] = floats({2, 4, 5, 8}, 1, -2.0f, 2.0f);
  feeds["k"] = floats({2, 4, 7, 8}, 2, -2.0f, 2.0f);
  feeds["v"] = floats({2, 4, 7, 8}, 3);
  HostTensor pad = floats({2, 1, 1, 7}, 4);
  for (float& value : pad.as<float>()) value = value > 0.3f ? kLowest : 0.0f;
  if (hidden_row) std::fill_n(pad.as<float>().begin(), 7, kLowest);
  feeds["pad"] = std::move(pad);
  HostTensor causal(DType::f32, Shape{1, 1, 5, 7}), truth(DType::boolean, Shape{1, 1, 5, 7});
  for (std::int64_t i = 0; i < 35; ++i) {
    const bool visible = i % 7 <= i / 7 + 2;
    causal.as<float>()[static_cast<std::size_t>(i)] = visible ? 0.0f : kLowest;
    truth.data()[i] = std::byte{visible != (kind == "hide")};
  }
  feeds["seen"] = kind == "two" ? std::move(causal) : std::move(truth);
  return feeds;
}

TEST(AttentionForms, TwoMasksBecomeOne) {
  for (const std::string kind : {"gate", "hide", "last", "two"}) {
    for (const bool hidden_row : {false, true}) {
      const Ops ops = fused_ops(two_masks(kind), two_mask_feeds(kind, hidden_row));
      EXPECT_EQ(count(ops, "Attention"), 1) << kind;
      EXPECT_EQ(count(ops, "Softmax"), 0) << kind;
    }
  }
  // Added to a score that still counts, a number is not the same as put in its place.
  const GraphMaker mild = two_masks("gate", -5.0f);
  EXPECT_EQ(fused_ops(mild, two_mask_feeds("gate", false)), plain_ops(mild));
}

// Products of [batch * heads, ..], masks on [batch, heads, ..], batch and lengths open.
GraphMaker lifted(bool two, bool wide) {
  GraphMaker g;
  g.input("q", DType::f32, {"N", "S", "8"})
      .input("k", DType::f32, {"N", "T", "8"})
      .input("v", DType::f32, {"N", "T", "6"});
  g.input("mask", DType::f32, {"B", "1", "S", wide ? "T" : "1"})
      .input("other", DType::f32, {"S", "T"});
  g.constant("i0", integers({0})).constant("heads", integers({4})).constant("flat", integers({-1}));
  g.node("Shape", {"mask"}, {"md"}).node("Gather", {"md", "i0"}, {"b"});
  g.constant("i1", integers({1})).node("Shape", {"q"}, {"qd"}).node("Gather", {"qd", "i1"}, {"s"});
  g.node("Shape", {"k"}, {"kd"}).node("Gather", {"kd", "i1"}, {"t"});
  g.node("Concat", {"b", "heads", "s", "t"}, {"four"}).with("axis", std::int64_t{0});
  g.node("Concat", {"flat", "s", "t"}, {"three"}).with("axis", std::int64_t{0});
  g.node("Transpose", {"k"}, {"kt"})
      .with("perm", Ints{0, 2, 1})
      .node("MatMul", {"q", "kt"}, {"s0"});
  g.node("Reshape", {"s0", "four"}, {"s1"})
      .node("Add", {"s1", "mask"}, {"s2"})
      .node("Reshape", {"s2", "three"}, {"s3"});
  std::string last = "s3";
  if (two) {
    g.node("Reshape", {"s3", "four"}, {"s4"})
        .node("Add", {"s4", "other"}, {"s5"})
        .node("Reshape", {"s5", "three"}, {"s6"});
    last = "s6";
  }
  g.node("Softmax", {last}, {"p"}).with("axis", std::int64_t{-1});
  return g.node("MatMul", {"p", "v"}, {"y"}).output("y", DType::f32);
}

TEST(AttentionForms, MasksOnScoresSeenAsHeads) {
  for (const bool two : {false, true}) {
    Feeds feeds;
    feeds["q"] = floats({12, 5, 8}, 1);
    feeds["k"] = floats({12, 7, 8}, 2);
    feeds["v"] = floats({12, 7, 6}, 3);
    feeds["mask"] = floats({3, 1, 5, 7}, 4, -3.0f, 0.0f);
    feeds["other"] = floats({5, 7}, 5, -3.0f, 0.0f);
    const Ops ops = fused_ops(lifted(two, true), feeds);
    EXPECT_EQ(count(ops, "Attention"), 1) << two;
    EXPECT_EQ(count(ops, "Softmax"), 0) << two;
  }
  // A mask of one column says nothing of how the scores are folded.
  Feeds feeds;
  feeds["q"] = floats({12, 5, 8}, 1);
  feeds["k"] = floats({12, 7, 8}, 2);
  feeds["v"] = floats({12, 7, 6}, 3);
  feeds["mask"] = floats({3, 1, 5, 1}, 4);
  feeds["other"] = floats({5, 7}, 5);
  EXPECT_EQ(count(fused_ops(lifted(false, false), feeds), "Attention"), 0);
}

// nn.MultiheadAttention by dynamo: keys [T, B*H, D] are turned and then folded.
TEST(AttentionForms, KeysTurnedBeforeTheyAreFolded) {
  GraphMaker g;
  g.input("q", DType::f32, {"2", "4", "5", "8"})
      .input("k", DType::f32, {"7", "8", "8"})
      .input("v", DType::f32, {"2", "4", "7", "8"});
  g.constant("part", list({0.6f}, true)).constant("four", integers({2, 4, 8, 7}));
  g.node("Transpose", {"k"}, {"rows"})
      .with("perm", Ints{1, 0, 2})
      .node("Transpose", {"rows"}, {"columns"})
      .with("perm", Ints{0, 2, 1});
  g.node("Reshape", {"columns", "four"}, {"kt"})
      .node("Mul", {"kt", "part"}, {"ks"})
      .node("Mul", {"q", "part"}, {"qs"});
  g.node("MatMul", {"qs", "ks"}, {"s"})
      .node("Softmax", {"s"}, {"p"})
      .with("axis", std::int64_t{-1});
  g.node("MatMul", {"p", "v"}, {"y"}).output("y", DType::f32);
  Feeds feeds;
  feeds["q"] = floats({2, 4, 5, 8}, 1);
  feeds["k"] = floats({7, 8, 8}, 2);
  feeds["v"] = floats({2, 4, 7, 8}, 3);
  EXPECT_EQ(fused_ops(g, feeds), (Ops{"Reshape", "Transpose", "Attention"}));
}

// x * cos + [-odd, even by turns] * sin, and the same with half-width tables from pairs.
GraphMaker turns(bool whole, bool gathers, std::int64_t first = 0, bool computed = false) {
  GraphMaker g;
  g.input("x", DType::f32, {"B", "3", "S", "8"})
      .input("cos", DType::f32, {"S", whole ? "8" : "4"})
      .input("sin", DType::f32, {"S", whole ? "8" : "4"});
  g.constant("last", integers({-1}))
      .constant("two", integers({2}))
      .constant("end", integers({INT64_MAX}))
      .constant("flat", integers({0, 0, 0, 8}));
  if (gathers) {
    g.constant("pairs", integers({0, 0, 0, 4, 2}))
        .constant("i0", integers({0}, true))
        .constant("i1", integers({1}, true));
    g.node("Reshape", {"x", "pairs"}, {"x5"})
        .node("Gather", {"x5", "i0"}, {"a"})
        .with("axis", std::int64_t{-1});
    g.node("Gather", {"x5", "i1"}, {"b"}).with("axis", std::int64_t{4});
  } else {
    g.constant("zero", integers({first})).constant("one", integers({1 - first}));
    g.node("Slice", {"x", "zero", "end", "last", "two"}, {"a"})
        .node("Slice", {"x", "one", "end", "last", "two"}, {"b"});
  }
  std::string p = "nb", q = "a";
  if (whole) {
    g.node("Neg", {"b"}, {"nb"});
  } else {
    g.node("Mul", {"a", "cos"}, {"ac"})
        .node("Mul", {"b", "sin"}, {"bs"})
        .node("Sub", {"ac", "bs"}, {"p"});
    g.node("Mul", {"a", "sin"}, {"as"})
        .node("Mul", {"b", "cos"}, {"bc"})
        .node("Add", {"as", "bc"}, {"q"});
    p = "p";
    q = "q";
  }
  g.node("Unsqueeze", {p, "last"}, {"pu"})
      .node("Unsqueeze", {q, "last"}, {"qu"})
      .node("Concat", {"pu", "qu"}, {"stack"})
      .with("axis", std::int64_t{-1});
  if (computed) {  // as TorchScript flattens
    g.constant("i0", integers({0})).constant("i3", integers({3})).node("Shape", {"stack"}, {"dims"});
    g.node("Slice", {"dims", "i0", "i3", "i0"}, {"lead"}).node("Concat", {"lead", "last"}, {"to"});
    g.with("axis", std::int64_t{0});
  }
  g.node("Reshape", {"stack", computed ? "to" : "flat"}, {whole ? "r" : "y"});
  if (whole)
    g.node("Mul", {"x", "cos"}, {"xc"})
        .node("Mul", {"r", "sin"}, {"rs"})
        .node("Add", {"xc", "rs"}, {"y"});
  return g.output("y", DType::f32);
}

TEST(RotaryForms, EvenAndOddElements) {
  for (const bool whole : {true, false}) {
    Feeds feeds;
    feeds["x"] = floats({2, 3, 5, 8}, 1);
    feeds["cos"] = floats({5, whole ? 8 : 4}, 2);
    feeds["sin"] = floats({5, whole ? 8 : 4}, 3);
    for (const bool gathers : {true, false})
      EXPECT_EQ(fused_ops(turns(whole, gathers), feeds, 1e-6), Ops{"RotateHalf"})
          << whole << gathers;
    EXPECT_EQ(fused_ops(turns(whole, false, 0, true), feeds, 1e-6), Ops{"RotateHalf"}) << whole;
    const GraphMaker swapped = turns(whole, false, 1);  // odd elements first: another rotation
    EXPECT_EQ(fused_ops(swapped, feeds, 1e-6), plain_ops(swapped));
  }
}

// TorchScript computes where the halves meet.
TEST(RotaryForms, HalvesOfAComputedSize) {
  GraphMaker g;
  g.input("x", DType::f32, {"B", "3", "S", "8"})
      .input("cos", DType::f32, {"S", "8"})
      .input("sin", DType::f32, {"S", "8"});
  g.constant("axis", integers({3}))
      .constant("a0", integers({0}))
      .constant("two", integers({2}, true))
      .constant("end", integers({INT64_MAX}));
  g.constant("three", integers({3}, true)).constant("from", integers({0}));
  g.node("Shape", {"x"}, {"dims"})
      .node("Gather", {"dims", "three"}, {"d"})
      .node("Div", {"d", "two"}, {"h"})
      .node("Unsqueeze", {"h", "a0"}, {"mid"});
  g.node("Slice", {"x", "from", "mid", "axis"}, {"a"})
      .node("Slice", {"x", "mid", "end", "axis"}, {"b"})
      .node("Neg", {"b"}, {"nb"});
  g.node("Concat", {"nb", "a"}, {"r"}).with("axis", std::int64_t{-1});
  g.node("Mul", {"x", "cos"}, {"xc"})
      .node("Mul", {"r", "sin"}, {"rs"})
      .node("Add", {"xc", "rs"}, {"y"})
      .output("y", DType::f32);
  Feeds feeds;
  feeds["x"] = floats({2, 3, 5, 8}, 1);
  feeds["cos"] = floats({5, 8}, 2);
  feeds["sin"] = floats({5, 8}, 3);
  EXPECT_EQ(fused_ops(g, feeds, 1e-6), Ops{"RotateHalf"});
}

// x * f + (shift - mean * f), f = scale / sqrt(variance + e).
GraphMaker tensorflow_norm(bool scaled, std::int64_t second_axis = -1) {
  GraphMaker g;
  g.input("x", DType::f32, {"B", "5", "12"})
      .initializer("gamma", floats({12}, 1))
      .initializer("beta", floats({12}, 2))
      .constant("e", list({1e-5f}, true));
  g.node("ReduceMean", {"x"}, {"mean"})
      .with("axes", Ints{-1})
      .node("Sub", {"x", "mean"}, {"d"})
      .node("Mul", {"d", "d"}, {"dd"});
  g.node("ReduceMean", {"dd"}, {"var"})
      .with("axes", Ints{second_axis})
      .node("Add", {"var", "e"}, {"ve"})
      .node("Sqrt", {"ve"}, {"root"});
  g.node("Reciprocal", {"root"}, {"inverse"});
  if (scaled) g.node("Mul", {"inverse", "gamma"}, {"f"});
  const std::string f = scaled ? "f" : "inverse";
  g.node("Mul", {"x", f}, {"xf"})
      .node("Mul", {"mean", f}, {"mf"})
      .node("Sub", {"beta", "mf"}, {"rest"});
  return g.node("Add", {"xf", "rest"}, {"y"}).output("y", DType::f32);
}

TEST(NormForms, AsTensorFlowNormalises) {
  Feeds feeds;
  feeds["x"] = floats({3, 5, 12}, 3, -2.0f, 3.0f);
  for (const bool scaled : {true, false})
    EXPECT_EQ(fused_ops(tensorflow_norm(scaled), feeds), Ops{"LayerNormalization"}) << scaled;
  const GraphMaker shown = tensorflow_norm(true).output("mean");
  EXPECT_EQ(fused_ops(shown, feeds), plain_ops(shown));
  const GraphMaker other = tensorflow_norm(true, 1);
  EXPECT_EQ(fused_ops(other, feeds), plain_ops(other));
}

// As tf2onnx writes what Keras normalises: means by pooling, -mean * f + shift, parameters [1,1,C].
GraphMaker keras_norm(bool shift_first, bool negative = true) {
  GraphMaker g;
  g.input("x", DType::f32, {"B", "S", "12"})
      .initializer("gamma", floats({1, 1, 12}, 1))
      .initializer("beta", floats({1, 1, 12}, 2))
      .constant("e", list({1e-5f}, true));
  g.node("GlobalAveragePool", {"x"}, {"mean"})
      .node(negative ? "Neg" : "Abs", {"mean"}, {"less"})
      .node("Sub", {"x", "mean"}, {"d"})
      .node("Mul", {"d", "d"}, {"dd"})
      .node("GlobalAveragePool", {"dd"}, {"var"})
      .node("Add", {"var", "e"}, {"ve"})
      .node("Sqrt", {"ve"}, {"root"})
      .node("Reciprocal", {"root"}, {"inverse"})
      .node("Mul", {"inverse", "gamma"}, {"f"})
      .node("Mul", {"x", "f"}, {"xf"})
      .node("Mul", {"less", "f"}, {"mf"});
  if (shift_first) g.node("Add", {"beta", "mf"}, {"rest"}).node("Add", {"rest", "xf"}, {"y"});
  if (!shift_first) g.node("Add", {"mf", "beta"}, {"rest"}).node("Add", {"xf", "rest"}, {"y"});
  return g.output("y", DType::f32);
}

TEST(NormForms, AsKerasNormalises) {
  Feeds feeds;
  feeds["x"] = floats({3, 5, 12}, 3, -2.0f, 3.0f);
  for (const bool shift_first : {true, false})
    EXPECT_EQ(fused_ops(keras_norm(shift_first), feeds), Ops{"LayerNormalization"}) << shift_first;
  const GraphMaker other = keras_norm(true, false);
  EXPECT_EQ(fused_ops(other, feeds), plain_ops(other));
}

}  // namespace
}  // namespace forebay::builder::test
