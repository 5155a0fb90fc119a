// Whole builds: what is kept and what is a weight, recipes, slabs, digests, determinism.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/digest.h"
#include "builder/model_maker.h"
#include "plan/plan_io.h"

namespace forebay::builder::test {
namespace {

const plan::Constant* find_constant(const plan::Plan& plan, const std::string& name) {
  for (const plan::Constant& constant : plan.constants)
    if (constant.name == name) return &constant;
  return nullptr;
}

TEST(Kept, OnlyScalarsAndShapeArithmeticStay) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "4"})
      .initializer("bias", floats({4}, 1))
      .constant("tiny", floats({2}, 9))
      .constant("scalar", list({3.0f}));
  graph.constant("target", integers({-1, 2, 2})).constant("table", integers({5, 6, 7, 8})).input("k", DType::i64, {"4"});
  graph.node("Add", {"x", "bias"}, {"a"}).node("Mul", {"a", "scalar"}, {"b"}).node("Reshape", {"b", "target"}, {"c"});
  graph.node("Mul", {"c", "tiny"}, {"y"}).node("Add", {"k", "table"}, {"z"}).output("y").output("z");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Plan& plan = built->plan;
  EXPECT_EQ(weight_names(plan), (std::vector<std::string>{"bias", "tiny", "table"}));
  for (const plan::Constant& constant : plan.constants) {
    EXPECT_TRUE(constant.kept);
    for (const std::uint32_t source : constant.sources) EXPECT_TRUE(plan.sources[source].has_sha256);
  }
  const plan::Constant* target = find_constant(plan, "target");
  ASSERT_NE(target, nullptr);
  ASSERT_EQ(target->sources.size(), 1u);
  EXPECT_EQ(plan.sources[target->sources[0]].sha256, sha256(target->data));
  EXPECT_NE(find_constant(plan, "scalar"), nullptr);
  EXPECT_EQ(plan.constants.size(), 2u);
  // Weights of a refit-all plan were not read.
  for (const plan::Weight& weight : plan.weights) EXPECT_FALSE(plan.sources[weight.recipe.sources[0]].has_sha256);
}

TEST(Kept, FoldedConstantsNameTheirSources) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"2", "6"}).constant("a", integers({2})).constant("b", integers({3})).constant("c", integers({2}));
  graph.node("Concat", {"a", "b", "c"}, {"target"}).with("axis", std::int64_t{0}).node("Reshape", {"x", "target"}, {"y"}).output("y");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  ASSERT_EQ(built->plan.constants.size(), 1u);
  EXPECT_EQ(built->plan.constants[0].sources.size(), 3u);
  EXPECT_EQ(ops_of(built->plan.graphs[0]), std::vector<std::string>{"Reshape"});
}

TEST(Kept, DynamicShapeArithmeticKeepsItsConstants) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "M", "4"}).constant("index", integers({0})).constant("tail", integers({2, 2, -1}));
  graph.node("Shape", {"x"}, {"s"}).node("Gather", {"s", "index"}, {"n"}).with("axis", std::int64_t{0});
  graph.node("Concat", {"n", "tail"}, {"target"})
      .with("axis", std::int64_t{0})
      .node("Reshape", {"x", "target"}, {"y"})
      .output("y", DType::f32);
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_TRUE(built->plan.weights.empty());
  EXPECT_NE(find_constant(built->plan, "tail"), nullptr);
  EXPECT_EQ(built->plan.values[built->plan.graphs[0].outputs[0]].dims.size(), 4u);
}

TEST(Recipes, ReplaceWhatIsComputedFromWeightsAlone) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "8"}).initializer("w", floats({8, 8}, 1)).initializer("v", floats({4, 8}, 2));
  graph.constant("from", integers({0})).constant("to", integers({4})).constant("axis", integers({1}));
  graph.node("Slice", {"w", "from", "to", "axis"}, {"part"}).node("Transpose", {"v"}, {"vt"});
  graph.node("Concat", {"part", "vt"}, {"joined"}).with("axis", std::int64_t{1}).node("MatMul", {"x", "joined"}, {"y"}).output("y");
  for (const plan::RefitMode mode : {plan::RefitMode::all, plan::RefitMode::none}) {
    Options options;
    options.refit = mode;
    const auto built = build_model(graph.model(), options);
    ASSERT_TRUE(built.ok()) << built.status().to_string();
    const plan::Plan& plan = built->plan;
    ASSERT_EQ(plan.weights.size(), 1u);
    EXPECT_EQ(plan.weights[0].name, "joined");
    EXPECT_EQ(plan.weights[0].recipe.describe(), "Concat(Slice,Transpose)");
    EXPECT_EQ(plan.weights[0].recipe.sources.size(), 2u);
    const auto made = run_recipe(*built, plan.weights[0]);
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    const HostTensor w = floats({8, 8}, 1), v = floats({4, 8}, 2);
    for (std::size_t r = 0; r < 8; ++r)
      for (std::size_t c = 0; c < 8; ++c)
        EXPECT_EQ(made->as<float>()[r * 8 + c], c < 4 ? w.as<float>()[r * 8 + c] : v.as<float>()[(c - 4) * 8 + r]);
    EXPECT_EQ(plan.refit, mode);
  }
}

TEST(Recipes, ViewsAloneAreReadInPlace) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "8"}).initializer("w", floats({64}, 1)).constant("target", integers({8, 8}));
  graph.node("Reshape", {"w", "target"}, {"m"}).node("MatMul", {"x", "m"}, {"y"}).output("y");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  ASSERT_EQ(built->plan.weights.size(), 1u);
  EXPECT_TRUE(built->plan.weights[0].recipe.identity());
  EXPECT_EQ(built->plan.weights[0].shape, (Shape{8, 8}));
  ASSERT_NE(find_constant(built->plan, "target"), nullptr);
}

TEST(Recipes, LeaveBlowUpsInTheGraph) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"256", "64"}).initializer("row", floats({1, 64}, 1)).constant("size", integers({256, 64}));
  graph.node("Expand", {"row", "size"}, {"wide"}).node("Add", {"x", "wide"}, {"y"}).output("y");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(ops_of(built->plan.graphs[0]), (std::vector<std::string>{"Expand", "Add"}));
  EXPECT_EQ(weight_names(built->plan), std::vector<std::string>{"row"});
}

TEST(Recipes, ChooseTheRightOutputOfASplit) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).initializer("w", floats({8}, 1)).constant("sizes", integers({4, 4}));
  graph.node("Split", {"w", "sizes"}, {"first", "second"}).node("Mul", {"x", "first"}, {"y"}).output("y");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  ASSERT_EQ(built->plan.weights.size(), 1u);
  const auto made = run_recipe(*built, built->plan.weights[0]);
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  const HostTensor w = floats({8}, 1);
  ASSERT_EQ(made->shape(), (Shape{4}));
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(made->as<float>()[i], w.as<float>()[i]);
}

TEST(Recipes, OfTwoBranchesThatDoTheSameAreOneWeight) {
  const auto body = [](const std::string& name) {
    GraphMaker graph;
    graph.constant("from", integers({4})).constant("to", integers({8})).node("Slice", {"w", "from", "to"}, {"part"});
    graph.node("Neg", {"part"}, {"turned"}).node(name == "t" ? "Mul" : "Add", {"x", "turned"}, {name}).output(name);
    return graph;
  };
  GraphMaker graph;
  graph.input("x", DType::f32, {"4", "8"}).input("flag", DType::boolean, {}).initializer("w", floats({8, 8}, 1));
  graph.node("If", {"flag"}, {"y"}).named("pick").with_body("then_branch", body("t")).with_body("else_branch", body("e")).output("y");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Plan& plan = built->plan;
  ASSERT_EQ(plan.weights.size(), 1u);
  EXPECT_EQ(plan.weights[0].use_count, 2u);
  EXPECT_EQ(plan.graphs[1].nodes[0].inputs[1], plan.graphs[2].nodes[0].inputs[1]);
  // The bounds of both branches are kept: a refit that changes one of them is refused.
  std::size_t kept = 0;
  for (const plan::Constant& constant : plan.constants) kept += constant.kept ? 1 : 0;
  EXPECT_EQ(kept, 4u);
}

TEST(Outputs, MayBeWeightsConstantsAndInputs) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).initializer("w", floats({4}, 1)).constant("s", list({1.0f}, true));
  graph.node("Neg", {"x"}, {"y"}).output("y").output("w").output("s").output("x");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Plan& plan = built->plan;
  EXPECT_EQ(plan.values[plan.graphs[0].outputs[1]].kind, plan::ValueKind::weight);
  EXPECT_EQ(plan.values[plan.graphs[0].outputs[1]].name, "w");
  EXPECT_EQ(plan.values[plan.graphs[0].outputs[2]].kind, plan::ValueKind::constant);
  EXPECT_EQ(plan.values[plan.graphs[0].outputs[3]].kind, plan::ValueKind::input);
}

TEST(Outputs, KeepDeclaredDimensionNames) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"batch", "4"}).node("Neg", {"x"}, {"y"});
  onnx::Model model = graph.model();
  model.graph.outputs.push_back(info("y", DType::f32, {"batch", "4"}));
  const auto built = build_model(model);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(built->plan.values[built->plan.graphs[0].outputs[0]].dims[0].name, "batch");
}

TEST(Digests, OfEverySourceInIdenticalMode) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"8"}).initializer("w", floats({8}, 1)).initializer("v", floats({8}, 2));
  graph.node("Mul", {"x", "w"}, {"a"}).node("Add", {"a", "v"}, {"y"}).output("y");
  Options options;
  options.refit = plan::RefitMode::identical;
  std::uint64_t last = 0;
  options.progress = [&](const char* stage, std::uint64_t done, std::uint64_t) {
    if (std::strcmp(stage, "digests") == 0) last = done;
    return true;
  };
  const auto built = build_model(graph.model(), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  for (std::size_t i = 0; i < built->sources.size(); ++i) {
    const HostTensor& plain = *built->sources[i].memory;
    ASSERT_TRUE(built->plan.sources[i].has_sha256);
    EXPECT_EQ(built->plan.sources[i].sha256, sha256({plain.data(), static_cast<std::size_t>(plain.bytes())}));
  }
  EXPECT_EQ(last, 64u);
}

onnx::Model layered_model() {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "64"});
  std::string value = "x";
  for (int layer = 0; layer < 6; ++layer) {
    const std::string n = std::to_string(layer);
    graph.initializer("w" + n, floats({64, 64}, static_cast<std::uint32_t>(layer)))
        .constant("b" + n, floats({64}, static_cast<std::uint32_t>(layer) + 100));
    graph.node("MatMul", {value, "w" + n}, {"m" + n}).node("Add", {"m" + n, "b" + n}, {"a" + n}).node("Relu", {"a" + n}, {"r" + n});
    value = "r" + n;
  }
  graph.output(value, DType::f32);
  return graph.model();
}

TEST(Build, IsDeterministicAndValid) {
  std::vector<std::byte> first;
  for (int round = 0; round < 3; ++round) {
    auto built = build_model(layered_model());
    ASSERT_TRUE(built.ok()) << built.status().to_string();
    ASSERT_TRUE(plan::validate_plan(built->plan).ok());
    const auto bytes = plan::serialize_plan(built->plan, {});
    ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
    if (round == 0) first = *bytes;
    EXPECT_TRUE(first == *bytes);
  }
  // 6 x 16.6 KB of weights: the stripped plan holds none of them.
  EXPECT_LT(first.size(), 24'000u);
}

TEST(Build, NumbersChunksInExecutionOrder) {
  Options options;
  options.slab_bytes = 8192;
  const auto built = build_model(layered_model(), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Plan& plan = built->plan;
  EXPECT_EQ(plan.weights[0].name, "w0");
  EXPECT_EQ(plan.weights[0].part_count, 2u);
  EXPECT_EQ(plan.weights[0].consumption, plan::Consumption::by_reduction);
  std::uint32_t before = 0;
  for (const plan::Weight& weight : plan.weights) {
    if (weight.part_count < 2) continue;
    EXPECT_GE(plan.parts[weight.first_part].chunk, before);
    before = plan.parts[weight.first_part].chunk;
  }
  EXPECT_EQ(plan.slab_bytes, 8192u);
  ASSERT_EQ(plan.kernels.size(), 1u);
  EXPECT_EQ(plan.kernels[0].device_kind, "cpu");
  EXPECT_FALSE(plan.kernels[0].entries.empty());
}

// Those whose weights are computed, or that lie far away, stay where they are.
TEST(Build, ProductsOfOneValueFollowEachOther) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "4"}).input("other", DType::f32, {"4", "4"}).node("Neg", {"x"}, {"h"});
  for (const char* weight : {"wq", "wk", "wv", "wz"}) graph.initializer(weight, floats({4, 4}, weight[1]));
  graph.node("MatMul", {"h", "wq"}, {"q"}).node("Exp", {"q"}, {"e"}).node("Sin", {"e"}, {"s"});
  graph.node("MatMul", {"h", "wk"}, {"k"}).node("Sqrt", {"other"}, {"root"}).node("MatMul", {"h", "root"}, {"r"});
  graph.node("MatMul", {"h", "wv"}, {"v"}).node("Sum", {"s", "k", "r", "v"}, {"sum"});
  std::string last = "sum";
  for (int i = 0; i < 20; ++i) {
    graph.node(i % 2 == 0 ? "Exp" : "Sin", {last}, {"far" + std::to_string(i)});
    last = "far" + std::to_string(i);
  }
  graph.node("MatMul", {"h", "wz"}, {"z"}).node("Add", {last, "z"}, {"y"}).output("y");
  const auto order = [&](bool fuse) {
    Options options;
    options.fuse = fuse;
    const auto built = build_model(graph.model(), options);
    EXPECT_TRUE(built.ok()) << built.status().to_string();
    std::vector<std::string> outputs;
    for (const plan::Node& node : built->plan.graphs[0].nodes) outputs.push_back(built->plan.values[node.outputs[0]].name);
    return std::vector<std::string>(outputs.begin(), outputs.begin() + 8);
  };
  EXPECT_EQ(order(true), (std::vector<std::string>{"h", "q", "k", "v", "e", "s", "root", "r"}));
  EXPECT_EQ(order(false), (std::vector<std::string>{"h", "q", "e", "s", "k", "root", "r", "v"}));
}

TEST(Build, GivesUnnamedAndDoubledNodesNames) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).node("Neg", {"x"}, {"a"}).node("Neg", {"a"}, {"b"}).node("Exp", {"b"}, {"c"}).named("e");
  graph.node("Exp", {"c"}, {"d"}).named("e").output("d");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  std::vector<std::string> names;
  for (const plan::Node& node : built->plan.graphs[0].nodes) names.push_back(node.name);
  EXPECT_EQ(names, (std::vector<std::string>{"Neg", "Neg_2", "e", "e_2"}));
}

TEST(Build, InfersLoopBodies) {
  GraphMaker body;
  body.input("i", DType::i64, {}).input("go", DType::boolean, {}).input("acc", DType::f32, {"4"});
  body.constant("w", floats({4}, 7)).node("Add", {"acc", "w"}, {"next"}).node("Neg", {"next"}, {"slice"});
  body.output("go").output("next").output("slice");
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).constant("trips", integers({3}, true));
  graph.node("Loop", {"trips", "", "x"}, {"last", "all"})
      .named("loop")
      .with_body("body", body)
      .output("last", DType::f32)
      .output("all", DType::f32);
  const auto built = build_model(graph.model());
  if (!built.ok() && built.status().code() == Code::unsupported) GTEST_SKIP() << built.status().message();
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Plan& plan = built->plan;
  const plan::Value& all = plan.values[plan.graphs[0].outputs[1]];
  ASSERT_EQ(all.dims.size(), 2u);
  EXPECT_EQ(all.dims[0].size, 3);
  EXPECT_EQ(all.dims[1].size, 4);
  EXPECT_EQ(weight_names(plan), std::vector<std::string>{"loop/body/w"});
  EXPECT_TRUE(plan.weights[0].in_body);
}

}  // namespace
}  // namespace forebay::builder::test
