// Attention in the forms that exporters write; biases and activations behind products.
#include "builder/fused_graph.h"

namespace forebay::builder::test {
namespace {

using Ops = std::vector<std::string>;
using Ints = std::vector<std::int64_t>;
constexpr std::int64_t kFloat = 1, kHalf = 10;

struct AttentionForm {
  std::string scale = "Div";  // Div, Mul on the scores; Q: on the queries; both: on Q and K'
  std::string mask;           // "", add, where (true keeps), hide (true hides)
  std::int64_t repeats = 1;   // query heads for one head of K and V
  bool direct = false;        // K comes as [B,T,H,D] and is turned at once
  bool flat = false;          // heads inside of the batch: three dimensions
  bool guard = false, softcap = false, half = false;
  float fill = -INFINITY;
};

// q [2,4,5,8], k and v [2,4/repeats,7,8].
GraphMaker attention_graph(const AttentionForm& form) {
  GraphMaker g;
  const DType dtype = form.half ? DType::f16 : DType::f32, inner = DType::f32;
  const std::string heads = std::to_string(4 / form.repeats);
  const auto number = [&](const char* name, float value, DType type) {
    g.constant(name, type == DType::f16 ? halves(list({value}, true)) : list({value}, true));
  };
  if (form.flat) {
    g.input("q", dtype, {"8", "5", "8"})
        .input("k", dtype, {"8", "7", "8"})
        .input("v", dtype, {"8", "7", "8"});
  } else {
    g.input("q", dtype, {"2", "4", "5", "8"}).input("v", dtype, {"2", heads, "7", "8"});
    g.input("k", dtype, form.direct ? Ops{"2", "7", heads, "8"} : Ops{"2", heads, "7", "8"});
  }
  number("root", 2.8284271f, dtype);
  number("scale", 0.35355339f, dtype);
  number("part", 0.59460356f, dtype);
  number("cap", 2.0f, dtype);
  number("fill", form.fill, inner);
  number("zero", 0.0f, inner);
  std::string k = "k", v = "v", q = "q";
  if (form.repeats > 1) {
    g.constant("two", integers({2}))
        .constant("wide", integers({2, 4 / form.repeats, form.repeats, 7, 8}))
        .constant("full", integers({2, 4, 7, 8}));
    for (std::string* name : {&k, &v}) {
      g.node("Unsqueeze", {*name, "two"}, {*name + "u"})
          .node("Expand", {*name + "u", "wide"}, {*name + "e"})
          .node("Reshape", {*name + "e", "full"}, {*name + "r"});
      *name += "r";
    }
  }
  g.node("Transpose", {k}, {"kt"})
      .with("perm", form.flat     ? Ints{0, 2, 1}
                    : form.direct ? Ints{0, 2, 3, 1}
                                  : Ints{0, 1, 3, 2});
  std::string kt = "kt";
  if (form.scale == "Q") g.node("Div", {"q", "root"}, {"qs"});
  if (form.scale == "both")
    g.node("Mul", {"q", "part"}, {"qs"}).node("Mul", {"kt", "part"}, {"ks"});
  if (form.scale == "Q" || form.scale == "both") q = "qs";
  if (form.scale == "both") kt = "ks";
  g.node("MatMul", {q, kt}, {"s"});
  std::string s = "s";
  if (form.scale == "Div") g.node("Div", {s, "root"}, {"ss"});
  if (form.scale == "Mul") g.node("Mul", {"scale", s}, {"ss"});
  if (form.scale == "Div" || form.scale == "Mul") s = "ss";
  if (form.softcap) {
    g.node("Div", {s, "cap"}, {"c1"})
        .node("Tanh", {"c1"}, {"c2"})
        .node("Mul", {"c2", "cap"}, {"c3"});
    s = "c3";
  }
  if (form.half) {
    g.node("Cast", {s}, {"s32"}).with("to", kFloat);
    s = "s32";
  }
  if (!form.mask.empty())
    g.input("mask", form.mask == "add" ? DType::f32 : DType::boolean,
            form.flat ? Ops{"8", "5", "7"} : Ops{"2", "1", "5", "7"});
  if (form.mask == "add") g.node("Add", {"mask", s}, {"m"});
  if (form.mask == "where") g.node("Where", {"mask", s, "fill"}, {"m"});
  if (form.mask == "hide") g.node("Where", {"mask", "fill", s}, {"m"});
  if (!form.mask.empty()) s = "m";
  g.node("Softmax", {s}, {"p"}).with("axis", std::int64_t{-1});
  std::string p = "p";
  if (form.guard) {
    g.node("IsNaN", {"p"}, {"nan"}).node("Where", {"nan", "zero", "p"}, {"pg"});
    p = "pg";
  }
  if (form.half) {
    g.node("Cast", {p}, {"p16"}).with("to", kHalf);
    p = "p16";
  }
  return g.node("MatMul", {p, v}, {"y"}).output("y", dtype);
}

Feeds attention_feeds(const AttentionForm& form, bool empty_row = false) {
  const std::int64_t heads = 4 / form.repeats;
  Feeds feeds;
  const auto add = [&](const char* name, const Dims& dims, std::uint32_t seed) {
    HostTensor tensor = floats(dims, seed, -2.0f, 2.0f);
    feeds[name] = form.half ? halves(tensor) : std::move(tensor);
  };
  if (form.flat) {
    add("q", {8, 5, 8}, 1);
    add("k", {8, 7, 8}, 2);
    add("v", {8, 7, 8}, 3);
  } else {
    add("q", {2, 4, 5, 8}, 1);
    add("k", form.direct ? Dims{2, 7, heads, 8} : Dims{2, heads, 7, 8}, 2);
    add("v", {2, heads, 7, 8}, 3);
  }
  const Dims shape = form.flat ? Dims{8, 5, 7} : Dims{2, 1, 5, 7};
  HostTensor mask = floats(shape, 4);
  if (form.mask == "add") {
    for (float& m : mask.as<float>()) m = m > 0.4f ? -INFINITY : m;
    if (empty_row) std::fill_n(mask.as<float>().begin() + 7, 7, -INFINITY);
    feeds["mask"] = std::move(mask);
  } else if (!form.mask.empty()) {
    HostTensor truth(DType::boolean, mask.shape());
    for (std::size_t i = 0; i < mask.as<float>().size(); ++i)
      truth.data()[i] = std::byte{mask.as<float>()[i] > -0.4f};
    if (empty_row) std::fill_n(truth.data() + 7, 7, std::byte{form.mask == "hide"});
    feeds["mask"] = std::move(truth);
  }
  return feeds;
}

Ops found(const AttentionForm& form, bool empty_row = false) {
  return fused_ops(attention_graph(form), attention_feeds(form, empty_row),
                   form.half ? 5e-3 : 1e-5);
}

TEST(Attention, FindsTheScaleWhereverItIs) {
  for (const char* scale : {"", "Div", "Mul", "Q", "both"}) {
    AttentionForm form;
    form.scale = scale;
    EXPECT_EQ(found(form), Ops{"Attention"}) << scale;
    form.flat = true;
    EXPECT_EQ(found(form), Ops{"Attention"}) << scale << " with heads inside of the batch";
    form.flat = false;
    form.direct = true;
    EXPECT_EQ(found(form), (Ops{"Transpose", "Attention"})) << scale << " with keys turned at once";
  }
}

TEST(Attention, TakesMasksSoftCapsAndHalves) {
  for (const char* mask : {"add", "where", "hide"}) {
    for (const float fill : {-INFINITY, -1e4f}) {
      AttentionForm form;
      form.mask = mask;
      form.fill = fill;
      const Ops wanted = form.mask == "hide" ? Ops{"Not", "Attention"} : Ops{"Attention"};
      EXPECT_EQ(found(form), wanted) << mask;
      // A row that sees nothing: not a number by softmax, or uniform where the fill is finite, as
      // the graph says.
      EXPECT_EQ(found(form, true), wanted) << mask << fill;
      form.softcap = true;
      EXPECT_EQ(found(form), wanted) << mask;
      form.half = true;
      EXPECT_EQ(found(form), wanted) << mask;
    }
  }
  AttentionForm flat;
  flat.flat = true;
  flat.mask = "add";
  EXPECT_EQ(found(flat), (Ops{"Unsqueeze", "Attention"}));
}

TEST(Attention, TakesTheGuardForRowsThatSeeNothing) {
  AttentionForm form;
  form.mask = "add";
  form.guard = true;
  EXPECT_EQ(found(form, true), Ops{"Attention"});
  form.half = true;
  EXPECT_EQ(found(form, true), Ops{"Attention"});
}

TEST(Attention, ReadsRepeatedHeadsOnce) {
  for (const std::int64_t repeats : {2, 4}) {
    AttentionForm form;
    form.repeats = repeats;
    form.mask = "add";
    EXPECT_EQ(found(form), Ops{"Attention"}) << repeats;
  }
}

// Transposed from rows and back: the heads are read inside of the rows. Where anything else reads the result, the transposes stay.
TEST(Attention, LeavesHeadsInTheirRows) {
  for (const bool shown : {false, true}) {
    GraphMaker g;
    Feeds feeds;
    const std::pair<const char*, Dims> inputs[] = {{"a", {2, 5, 4, 8}}, {"b", {2, 7, 4, 8}}, {"c", {2, 7, 4, 6}}};
    for (const auto& [name, dims] : inputs) {
      g.input(name, DType::f32, {"N", std::to_string(dims[1]), "4", std::to_string(dims[3])});
      feeds[name] = floats(dims, static_cast<std::uint32_t>(dims[3]), -2.0f, 2.0f);
    }
    g.node("Transpose", {"a"}, {"q"}).with("perm", Ints{0, 2, 1, 3}).node("Transpose", {"b"}, {"kt"}).with("perm", Ints{0, 2, 3, 1});
    g.node("Transpose", {"c"}, {"v"}).with("perm", Ints{0, 2, 1, 3}).constant("scale", list({0.25f}, true));
    g.node("MatMul", {"q", "kt"}, {"s"}).node("Mul", {"s", "scale"}, {"t"}).node("Softmax", {"t"}, {"p"}).with("axis", std::int64_t{-1});
    g.node("MatMul", {"p", "v"}, {"y"}).node("Transpose", {"y"}, {"z"}).with("perm", Ints{0, 2, 1, 3}).output("z", DType::f32);
    if (shown) g.output("y", DType::f32);
    const Ops ops = fused_ops(g, feeds);
    EXPECT_EQ(std::count(ops.begin(), ops.end(), "Attention"), 1);
    EXPECT_EQ(std::count(ops.begin(), ops.end(), "Transpose"), shown ? 4 : 0);
  }
}

TEST(Attention, LeavesWhatIsReadElsewhereOrDoesNotFit) {
  const AttentionForm form;
  for (const char* shown : {"p", "s", "kt"}) {
    const GraphMaker graph = attention_graph(form).output(shown);
    EXPECT_EQ(fused_ops(graph, attention_feeds(form)), plain_ops(graph)) << shown;
  }
  GraphMaker axis;  // the softmax runs over the queries
  axis.input("q", DType::f32, {"2", "4", "7", "8"})
      .input("k", DType::f32, {"2", "4", "8", "7"})
      .input("v", DType::f32, {"2", "4", "7", "8"});
  axis.node("Transpose", {"k"}, {"kk"})
      .with("perm", Ints{0, 1, 3, 2})
      .node("Transpose", {"kk"}, {"kt"})
      .with("perm", Ints{0, 1, 3, 2});
  axis.node("MatMul", {"q", "kt"}, {"s"})
      .node("Softmax", {"s"}, {"p"})
      .with("axis", std::int64_t{2})
      .node("MatMul", {"p", "v"}, {"y"})
      .output("y");
  Feeds feeds;
  feeds["q"] = floats({2, 4, 7, 8}, 1);
  feeds["k"] = floats({2, 4, 8, 7}, 2);
  feeds["v"] = floats({2, 4, 7, 8}, 3);
  EXPECT_EQ(fused_ops(axis, feeds), (Ops{"Reshape", "MatMul", "Softmax", "MatMul"}));  // two transposes are none
  GraphMaker one;  // keys and values of one batch serve two
  one.input("q", DType::f32, {"2", "4", "5", "8"})
      .input("k", DType::f32, {"1", "4", "7", "8"})
      .input("v", DType::f32, {"1", "4", "7", "8"});
  one.node("Transpose", {"k"}, {"kt"})
      .with("perm", Ints{0, 1, 3, 2})
      .node("MatMul", {"q", "kt"}, {"s"})
      .node("Softmax", {"s"}, {"p"});
  one.node("MatMul", {"p", "v"}, {"y"}).output("y");
  feeds["q"] = floats({2, 4, 5, 8}, 1);
  feeds["k"] = floats({1, 4, 7, 8}, 2);
  feeds["v"] = floats({1, 4, 7, 8}, 3);
  EXPECT_EQ(fused_ops(one, feeds), plain_ops(one));
}

// The query heads of a group as rows of one product, keys and values never repeated.
TEST(Attention, FindsGroupsStackedAsRows) {
  for (const bool shown : {false, true}) {
    GraphMaker g;
    g.input("q", DType::f32, {"2", "4", "5", "8"}).input("k", DType::f32, {"2", "2", "7", "8"});
    g.input("v", DType::f32, {"2", "2", "7", "8"}).input("mask", DType::f32, {"5", "7"});
    g.constant("scale", list({0.35355339f}, true)).constant("rows", integers({0, 2, -1, 8}));
    g.constant("split", integers({0, 2, 2, -1, 7})).constant("joined", integers({0, 2, -1, 7}));
    g.constant("heads", integers({0, 4, -1, 8})).node("Reshape", {"q", "rows"}, {"qr"});
    g.node("Transpose", {"k"}, {"kt"}).with("perm", Ints{0, 1, 3, 2});
    g.node("MatMul", {"qr", "kt"}, {"s"}).node("Mul", {"s", "scale"}, {"ss"});
    g.node("Reshape", {"ss", "split"}, {"sg"}).node("Add", {"sg", "mask"}, {"m"});
    g.node("Softmax", {"m"}, {"p"}).with("axis", std::int64_t{-1});
    g.node("Reshape", {"p", "joined"}, {"pr"}).node("MatMul", {"pr", "v"}, {"yr"});
    g.node("Reshape", {"yr", "heads"}, {"y"}).output("y", DType::f32);
    if (shown) g.output("p", DType::f32);
    Feeds feeds;
    feeds["q"] = floats({2, 4, 5, 8}, 1);
    feeds["k"] = floats({2, 2, 7, 8}, 2);
    feeds["v"] = floats({2, 2, 7, 8}, 3);
    feeds["mask"] = floats({5, 7}, 4);
    const Ops wanted = shown ? plain_ops(g) : Ops{"Attention", "Reshape", "Reshape"};
    EXPECT_EQ(fused_ops(g, feeds), wanted);
  }
}

// As exporters write it for any batch and length: target shapes by Shape, Gather and Concat, the
// scale from the size of a head.
TEST(Attention, KnowsHeadsWhereBatchAndLengthAreOpen) {
  GraphMaker g;
  g.input("x", DType::f32, {"B", "S", "32"})
      .constant("i0", integers({0}, true))
      .constant("i1", integers({1}, true))
      .constant("a0", integers({0}));
  g.constant("heads", integers({4}))
      .constant("groups", integers({2}))
      .constant("size", integers({8}))
      .constant("last", integers({-1}));
  g.constant("end", integers({INT64_MAX}))
      .constant("two", integers({2}))
      .constant("one", list({1.0f}));
  g.node("Shape", {"x"}, {"dims"})
      .node("Gather", {"dims", "i0"}, {"b"})
      .node("Gather", {"dims", "i1"}, {"s"});
  g.node("Unsqueeze", {"b", "a0"}, {"bu"}).node("Unsqueeze", {"s", "a0"}, {"su"});
  g.node("Concat", {"bu", "su", "heads", "size"}, {"qd"}).with("axis", std::int64_t{0});
  g.node("Concat", {"bu", "su", "groups", "size"}, {"kd"}).with("axis", std::int64_t{0});
  g.node("Concat", {"bu", "groups", "two", "su", "size"}, {"wide"}).with("axis", std::int64_t{0});
  g.node("Concat", {"bu", "heads", "su", "size"}, {"full"}).with("axis", std::int64_t{0});
  std::uint32_t seed = 1;
  for (const std::string name : {"q", "k", "v"}) {
    g.initializer("w" + name, floats({32, name == "q" ? 32 : 16}, seed++))
        .node("MatMul", {"x", "w" + name}, {name + "1"});
    g.node("Reshape", {name + "1", name == "q" ? "qd" : "kd"}, {name + "2"})
        .node("Transpose", {name + "2"}, {name})
        .with("perm", Ints{0, 2, 1, 3});
    if (name == "q") continue;
    g.node("Unsqueeze", {name, "two"}, {name + "u"})
        .node("Expand", {name + "u", "wide"}, {name + "e"});
    g.node("Reshape", {name + "e", "full"}, {name + "r"});
  }
  g.node("Shape", {"q"}, {"shape"})
      .node("Slice", {"shape", "last", "end"}, {"h"})
      .node("Cast", {"h"}, {"hf"})
      .with("to", kFloat);
  g.node("Sqrt", {"hf"}, {"root"})
      .node("Div", {"one", "root"}, {"square"})
      .node("Sqrt", {"square"}, {"part"});
  g.node("Transpose", {"kr"}, {"kt"})
      .with("perm", Ints{0, 1, 3, 2})
      .node("Mul", {"kt", "part"}, {"ks"})
      .node("Mul", {"q", "part"}, {"qs"});
  g.node("MatMul", {"qs", "ks"}, {"scores"})
      .node("Softmax", {"scores"}, {"p"})
      .with("axis", std::int64_t{-1})
      .node("MatMul", {"p", "vr"}, {"y"});
  g.output("y", DType::f32);
  Feeds feeds;
  feeds["x"] = floats({3, 6, 32}, 9);
  const auto built = build_model(g.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const Ops ops = ops_of(built->plan.graphs[0]);
  EXPECT_EQ(std::count(ops.begin(), ops.end(), "Attention"), 1);
  for (const char* gone : {"Softmax", "Expand", "Mul", "Sqrt"})
    EXPECT_EQ(std::count(ops.begin(), ops.end(), gone), 0) << gone;
  fused_ops(g, feeds);
}

// y = activation(x * w + b) in one of the forms of a weight.
GraphMaker linear_graph(const std::string& kind, const std::string& activation,
                        DType dtype = DType::f32) {
  const auto as = [&](HostTensor tensor) {
    return dtype == DType::f16 ? halves(tensor) : std::move(tensor);
  };
  GraphMaker g;
  g.input("x", dtype, kind == "Gemm" ? Ops{"6", "12"} : Ops{"2", "3", "12"})
      .initializer("b", as(floats({20}, 2)));
  g.initializer("w", as(kind == "MatMul" ? floats({12, 20}, 1) : floats({20, 12}, 1)));
  const std::string sum = activation.empty() ? "y" : "s";
  if (kind == "Gemm") g.node("Gemm", {"x", "w", "b"}, {sum}).with("transB", std::int64_t{1});
  if (kind == "MatMul") g.node("MatMul", {"x", "w"}, {"m"}).node("Add", {"m", "b"}, {sum});
  if (kind == "Transpose")
    g.node("Transpose", {"w"}, {"t"})
        .with("perm", Ints{1, 0})
        .node("MatMul", {"x", "t"}, {"m"})
        .node("Add", {"b", "m"}, {sum});
  if (activation == "Clip") {
    g.constant("low", as(list({-0.5f}, true)))
        .constant("high", as(list({0.75f}, true)))
        .node("Clip", {"s", "low", "high"}, {"y"});
  } else if (!activation.empty()) {
    g.node(activation, {"s"}, {"y"});
  }
  return g.output("y", dtype);
}

TEST(Epilogue, TakesBiasesAndActivationsAndKeepsTheWeight) {
  for (const char* kind : {"Gemm", "MatMul", "Transpose"}) {
    for (const char* activation : {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish",
                                   "HardSigmoid", "Gelu", "Clip", "Mish"}) {
      const GraphMaker graph = linear_graph(kind, activation);
      Feeds feeds;
      feeds["x"] = floats(std::string(kind) == "Gemm" ? Dims{6, 12} : Dims{2, 3, 12}, 5);
      EXPECT_EQ(fused_ops(graph, feeds, 1e-5, 20), Ops{"Linear"}) << kind << " " << activation;
      const auto built = build_model(graph.model(20));
      ASSERT_TRUE(built.ok()) << built.status().to_string();
      const plan::Weight* weight = find_weight(built->plan, "w");
      ASSERT_NE(weight, nullptr);
      EXPECT_TRUE(weight->recipe.identity());
      EXPECT_EQ(weight->consumption, std::string(kind) == "MatMul" ? plan::Consumption::by_reduction
                                                                   : plan::Consumption::by_output);
    }
  }
  Feeds feeds;
  feeds["x"] = halves(floats({2, 3, 12}, 5));
  EXPECT_EQ(fused_ops(linear_graph("MatMul", "Relu", DType::f16), feeds, 3e-3), Ops{"Linear"});
}

TEST(Epilogue, TakesActivationsBehindConvolutions) {
  for (const std::int64_t group : {1, 4}) {
    GraphMaker graph;
    graph.input("x", DType::f32, {"2", "4", "9", "9"})
        .initializer("w", floats({8, 4 / group, 3, 3}, 1))
        .initializer("b", floats({8}, 2));
    graph.node("Conv", {"x", "w", "b"}, {"c"})
        .with("group", group)
        .node("LeakyRelu", {"c"}, {"y"})
        .with("alpha", 0.25f)
        .output("y");
    Feeds feeds;
    feeds["x"] = floats({2, 4, 9, 9}, 5);
    EXPECT_EQ(fused_ops(graph, feeds), Ops{"Conv"});
    const GraphMaker shown = graph.output("c");
    EXPECT_EQ(fused_ops(shown, feeds), (Ops{"Conv", "LeakyRelu"}));
  }
}

TEST(Epilogue, LeavesQuantisedWeightsAndWideBiases) {
  GraphMaker wide;  // one value a row, not a column
  wide.input("x", DType::f32, {"20", "12"})
      .initializer("w", floats({12, 20}, 1))
      .initializer("b", floats({20, 1}, 2));
  wide.node("MatMul", {"x", "w"}, {"m"}).node("Add", {"m", "b"}, {"y"}).output("y");
  Feeds feeds;
  feeds["x"] = floats({20, 12}, 5);
  EXPECT_EQ(fused_ops(wide, feeds), (Ops{"MatMul", "Add"}));
  HostTensor bytes(DType::i8, Shape{12, 20});
  for (std::size_t i = 0; i < bytes.bytes(); ++i)
    bytes.as<std::int8_t>()[i] = static_cast<std::int8_t>(i * 37 % 100);
  GraphMaker quantised;
  quantised.input("x", DType::f32, {"20", "12"})
      .initializer("q", std::move(bytes))
      .initializer("b", floats({20}, 2))
      .constant("s", list({0.01f}, true));
  quantised.node("DequantizeLinear", {"q", "s"}, {"w"})
      .node("MatMul", {"x", "w"}, {"m"})
      .node("Add", {"m", "b"}, {"y"})
      .output("y");
  EXPECT_EQ(fused_ops(quantised, feeds), (Ops{"QuantLinear", "Add"}));  // the packed product takes no epilogue
}

}  // namespace
}  // namespace forebay::builder::test
