// Selections before transposes, and chains of transposes and views that become one.
#include "builder/fused_graph.h"

namespace forebay::builder::test {
namespace {

using Ops = std::vector<std::string>;
using Ints = std::vector<std::int64_t>;

std::int64_t count(const Ops& ops, const char* op) {
  return std::count(ops.begin(), ops.end(), op);
}

// nn.MultiheadAttention of a batch of `batch` sequences of 5 with 4 heads of 8, as torch.onnx writes it: everything with the sequence
// first, one packed projection, heads inside of the batch.
GraphMaker module_form(std::int64_t batch) {
  const std::string b = std::to_string(batch);
  GraphMaker g;
  g.input("x", DType::f32, {b, "5", "32"})
      .initializer("w", floats({32, 96}, 1, -0.3f, 0.3f))
      .initializer("c", floats({96}, 2))
      .initializer("wo", floats({32, 32}, 3, -0.3f, 0.3f))
      .initializer("co", floats({32}, 4));
  g.constant("packed", integers({5, batch, 3, 32})).constant("first", integers({0})).constant("last", integers({-2}));
  g.constant("flat", integers({5, batch * 4, 8})).constant("heads", integers({batch, 4, 5, 8})).constant("part", list({0.5946f}, true));
  g.node("Transpose", {"x"}, {"xt"}).with("perm", Ints{1, 0, 2}).node("MatMul", {"xt", "w"}, {"m"}).node("Add", {"c", "m"}, {"p"});
  g.node("Reshape", {"p", "packed"}, {"p4"}).node("Unsqueeze", {"p4", "first"}, {"p5"});
  g.node("Transpose", {"p5"}, {"pt"}).with("perm", Ints{3, 1, 2, 0, 4}).node("Squeeze", {"pt", "last"}, {"ps"});
  const std::string names[] = {"q", "k", "v"};
  for (std::int64_t i = 0; i < 3; ++i) {
    const std::string n = names[i];
    g.constant(n + "i", integers({i}, true)).node("Gather", {"ps", n + "i"}, {n + "0"}).node("Reshape", {n + "0", "flat"}, {n + "1"});
    g.node("Transpose", {n + "1"}, {n + "2"}).with("perm", Ints{1, 0, 2}).node("Reshape", {n + "2", "heads"}, {n});
  }
  g.node("Transpose", {"k"}, {"kt"}).with("perm", Ints{0, 1, 3, 2});
  g.node("Mul", {"q", "part"}, {"qs"}).node("Mul", {"kt", "part"}, {"ks"}).node("MatMul", {"qs", "ks"}, {"s"});
  g.node("Softmax", {"s"}, {"a"}).with("axis", std::int64_t{-1}).node("MatMul", {"a", "v"}, {"y0"});
  g.constant("rows", integers({5 * batch, 32})).constant("out", integers({5, batch, 32}));
  g.node("Transpose", {"y0"}, {"y1"}).with("perm", Ints{2, 0, 1, 3}).node("Reshape", {"y1", "rows"}, {"y2"});
  g.node("Gemm", {"y2", "wo", "co"}, {"y3"}).with("transB", std::int64_t{1}).node("Reshape", {"y3", "out"}, {"y4"});
  g.node("Transpose", {"y4"}, {"y5"}).with("perm", Ints{1, 0, 2}).node("Add", {"x", "y5"}, {"y"});
  return g.output("y", DType::f32);
}

TEST(Moves, MultiheadAttentionTurnsNothing) {
  for (const std::int64_t batch : {1, 3}) {
    Feeds feeds;
    feeds["x"] = floats({batch, 5, 32}, 5);
    const Ops ops = fused_ops(module_form(batch), feeds);
    EXPECT_EQ(count(ops, "Transpose"), 0) << batch;
    EXPECT_EQ(count(ops, "Attention"), 1) << batch;
    EXPECT_EQ(count(ops, "Softmax"), 0) << batch;
    EXPECT_EQ(count(ops, "Gather"), 3) << batch;
    EXPECT_EQ(count(ops, "Linear") + count(ops, "Gemm"), 2) << batch;
  }
}

TEST(Moves, WhatIsShownStays) {
  Feeds feeds;
  feeds["x"] = floats({3, 5, 32}, 5);
  for (const char* shown : {"xt", "p", "pt", "q1", "k2", "y1", "y3", "y5"}) {
    GraphMaker g = module_form(3);
    fused_ops(g.output(shown), feeds);  // compares both outputs
  }
}

// As vision transformers write it: [B,S,3,H,D] to [3,B,H,S,D], picked apart; batch and length are open.
TEST(Moves, PackedHeadsArePickedBeforeTheyAreTurned) {
  for (const std::int64_t axis : {0, -5}) {
    GraphMaker g;
    g.input("x", DType::f32, {"B", "S", "96"}).constant("packed", integers({0, 0, 3, 4, 8})).constant("joined", integers({0, 0, 32}));
    g.node("Reshape", {"x", "packed"}, {"p"}).node("Transpose", {"p"}, {"t"}).with("perm", Ints{2, 0, 3, 1, 4});
    for (std::int64_t i = 0; i < 3; ++i) {
      const std::string n = std::to_string(i);
      g.constant("i" + n, integers({i}, true)).node("Gather", {"t", "i" + n}, {"h" + n}).with("axis", axis);
    }
    g.node("Transpose", {"h1"}, {"kt"}).with("perm", Ints{0, 1, 3, 2}).node("MatMul", {"h0", "kt"}, {"s"});
    g.node("Softmax", {"s"}, {"a"}).with("axis", std::int64_t{-1}).node("MatMul", {"a", "h2"}, {"o"});
    g.node("Transpose", {"o"}, {"ot"}).with("perm", Ints{0, 2, 1, 3}).node("Reshape", {"ot", "joined"}, {"y"});
    Feeds feeds;
    feeds["x"] = floats({2, 7, 96}, 1);
    const Ops ops = fused_ops(g.output("y", DType::f32), feeds);
    EXPECT_EQ(count(ops, "Transpose"), 0) << axis;
    EXPECT_EQ(count(ops, "Gather"), 3) << axis;
    EXPECT_EQ(count(ops, "Attention"), 1) << axis;
  }
}

// A selection of several elements, or of a transpose that others read, too.
TEST(Moves, SelectionsOfOtherKindsAgree) {
  GraphMaker g;
  g.input("x", DType::f32, {"B", "4", "6"}).constant("some", integers({1, 0})).constant("one", integers({1}, true));
  g.node("Transpose", {"x"}, {"t"}).with("perm", Ints{2, 0, 1}).node("Gather", {"t", "some"}, {"a"});
  g.node("Gather", {"t", "one"}, {"b"}).with("axis", std::int64_t{2});
  g.constant("middle", integers({1})).node("Unsqueeze", {"x", "middle"}, {"u"});
  g.node("Transpose", {"u"}, {"ut"}).with("perm", Ints{3, 1, 0, 2}).node("Squeeze", {"ut", "middle"}, {"c"});
  g.output("t", DType::f32).output("a", DType::f32).output("b", DType::f32).output("c", DType::f32);
  Feeds feeds;
  feeds["x"] = floats({3, 4, 6}, 1);
  const Ops ops = fused_ops(g, feeds);
  EXPECT_EQ(count(ops, "Transpose"), 3);  // of x, of what `one` picks, of x for c
  EXPECT_EQ(count(ops, "Unsqueeze") + count(ops, "Squeeze"), 0);
}

// Behind a product that widens, turning costs more than before it.
TEST(Moves, WhatWouldMoveMoreStays) {
  const auto graph = [](std::int64_t columns) {
    GraphMaker g;
    g.input("x", DType::f32, {"3", "5", "8"}).initializer("w", floats({8, columns}, 1));
    g.node("Transpose", {"x"}, {"t"}).with("perm", Ints{1, 0, 2}).node("MatMul", {"t", "w"}, {"m"});
    return g.node("Softmax", {"m"}, {"y"}).with("axis", std::int64_t{0}).output("y", DType::f32);
  };
  Feeds feeds;
  feeds["x"] = floats({3, 5, 8}, 2);
  EXPECT_EQ(fused_ops(graph(16), feeds), (Ops{"Transpose", "MatMul", "Softmax"}));
  const Ops narrow = fused_ops(graph(4), feeds);
  EXPECT_EQ(narrow.front(), "Reshape");
  EXPECT_EQ(count(narrow, "Transpose"), 1);
}

// Sizes of one, axes that split and join, and orders that no factor describes.
TEST(Moves, ChainsOfEveryShapeAgree) {
  struct Link {
    Ints perm, shape;  // one of both
  };
  const std::vector<std::vector<Link>> chains{
      {{{1, 0, 2}, {}}, {{}, {4, 1, 36}}, {{2, 1, 0}, {}}},
      {{{2, 1, 0}, {}}, {{}, {3, 2, 6, 4}}, {{0, 3, 1, 2}, {}}, {{}, {144}}},
      {{{}, {24, 6}}, {{1, 0}, {}}, {{}, {6, 1, 4, 6}}, {{3, 2, 1, 0}, {}}, {{}, {6, 24}}},
      {{{1, 0, 2}, {}}, {{}, {9, 16}}, {{1, 0}, {}}, {{}, {4, 36}}},
      {{{0, 2, 1}, {}}, {{0, 2, 1}, {}}, {{}, {1, 144, 1}}},
      {{{1, 2, 0}, {}}, {{1, 2, 0}, {}}, {{1, 2, 0}, {}}},
  };
  Feeds feeds;
  feeds["x"] = floats({4, 6, 6}, 1);
  for (const auto& chain : chains) {
    GraphMaker g;
    g.input("x", DType::f32, {"4", "6", "6"});
    std::string at = "x";
    std::int64_t moved = 0;
    for (const Link& link : chain) {
      const std::string next = at + "n";
      if (link.perm.empty()) {
        g.constant(next + "s", integers(link.shape)).node("Reshape", {at, next + "s"}, {next});
      } else {
        g.node("Transpose", {at}, {next}).with("perm", link.perm);
        ++moved;
      }
      at = next;
    }
    const Ops ops = fused_ops(g.node("Neg", {at}, {"y"}).output("y", DType::f32), feeds);
    EXPECT_LE(count(ops, "Transpose"), moved);
  }
}

}  // namespace
}  // namespace forebay::builder::test
