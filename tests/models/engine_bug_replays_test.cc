// Graphs in the shapes that made inference engines give wrong answers: each against kept results of ONNX Runtime (unoptimised), with and
// without fusions, fully resident and at the least budget. replays/export_replays.py writes the fixtures; what needs several passes is here.
#include <gtest/gtest.h>

#include "models/fixture_reader.h"
#include "support/onnx_maker.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

using test::OnnxMaker;
using test::TempFolder;

Result<Plan> plan_of(const std::string& model, const std::string& path, bool fuse) {
  BuildOptions options;
  options.strip = true;
  options.fuse = fuse;
  auto built = build(model, path, options);
  if (!built.ok()) return std::move(built).status();
  return Plan::load(path);
}

Result<Engine> engine_of(const Plan& plan, const std::string& model, const Budget& budget) {
  EngineOptions options;
  options.threads = 2;
  options.budget = budget;
  WeightSources sources;
  sources.paths = {model};
  return Engine::create(plan, sources, options);
}

class Replay : public testing::TestWithParam<std::string> {};

TEST_P(Replay, GivesTheRightAnswer) {
  for (const bool fuse : {true, false}) {
    SCOPED_TRACE(fuse ? "fused" : "not fused");
    TempFolder folder;
    const test::Fixture fixture = test::unpack_fixture("replays", GetParam(), folder.path());
    ASSERT_FALSE(fixture.model.empty());
    ASSERT_VALUE(const Plan plan, plan_of(fixture.model, folder / "model.plan", fuse));
    ASSERT_VALUE(Engine resident, engine_of(plan, fixture.model, Budget::unlimited()));
    ASSERT_VALUE(const test::Pass want, test::run_passes(resident, fixture.inputs, plan.inputs(), 2));
    ASSERT_EQ(plan.outputs().size(), fixture.outputs.size());
    std::vector<std::pair<std::string, Shape>> shapes;
    for (const test::Named& input : fixture.inputs) shapes.emplace_back(input.name, input.tensor.shape());
    for (std::size_t o = 0; o < want.outputs.size(); ++o) {
      ASSERT_EQ(plan.outputs()[o].name, fixture.outputs[o].name);
      ASSERT_EQ(want.outputs[o].dtype(), fixture.outputs[o].tensor.dtype());
      test::expect_close(want.outputs[o], fixture.outputs[o].tensor, {0, 0, fixture.tolerance}, fixture.outputs[o].name);
    }
    ASSERT_VALUE(const Engine::Sizes sizes, resident.sizes_for_shapes(shapes));
    ASSERT_VALUE(Engine least, engine_of(plan, fixture.model, Budget::of_bytes(sizes.min_budget)));
    ASSERT_VALUE(const test::Pass pass, test::run_passes(least, fixture.inputs, plan.inputs(), 2));
    EXPECT_TRUE(test::same_bits(pass.outputs, want.outputs)) << "other bits at the least budget";
  }
}

INSTANTIATE_TEST_SUITE_P(EngineBugs, Replay, testing::ValuesIn(test::fixture_names("replays")), [](const auto& c) { return c.param; });

TEST(EngineBugs, AllReplaysAreThere) { EXPECT_GE(test::fixture_names("replays").size(), 50u); }

HostTensor ramp(const Shape& shape, float step) {
  HostTensor tensor(DType::f32, shape);
  float value = -1;
  for (float& v : tensor.as<float>()) {
    v = value;
    value = value > 1 ? -1 : value + step;
  }
  return tensor;
}

// Workspaces sized for the first length, then used for a longer one.
TEST(EngineBugs, RecurrentWorkspaceGrowsWithTheSequence) {
  TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"time", 2, 4});
  graph.output("y", DType::f32, {"time", 1, 2, 8});
  graph.initializer("w", ramp({1, 32, 4}, 0.07f));
  graph.initializer("r", ramp({1, 32, 8}, 0.03f));
  graph.node("LSTM", {"x", "w", "r"}, {"y"}).set("hidden_size", 8);
  maker.write(folder / "model.onnx");
  ASSERT_VALUE(const Plan plan, plan_of(folder / "model.onnx", folder / "model.plan", true));
  ASSERT_VALUE(Engine engine, engine_of(plan, folder / "model.onnx", Budget::unlimited()));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  const HostTensor all = ramp({50, 2, 4}, 0.11f);
  ASSERT_OK(context.set_input("x", all));
  ASSERT_OK(context.execute());
  ASSERT_VALUE(const HostTensor longest, context.output("y"));
  for (const std::int64_t length : {3, 49, 1, 20, 50}) {
    SCOPED_TRACE(length);
    HostTensor part(DType::f32, Shape{length, 2, 4});
    std::memcpy(part.data(), all.data(), part.bytes());
    ASSERT_OK(context.set_input("x", part));
    ASSERT_OK(context.execute());
    ASSERT_VALUE(const HostTensor y, context.output("y"));
    ASSERT_EQ(y.shape().to_string(), (Shape{length, 1, 2, 8}).to_string());
    HostTensor prefix(DType::f32, y.shape());
    std::memcpy(prefix.data(), longest.data(), prefix.bytes());
    test::expect_close(y, prefix, {0, 0, 1e-5}, "states of a prefix of the sequence");
  }
}

// Two names for dimensions that an operator makes equal: equal values run, unequal ones are refused by name, and the context lives on.
TEST(EngineBugs, OneDimensionUnderTwoNames) {
  TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", 4});
  graph.input("y", DType::f32, {"m", 4});
  graph.output("sum", DType::f32, {"k", 4});
  graph.node("Add", {"x", "y"}, {"s"});
  graph.node("Concat", {"s", "x"}, {"wide"}).set("axis", 1);
  graph.node("Concat", {"y", "s"}, {"wide2"}).set("axis", 1);
  graph.node("Sub", {"wide", "wide2"}, {"d"});
  graph.node("Split", {"d"}, {"left", "right"}).set("axis", 1);
  graph.node("Add", {"left", "right"}, {"sum"});
  maker.write(folder / "model.onnx");
  ASSERT_VALUE(const Plan plan, plan_of(folder / "model.onnx", folder / "model.plan", true));
  ASSERT_VALUE(Engine engine, engine_of(plan, folder / "model.onnx", Budget::unlimited()));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  for (const std::int64_t rows : {3, 5, 2}) {
    ASSERT_OK(context.set_input("x", ramp({rows, 4}, 0.25f)));
    ASSERT_OK(context.set_input("y", ramp({rows, 4}, 0.5f)));
    ASSERT_OK(context.execute());
    ASSERT_VALUE(const HostTensor sum, context.output("sum"));
    const HostTensor x = ramp({rows, 4}, 0.25f), y = ramp({rows, 4}, 0.5f);
    for (std::size_t i = 0; i < sum.as<float>().size(); ++i) {  // (x + y - y) + (x - (x + y)) in exact quarters
      EXPECT_EQ(sum.as<float>()[i], x.as<float>()[i] - y.as<float>()[i]) << i;
    }
    Status refused = context.set_input("y", ramp({rows + 1, 4}, 0.5f));
    if (refused.ok()) refused = context.execute();
    EXPECT_CODE(refused, Code::invalid_argument);
    EXPECT_NE(refused.to_string().find("y [" + std::to_string(rows + 1) + ",4]"), std::string::npos) << refused.to_string();
  }
}

// State bound from pass to pass, and a Loop inside each pass that reads it.
TEST(EngineBugs, LoopReadsStateThatPassesCarry) {
  TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("state", DType::f32, {4});
  graph.input("trips", DType::i64, {});
  graph.output("next", DType::f32, {4});
  HostTensor truth(DType::boolean, Shape{});
  truth.data()[0] = std::byte{1};
  graph.initializer("go", truth);
  auto loop = graph.node("Loop", {"trips", "go", "state"}, {"next"});
  auto body = loop.body("body");
  body.input("i", DType::i64, {});
  body.input("c", DType::boolean, {});
  body.input("v", DType::f32, {4});
  body.node("Identity", {"c"}, {"c2"});
  body.node("Add", {"v", "state"}, {"v2"});
  body.output("c2", DType::boolean, {});
  body.output("v2", DType::f32, {4});
  maker.write(folder / "model.onnx");
  ASSERT_VALUE(const Plan plan, plan_of(folder / "model.onnx", folder / "model.plan", true));
  ASSERT_VALUE(Engine engine, engine_of(plan, folder / "model.onnx", Budget::unlimited()));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_OK(context.bind_state("next", "state"));
  ASSERT_OK(context.set_input("state", ramp({4}, 0.5f)));
  double factor = 1;
  for (const std::int64_t trips : {2, 0, 1, 3}) {
    HostTensor count(DType::i64, Shape{});
    count.as<std::int64_t>()[0] = trips;
    ASSERT_OK(context.set_input("trips", count));
    ASSERT_OK(context.execute());
    factor *= static_cast<double>(1 + trips);
    ASSERT_VALUE(const HostTensor next, context.output("next"));
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(next.as<float>()[i], static_cast<float>(factor) * ramp({4}, 0.5f).as<float>()[i]);
  }
}

// Every unsupported node is named in one run, not the first only.
TEST(Unsupported, ThirtyNodesOfFiveKindsAreReportedAtOnce) {
  TempFolder folder;
  OnnxMaker maker;
  maker.import("ai.onnx.ml", 3);
  maker.import("com.example", 1);
  auto graph = maker.graph();
  graph.input("x", DType::f32, {2, 4});
  graph.output("y", DType::f32, {2, 4});
  const std::vector<std::pair<std::string, std::string>> kinds = {
      {"StringNormalizer", ""}, {"SequenceLength", ""}, {"Normalizer", "ai.onnx.ml"}, {"Frobnicate", "com.example"}, {"SoftmaxCrossEntropyLoss", ""}};
  std::string value = "x";
  for (int i = 0; i < 30; ++i) {
    const auto& [op, domain] = kinds[static_cast<std::size_t>(i) % kinds.size()];
    const std::string next = "v" + std::to_string(i);
    graph.node(op, {value}, {next}, domain).name("bad_" + std::to_string(i));
    graph.node("Relu", {"x"}, {"r" + std::to_string(i)});
    value = next;
  }
  graph.node("Add", {value, "x"}, {"y"});
  maker.write(folder / "model.onnx");
  ASSERT_VALUE(const std::vector<Problem> problems, check_model(folder / "model.onnx"));
  const auto built = build(folder / "model.onnx", folder / "model.plan", {});
  EXPECT_CODE(built, Code::unsupported);
  for (const auto* list : {&problems, &built.status().problems()}) {
    std::vector<std::string> nodes, ops;
    for (const Problem& problem : *list) {
      EXPECT_FALSE(problem.message.empty());
      nodes.push_back(problem.node);
      ops.push_back(problem.op);
    }
    EXPECT_EQ(list->size(), 30u);
    for (int i = 0; i < 30; ++i) EXPECT_EQ(std::count(nodes.begin(), nodes.end(), "bad_" + std::to_string(i)), 1) << i;
    for (const auto& [op, domain] : kinds) EXPECT_EQ(std::count(ops.begin(), ops.end(), domain.empty() ? op : domain + "." + op), 6) << op;
  }
}

}  // namespace
}  // namespace forebay
