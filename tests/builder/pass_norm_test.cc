// Normalisations, activations, sums before normalisations and rotary positions, in the forms that
// exporters write.
#include "builder/fused_graph.h"

namespace forebay::builder::test {
namespace {

using Ops = std::vector<std::string>;
using Ints = std::vector<std::int64_t>;
constexpr std::int64_t kFloat = 1, kHalf = 10;

HostTensor as(DType dtype, const HostTensor& tensor) {
  return dtype == DType::f16 ? halves(tensor) : tensor.clone();
}

struct NormForm {
  std::string square = "Pow", divide = "Div";  // Pow or Mul; Div, Reciprocal or OneDiv
  bool centred = true, second_difference = false, wide = false;  // wide: casts to f32 around it
  DType dtype = DType::f32;
};

// y = norm(x) * w (+ b), x being [2,3,16].
GraphMaker norm_graph(const NormForm& form, bool affine = true) {
  GraphMaker graph;
  const DType inner = form.wide ? DType::f32 : form.dtype;
  graph.input("x", form.dtype, {"2", "3", "16"})
      .constant("two", as(inner, list({2.0f}, true)))
      .constant("eps", as(inner, list({1e-5f})));
  graph.constant("one", as(inner, list({1.0f}, true)))
      .initializer("w", as(form.dtype, floats({16}, 1, 0.5f, 1.5f)));
  graph.initializer("b", as(form.dtype, floats({16}, 2)));
  std::string x = "x";
  if (form.wide) {
    graph.node("Cast", {"x"}, {"x32"}).with("to", kFloat);
    x = "x32";
  }
  std::string d = x, divided = x;
  if (form.centred) {
    graph.node("ReduceMean", {x}, {"mean"}).with("axes", Ints{-1}).node("Sub", {x, "mean"}, {"d"});
    d = divided = "d";
    if (form.second_difference) {
      graph.node("Sub", {x, "mean"}, {"d2"});
      divided = "d2";
    }
  }
  graph.node(form.square, {d, form.square == "Pow" ? "two" : d}, {"sq"})
      .node("ReduceMean", {"sq"}, {"var"})
      .with("axes", Ints{2});
  graph.node("Add", {"var", "eps"}, {"shifted"}).node("Sqrt", {"shifted"}, {"root"});
  if (form.divide == "Div") {
    graph.node("Div", {divided, "root"}, {"n"});
  } else {
    if (form.divide == "Reciprocal") graph.node("Reciprocal", {"root"}, {"inv"});
    if (form.divide == "OneDiv") graph.node("Div", {"one", "root"}, {"inv"});
    graph.node("Mul", {divided, "inv"}, {"n"});
  }
  std::string n = "n";
  if (form.wide) {
    graph.node("Cast", {"n"}, {"back"}).with("to", form.dtype == DType::f16 ? kHalf : kFloat);
    n = "back";
  }
  if (!affine) return graph.node("Neg", {n}, {"y"}).output("y", form.dtype);
  graph.node("Mul", {"w", n}, {form.centred ? "s" : "y"});
  if (form.centred) graph.node("Add", {"s", "b"}, {"y"});
  return graph.output("y", form.dtype);
}

Feeds norm_feeds(DType dtype) {
  Feeds feeds;
  feeds["x"] = as(dtype, floats({2, 3, 16}, 3, -2.0f, 3.0f));
  return feeds;
}

TEST(Norm, FindsLayerAndRmsNormalisationInEveryForm) {
  for (const bool centred : {true, false}) {
    for (const char* square : {"Pow", "Mul"}) {
      for (const char* divide : {"Div", "Reciprocal", "OneDiv"}) {
        for (const bool second : {false, true}) {
          const NormForm form{square, divide, centred, second, false, DType::f32};
          EXPECT_EQ(fused_ops(norm_graph(form), norm_feeds(DType::f32)),
                    Ops{centred ? "LayerNormalization" : "RMSNormalization"})
              << square << " " << divide << " " << second;
        }
      }
    }
  }
}

TEST(Norm, TakesTheCastsOfHalfModels) {
  for (const bool centred : {true, false}) {
    const NormForm form{"Pow", "Div", centred, false, true, DType::f16};
    EXPECT_EQ(fused_ops(norm_graph(form), norm_feeds(DType::f16), 3e-3),
              Ops{centred ? "LayerNormalization" : "RMSNormalization"});
  }
}

TEST(Norm, WorksWithoutScale) {
  for (const bool centred : {true, false}) {
    NormForm form;
    form.centred = centred;
    EXPECT_EQ(fused_ops(norm_graph(form, false), norm_feeds(DType::f32)),
              (Ops{centred ? "LayerNormalization" : "RMSNormalization", "Neg"}));
  }
}

TEST(Norm, RemembersTheNumbersThatDecidedAndTheNodes) {
  const auto built = build_model(norm_graph({}).model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  std::size_t kept = 0;  // the exponent and epsilon: other ones in a refit are refused
  for (const plan::Constant& constant : built->plan.constants) kept += constant.kept ? 1 : 0;
  EXPECT_EQ(kept, 2u);
  EXPECT_EQ(weight_names(built->plan), (Ops{"w", "b"}));
  EXPECT_EQ(built->plan.graphs[0].nodes[0].fused_from.size(), 9u);
}

TEST(Norm, LeavesWhatIsReadElsewhereOrDoesNotFit) {
  const auto unfused = [](GraphMaker graph) {
    return fused_ops(graph, norm_feeds(DType::f32)).size();
  };
  EXPECT_GT(unfused(norm_graph({}).output("var", DType::f32)), 5u);  // an intermediate is an output
  GraphMaker read = norm_graph({});
  read.node("Neg", {"root"}, {"z"}).output("z");
  EXPECT_GT(unfused(read), 5u);

  GraphMaker middle;  // the mean of squares is over another axis
  middle.input("x", DType::f32, {"2", "3", "16"})
      .constant("two", list({2.0f}, true))
      .constant("eps", list({1e-5f}));
  middle.node("Pow", {"x", "two"}, {"sq"})
      .node("ReduceMean", {"sq"}, {"var"})
      .with("axes", Ints{1});
  middle.node("Add", {"var", "eps"}, {"shifted"})
      .node("Sqrt", {"shifted"}, {"root"})
      .node("Div", {"x", "root"}, {"y"})
      .output("y");
  EXPECT_EQ(fused_ops(middle, norm_feeds(DType::f32)), plain_ops(middle));

  GraphMaker cube;  // not the square
  cube.input("x", DType::f32, {"2", "3", "16"})
      .constant("three", list({3.0f}, true))
      .constant("eps", list({30.0f}));
  cube.node("Pow", {"x", "three"}, {"sq"})
      .node("ReduceMean", {"sq"}, {"var"})
      .with("axes", Ints{2});
  cube.node("Add", {"var", "eps"}, {"shifted"})
      .node("Sqrt", {"shifted"}, {"root"})
      .node("Div", {"x", "root"}, {"y"})
      .output("y");
  EXPECT_EQ(fused_ops(cube, norm_feeds(DType::f32)), plain_ops(cube));
}

TEST(SkipNorm, TakesTheSumAndHandsItOn) {
  for (const bool centred : {true, false}) {
    GraphMaker graph;
    graph.input("x", DType::f32, {"2", "3", "16"})
        .input("r", DType::f32, {"2", "3", "16"})
        .initializer("w", floats({16}, 1));
    graph.initializer("b", floats({16}, 2)).node("Add", {"x", "r"}, {"sum"});
    graph
        .node(centred ? "LayerNormalization" : "RMSNormalization",
              centred ? Ops{"sum", "w", "b"} : Ops{"sum", "w"}, {"n"})
        .with("epsilon", 1e-3f);
    graph.node("Mul", {"n", "sum"}, {"y"}).output("y");
    Feeds feeds = norm_feeds(DType::f32);
    feeds["r"] = floats({2, 3, 16}, 8);
    EXPECT_EQ(
        fused_ops(graph, feeds, 1e-5, 23),
        (Ops{centred ? "SkipLayerNormalization" : "SkipSimplifiedLayerNormalization", "Mul"}));
    graph.output("sum");
    EXPECT_EQ(fused_ops(graph, feeds, 1e-5, 23).size(), 3u);
  }
  GraphMaker early;  // the sum is read before the normalisation
  early.input("x", DType::f32, {"2", "3", "16"})
      .input("r", DType::f32, {"2", "3", "16"})
      .initializer("w", floats({16}, 1));
  early.node("Add", {"x", "r"}, {"sum"})
      .node("Neg", {"sum"}, {"z"})
      .node("LayerNormalization", {"sum", "w"}, {"n"});
  early.node("Mul", {"n", "z"}, {"y"}).output("y");
  Feeds feeds = norm_feeds(DType::f32);
  feeds["r"] = floats({2, 3, 16}, 8);
  EXPECT_EQ(fused_ops(early, feeds), plain_ops(early));
}

// Embeddings of places are added to every batch; a table's row by indices that are a constant of the input's shape, too.
TEST(SkipNorm, TakesSumsWithWhatAllBatchesShare) {
  for (const bool behind : {true, false}) {
    for (const Ints& dims : {Ints{3, 16}, Ints{1, 3, 16}, Ints{1, 1, 16}}) {
      GraphMaker graph;
      graph.input("x", DType::f32, {"n", "3", "16"}).initializer("w", floats({16}, 1)).initializer("p", floats(dims, 3));
      graph.node("Add", behind ? Ops{"x", "p"} : Ops{"p", "x"}, {"sum"}).node("LayerNormalization", {"sum", "w"}, {"n0"});
      graph.node("Mul", {"n0", "sum"}, {"y"}).output("y");
      EXPECT_EQ(fused_ops(graph, norm_feeds(DType::f32), 1e-5, 23), (Ops{"SkipLayerNormalization", "Mul"}));
    }
  }
  GraphMaker wider;  // the other operand is no whole one
  wider.input("x", DType::f32, {"2", "1", "16"}).initializer("w", floats({16}, 1)).initializer("p", floats({3, 16}, 3));
  wider.node("Add", {"x", "p"}, {"sum"}).node("LayerNormalization", {"sum", "w"}, {"y"}).output("y");
  Feeds feeds;
  feeds["x"] = floats({2, 1, 16}, 8);
  EXPECT_EQ(fused_ops(wider, feeds, 1e-5, 23), (Ops{"Add", "LayerNormalization"}));
  GraphMaker kinds;  // exporters make token types by ConstantOfShape of the shape of the words
  kinds.input("ids", DType::i64, {"n", "3"}).input("x", DType::f32, {"n", "3", "16"}).initializer("w", floats({16}, 1));
  kinds.initializer("table", floats({2, 16}, 3)).node("Shape", {"ids"}, {"sizes"}).node("ConstantOfShape", {"sizes"}, {"zeros"});
  kinds.node("Cast", {"zeros"}, {"places"}).with("to", std::int64_t{7}).node("Gather", {"table", "places"}, {"kind"});
  kinds.node("Add", {"x", "kind"}, {"sum"}).node("LayerNormalization", {"sum", "w"}, {"y"}).output("y");
  feeds["x"] = floats({2, 3, 16}, 8);
  feeds["ids"] = HostTensor(DType::i64, Shape{2, 3});
  std::fill_n(feeds["ids"].as<std::int64_t>().begin(), 6, 0);
  const Ops ops = fused_ops(kinds, feeds, 1e-5, 23);
  EXPECT_EQ(std::count(ops.begin(), ops.end(), "SkipLayerNormalization"), 1);
}

// Each activation with its operands in several orders.
GraphMaker activation_graph(const std::string& form, DType dtype, float cubic = 0.044715f) {
  GraphMaker g;
  const auto number = [&](const char* name, float value) {
    g.constant(name, as(dtype, list({value}, true)));
  };
  g.input("x", dtype, {"4", "33"});
  number("half", 0.5f);
  number("one", 1.0f);
  number("three", 3.0f);
  number("root", 1.41421356f);
  number("inverse", 0.70710678f);
  number("c", 0.79788456f);
  number("cubic", cubic);
  number("slope", 1.702f);
  if (form == "erf")
    g.node("Div", {"x", "root"}, {"a"})
        .node("Erf", {"a"}, {"e"})
        .node("Add", {"e", "one"}, {"p"})
        .node("Mul", {"x", "p"}, {"q"})
        .node("Mul", {"q", "half"}, {"y"});
  if (form == "erf first half")
    g.node("Mul", {"inverse", "x"}, {"a"})
        .node("Erf", {"a"}, {"e"})
        .node("Add", {"one", "e"}, {"p"})
        .node("Mul", {"half", "x"}, {"q"})
        .node("Mul", {"q", "p"}, {"y"});
  if (form == "tanh") {
    g.node("Pow", {"x", "three"}, {"a"})
        .node("Mul", {"a", "cubic"}, {"b"})
        .node("Add", {"x", "b"}, {"d"})
        .node("Mul", {"d", "c"}, {"f"})
        .node("Tanh", {"f"}, {"e"});
    g.node("Add", {"e", "one"}, {"p"})
        .node("Mul", {"x", "half"}, {"q"})
        .node("Mul", {"q", "p"}, {"y"});
  }
  if (form == "tanh factored") {
    g.node("Mul", {"x", "x"}, {"a"})
        .node("Mul", {"cubic", "a"}, {"b"})
        .node("Add", {"one", "b"}, {"d"})
        .node("Mul", {"x", "c"}, {"h"})
        .node("Mul", {"h", "d"}, {"f"});
    g.node("Tanh", {"f"}, {"e"})
        .node("Add", {"one", "e"}, {"p"})
        .node("Mul", {"half", "p"}, {"q"})
        .node("Mul", {"x", "q"}, {"y"});
  }
  if (form == "silu") g.node("Sigmoid", {"x"}, {"e"}).node("Mul", {"e", "x"}, {"y"});
  if (form == "quick")
    g.node("Mul", {"x", "slope"}, {"a"})
        .node("Sigmoid", {"a"}, {"e"})
        .node("Mul", {"x", "e"}, {"y"});
  if (form == "mish")
    g.node("Softplus", {"x"}, {"a"}).node("Tanh", {"a"}, {"e"}).node("Mul", {"x", "e"}, {"y"});
  if (form == "hard")
    g.node("HardSigmoid", {"x"}, {"e"})
        .with("alpha", 1.0f / 6)
        .with("beta", 0.5f)
        .node("Mul", {"x", "e"}, {"y"});
  return g.output("y", dtype);
}

TEST(Activation, FindsEveryForm) {
  const std::map<std::string, std::string> forms{
      {"erf", "Gelu"},   {"erf first half", "Gelu"}, {"tanh", "Gelu"}, {"tanh factored", "Gelu"},
      {"silu", "Swish"}, {"quick", "Swish"},         {"mish", "Mish"}, {"hard", "HardSwish"}};
  for (const auto& [form, op] : forms) {
    for (const DType dtype : {DType::f32, DType::f16}) {
      Feeds feeds;
      feeds["x"] = as(dtype, floats({4, 33}, 3, -4.0f, 4.0f));
      EXPECT_EQ(fused_ops(activation_graph(form, dtype), feeds, dtype == DType::f32 ? 1e-5 : 4e-3),
                Ops{op})
          << form;
    }
  }
}

TEST(Activation, LeavesOtherPolynomialsAndSharedValues) {
  Feeds feeds;
  feeds["x"] = floats({4, 33}, 3, -4.0f, 4.0f);
  const GraphMaker other = activation_graph("tanh", DType::f32, 0.05f);
  EXPECT_EQ(fused_ops(other, feeds), plain_ops(other));
  GraphMaker shared = activation_graph("silu", DType::f32).output("e");
  EXPECT_EQ(fused_ops(shared, feeds), plain_ops(shared));
  GraphMaker two;  // the gate is another value
  two.input("x", DType::f32, {"4", "33"})
      .node("Neg", {"x"}, {"z"})
      .node("Sigmoid", {"x"}, {"e"})
      .node("Mul", {"z", "e"}, {"y"})
      .output("y");
  EXPECT_EQ(fused_ops(two, feeds), plain_ops(two));
}

TEST(Activation, TakesAProductAsItsInput) {
  GraphMaker graph;  // silu(a * b) * b: only the inner product is x
  graph.input("x", DType::f32, {"4", "33"})
      .initializer("w", floats({33}, 4))
      .node("Mul", {"x", "w"}, {"a"});
  graph.node("Sigmoid", {"a"}, {"e"})
      .node("Mul", {"a", "e"}, {"s"})
      .node("Mul", {"s", "x"}, {"y"})
      .output("y");
  Feeds feeds;
  feeds["x"] = floats({4, 33}, 3, -4.0f, 4.0f);
  EXPECT_EQ(fused_ops(graph, feeds), (Ops{"Mul", "Swish", "Mul"}));
}

// A residual block: the sum and what follows go into the convolution, on whichever side it stands.
TEST(Epilogue, TakesAnImageBehindAConvolution) {
  for (const bool first : {true, false}) {
    GraphMaker graph;
    graph.input("x", DType::f32, {"N", "4", "6", "5"}).initializer("w", floats({4, 4, 3, 3}, 4));
    graph.node("Conv", {"x", "w"}, {"c"}).with("pads", std::vector<std::int64_t>{1, 1, 1, 1});
    graph.node("Add", first ? std::vector<std::string>{"c", "x"} : std::vector<std::string>{"x", "c"}, {"a"});
    graph.node("Relu", {"a"}, {"y"}).output("y");
    Feeds feeds;
    feeds["x"] = floats({2, 4, 6, 5}, 3, -1.0f, 1.0f);
    EXPECT_EQ(fused_ops(graph, feeds), (Ops{"Conv"}));
  }
  GraphMaker row;  // broadcast: stays as it is
  row.input("x", DType::f32, {"2", "4", "6", "5"}).input("r", DType::f32, {"1", "4", "1", "5"}).initializer("w", floats({4, 4, 1, 1}, 4));
  row.node("Conv", {"x", "w"}, {"c"}).node("Add", {"c", "r"}, {"y"}).output("y");
  Feeds feeds;
  feeds["x"] = floats({2, 4, 6, 5}, 3, -1.0f, 1.0f);
  feeds["r"] = floats({1, 4, 1, 5}, 5, -1.0f, 1.0f);
  EXPECT_EQ(fused_ops(row, feeds), (Ops{"Conv", "Add"}));
}

GraphMaker rotary_graph(bool slices, bool joined) {
  GraphMaker g;
  g.input("x", DType::f32, {"2", "3", "5", "8"})
      .input("cos", DType::f32, {"1", "1", "5", joined ? "8" : "4"})
      .input("sin", DType::f32, {"5", joined ? "8" : "4"});
  if (slices) {
    g.constant("zero", integers({0}))
        .constant("mid", integers({4}))
        .constant("end", integers({INT64_MAX}))
        .constant("axis", integers({3}))
        .constant("step", integers({1}));
    g.node("Slice", {"x", "zero", "mid", "axis", "step"}, {"a"})
        .node("Slice", {"x", "mid", "end", "axis"}, {"b"});
  } else {
    g.constant("sizes", integers({4, 4}))
        .node("Split", {"x", "sizes"}, {"a", "b"})
        .with("axis", std::int64_t{-1});
  }
  if (joined) {
    g.node("Neg", {"b"}, {"nb"}).node("Concat", {"nb", "a"}, {"r"}).with("axis", std::int64_t{-1});
    g.node("Mul", {"x", "cos"}, {"p"})
        .node("Mul", {"r", "sin"}, {"q"})
        .node("Add", {"p", "q"}, {"y"});
  } else {
    g.node("Mul", {"a", "cos"}, {"ac"})
        .node("Mul", {"sin", "b"}, {"bs"})
        .node("Mul", {"b", "cos"}, {"bc"})
        .node("Mul", {"a", "sin"}, {"as"});
    g.node("Sub", {"ac", "bs"}, {"l"})
        .node("Add", {"as", "bc"}, {"h"})
        .node("Concat", {"l", "h"}, {"y"})
        .with("axis", std::int64_t{3});
  }
  return g.output("y", DType::f32);
}

TEST(Rotary, FindsHalvesBySliceAndSplit) {
  for (const bool joined : {true, false}) {
    Feeds feeds;
    feeds["x"] = floats({2, 3, 5, 8}, 1);
    feeds["cos"] = floats({1, 1, 5, joined ? 8 : 4}, 2);
    feeds["sin"] = floats({5, joined ? 8 : 4}, 3);
    for (const bool slices : {true, false}) {
      EXPECT_EQ(fused_ops(rotary_graph(slices, joined), feeds, 1e-6), Ops{"RotateHalf"})
          << slices << joined;
    }
    GraphMaker shown = rotary_graph(true, joined).output("a");
    EXPECT_EQ(fused_ops(shown, feeds, 1e-6), plain_ops(shown));
  }
}

}  // namespace
}  // namespace forebay::builder::test
