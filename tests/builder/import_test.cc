// What comes from the file: names, tensors wherever they are, refusals all at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "builder/model_maker.h"
#include "onnx/tensor_walk.h"

namespace forebay::builder::test {
namespace {

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

TEST(Import, TakesWeightsFromInitializersAndConstants) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "8"}).initializer("w", floats({8, 8}, 1)).constant("b", floats({8}, 2));
  graph.node("MatMul", {"x", "w"}, {"m"}).node("Add", {"m", "b"}, {"y"}).output("y", DType::f32);
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(weight_names(built->plan), (std::vector<std::string>{"w", "b"}));
  EXPECT_TRUE(built->plan.constants.empty());
  ASSERT_EQ(built->plan.sources.size(), built->sources.size());
  for (std::size_t i = 0; i < built->sources.size(); ++i) EXPECT_EQ(built->plan.sources[i].name, built->sources[i].name);
}

TEST(Import, HidesInitializersThatAreListedAsInputs) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).input("w", DType::f32, {"4"}).initializer("w", floats({4}, 3));
  graph.node("Mul", {"x", "w"}, {"y"}).output("y");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  ASSERT_EQ(built->plan.graphs[0].inputs.size(), 1u);
  EXPECT_EQ(built->plan.values[built->plan.graphs[0].inputs[0]].name, "x");
  EXPECT_EQ(weight_names(built->plan), std::vector<std::string>{"w"});
}

TEST(Import, ReadsEveryFormOfConstant) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"3"}).input("k", DType::i64, {"3"});
  graph.node("Constant", {}, {"f"}).with("value_floats", std::vector<float>{1, 2, 3});
  graph.node("Constant", {}, {"s"}).with("value_float", 2.5f);
  graph.node("Constant", {}, {"i"}).with("value_ints", std::vector<std::int64_t>{1, 2, 3});
  graph.node("Constant", {}, {"j"}).with("value_int", std::int64_t{7});
  graph.node("Mul", {"x", "f"}, {"a"}).node("Mul", {"a", "s"}, {"y"});
  graph.node("Mul", {"k", "i"}, {"c"}).node("Mul", {"c", "j"}, {"z"}).output("y").output("z");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(weight_names(built->plan), (std::vector<std::string>{"f", "i"}));
  ASSERT_EQ(built->plan.constants.size(), 2u);
  EXPECT_TRUE(built->plan.constants[0].kept);
}

GraphMaker branch(const std::string& name, std::uint32_t seed, const GraphMaker* inner) {
  GraphMaker graph;
  graph.constant("w", floats({6}, seed)).node("Mul", {"x", "w"}, {"p"});
  if (inner != nullptr) {
    graph.node("If", {"flag"}, {"q"}).with_body("then_branch", *inner).with_body("else_branch", *inner);
    graph.node("Add", {"p", "q"}, {name}).output(name);
  } else {
    graph.initializer("v", floats({6}, seed + 1)).node("Add", {"p", "v"}, {name}).output(name);
  }
  return graph;
}

// The model of promise "as small as any other": all weights in nested Constants.
TEST(Import, FindsWeightsInNestedBodiesByPathName) {
  const GraphMaker deep = branch("d", 10, nullptr);
  const GraphMaker then_branch = branch("t", 20, &deep), else_branch = branch("e", 30, nullptr);
  GraphMaker graph;
  graph.input("x", DType::f32, {"6"}).input("flag", DType::boolean, {});
  graph.node("If", {"flag"}, {"y"}).named("outer").with_body("then_branch", then_branch).with_body("else_branch", else_branch).output("y");
  const onnx::Model model = graph.model();
  const auto built = build_model(model);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const std::vector<std::string> names = weight_names(built->plan);
  EXPECT_TRUE(has(names, "outer/then_branch/w"));
  EXPECT_TRUE(has(names, "outer/then_branch/q/then_branch/w"));
  EXPECT_TRUE(has(names, "outer/then_branch/q/else_branch/v"));
  EXPECT_TRUE(has(names, "outer/else_branch/v"));
  EXPECT_EQ(names.size(), 7u);
  for (const plan::Weight& weight : built->plan.weights) EXPECT_TRUE(weight.in_body);
  // The same names as refit finds in the file.
  std::set<std::string> walked;
  onnx::for_each_tensor(model.graph, [&](const std::string& name, const SourceTensor&) { walked.insert(name); });
  for (const plan::Source& source : built->plan.sources) EXPECT_TRUE(walked.contains(source.name)) << source.name;
  EXPECT_EQ(built->plan.graphs.size(), 5u);
}

TEST(Import, ReportsEveryUnsupportedNodeAtOnce) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "4"});
  std::string value = "x";
  for (int i = 0; i < 30; ++i) {
    const std::string next = "v" + std::to_string(i);
    const bool custom = i % 2 == 0;
    graph.node("NoSuchOp" + std::to_string(i % 5), {value}, {next}, custom ? "com.example" : "").named("n" + std::to_string(i));
    value = next;
  }
  graph.output(value);
  const onnx::Model model = graph.model();
  const auto built = build_model(model);
  ASSERT_FALSE(built.ok());
  EXPECT_EQ(built.status().code(), Code::unsupported);
  EXPECT_EQ(built.status().problems().size(), 30u);
  const std::vector<Problem> problems = check(model);
  ASSERT_EQ(problems.size(), 30u);
  std::set<std::string> nodes, ops;
  for (const Problem& problem : problems) {
    nodes.insert(problem.node);
    ops.insert(problem.op);
    EXPECT_FALSE(problem.message.empty());
    EXPECT_EQ(problem.file, "test.onnx");
  }
  EXPECT_EQ(nodes.size(), 30u);
  EXPECT_EQ(ops.size(), 10u);  // five kinds in two domains
}

TEST(Import, ReportsUnsupportedNodesInsideBodies) {
  GraphMaker body, other;
  body.node("Strange", {"x"}, {"a"}).output("a");
  other.node("Neg", {"x"}, {"b"}).node("Stranger", {"b"}, {"c"}).output("c");
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).input("flag", DType::boolean, {});
  graph.node("If", {"flag"}, {"y"}).with_body("then_branch", body).with_body("else_branch", other).node("Odd", {"y"}, {"z"}).output("z");
  EXPECT_EQ(check(graph.model()).size(), 3u);
}

TEST(Import, NamesTheSequenceOperatorsOfALoopAtOnce) {
  GraphMaker body;
  body.input("i", DType::i64, {}).input("go", DType::boolean, {}).input("held", DType::none, {});
  body.node("Identity", {"go"}, {"again"}).node("SequenceInsert", {"held", "x"}, {"longer"}).output("again").output("longer");
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).input("trips", DType::i64, {}).node("SequenceEmpty", {}, {"empty"});
  graph.node("Loop", {"trips", "", "empty"}, {"all"}).with_body("body", body).node("ConcatFromSequence", {"all"}, {"y"}).output("y");
  const auto built = build_model(graph.model());
  ASSERT_FALSE(built.ok());
  EXPECT_EQ(built.status().code(), Code::unsupported) << built.status().to_string();
  for (const std::vector<Problem>& problems : {built.status().problems(), check(graph.model())}) {
    std::set<std::string> ops;
    for (const Problem& problem : problems) ops.insert(problem.op);
    EXPECT_EQ(ops, (std::set<std::string>{"ConcatFromSequence", "SequenceEmpty", "SequenceInsert"}));
  }
}

TEST(Import, IgnoresUnsupportedNodesThatNothingNeeds) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).node("NoSuchOp", {"x"}, {"dead"}).node("Neg", {"x"}, {"y"}).output("y");
  EXPECT_TRUE(check(graph.model()).empty());
  EXPECT_TRUE(build_model(graph.model()).ok());
}

TEST(Import, RefusesMalformedGraphs) {
  GraphMaker unknown;
  unknown.input("input_image", DType::f32, {"4"}).node("Neg", {"input_imag"}, {"y"}).output("y");
  const auto named = build_model(unknown.model());
  ASSERT_FALSE(named.ok());
  EXPECT_EQ(named.status().code(), Code::invalid_model);
  EXPECT_NE(named.status().message().find("input_image"), std::string::npos) << named.status().message();

  GraphMaker twice;
  twice.input("x", DType::f32, {"4"}).node("Neg", {"x"}, {"y"}).node("Neg", {"x"}, {"y"}).output("y");
  EXPECT_EQ(build_model(twice.model()).status().code(), Code::invalid_model);

  GraphMaker no_output;
  no_output.input("x", DType::f32, {"4"}).node("Neg", {"x"}, {"y"}).output("z");
  EXPECT_EQ(build_model(no_output.model()).status().code(), Code::invalid_model);

  GraphMaker wrong_type;
  wrong_type.input("x", DType::f32, {"4"}).node("Neg", {"x"}, {"y"}).output("y", DType::i64);
  const auto refused = build_model(wrong_type.model());
  EXPECT_EQ(refused.status().code(), Code::invalid_model);
  EXPECT_NE(refused.status().message().find("declared as i64"), std::string::npos) << refused.status().message();

  GraphMaker untyped;
  untyped.input("x", DType::none, {"4"}).node("Neg", {"x"}, {"y"}).output("y");
  EXPECT_EQ(build_model(untyped.model()).status().code(), Code::invalid_model);
}

TEST(Import, RefusesForeignInputTypesAndSparseTensors) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).node("Neg", {"x"}, {"y"}).output("y");
  onnx::Model sequence = graph.model();
  sequence.graph.inputs[0].unsupported = "sequence";
  EXPECT_EQ(build_model(sequence).status().code(), Code::unsupported);
  onnx::Model sparse = graph.model();
  sparse.graph.sparse.push_back("s");
  const auto refused = build_model(sparse);
  EXPECT_EQ(refused.status().code(), Code::unsupported);
  EXPECT_EQ(refused.status().problems()[0].tensor, "s");
}

TEST(Import, RefusesOpsetsOutsideOfWhatIsKnown) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).node("Neg", {"x"}, {"y"}).output("y");
  const auto newer = build_model(graph.model(99));
  EXPECT_EQ(newer.status().code(), Code::unsupported);
  EXPECT_NE(newer.status().message().find("99"), std::string::npos);
  for (const std::int64_t opset : {6, 13, 21}) EXPECT_TRUE(build_model(graph.model(opset)).ok()) << opset;
  onnx::Model none = graph.model();
  none.opsets = {{"ai.onnx.ml", 3}};
  EXPECT_EQ(build_model(none).status().code(), Code::invalid_model);
  onnx::Model spelled = graph.model();
  spelled.opsets = {{"ai.onnx", 17}};
  spelled.graph.nodes[0].domain = "ai.onnx";
  EXPECT_TRUE(build_model(spelled).ok());
}

TEST(Import, ChecksOptions) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).node("Neg", {"x"}, {"y"}).output("y");
  Options options;
  options.slab_bytes = 100;
  EXPECT_EQ(build_model(graph.model(), options).status().code(), Code::invalid_argument);
  Options device;
  device.device = "tpu";
  EXPECT_EQ(build_model(graph.model(), device).status().code(), Code::unavailable);
  Options stop;
  stop.progress = [](const char*, std::uint64_t, std::uint64_t) { return false; };
  EXPECT_EQ(build_model(graph.model(), stop).status().code(), Code::cancelled);
}

}  // namespace
}  // namespace forebay::builder::test
