// Each pass on a small graph of its own; what it makes is checked by op lists and, where values change hands, by evaluating both forms.
#include "builder/passes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "builder/model_import.h"
#include "builder/model_maker.h"

namespace forebay::builder::test {
namespace {

// A typed graph with everything a pass needs.
class Fixture {
 public:
  explicit Fixture(const GraphMaker& maker, std::int64_t opset = 17) : pool_(1) {
    std::vector<Problem> unsupported;
    Result<Ir> imported = import_model(maker.model(opset), unsupported);
    EXPECT_TRUE(imported.ok() && unsupported.empty()) << imported.status().to_string();
    ir_ = std::make_unique<Ir>(std::move(imported).value());
    host_ = std::make_unique<HostValues>(*ir_, OpRegistry::builtin(), pool_);
    types_ = std::make_unique<TypeInference>(*ir_, OpRegistry::builtin(), *host_);
    types_->run();
    for (const auto* problems : {&types_->invalid, &types_->unsupported})
      for (const Problem& problem : *problems) ADD_FAILURE() << problem.message;
  }
  PassContext context() { return {*ir_, OpRegistry::builtin(), *host_, *types_}; }
  Ir& ir() { return *ir_; }
  std::vector<std::string> ops(std::uint32_t graph = 0) const {
    std::vector<std::string> names;
    for (const auto& node : ir_->graphs[graph].nodes) names.push_back(node->op);
    return names;
  }

 private:
  ThreadPool pool_;
  std::unique_ptr<Ir> ir_;
  std::unique_ptr<HostValues> host_;
  std::unique_ptr<TypeInference> types_;
};

using Ops = std::vector<std::string>;

TEST(DeadCode, RemovesWhatNothingReads) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).initializer("unused", floats({4}, 1));
  graph.node("Neg", {"x"}, {"y"}).node("Mul", {"x", "unused"}, {"d"}).node("Abs", {"d"}, {"e"}).output("y");
  Fixture fixture(graph);
  PassContext context = fixture.context();
  const auto removed = pass_dead_code(context);
  ASSERT_TRUE(removed.ok());
  EXPECT_EQ(*removed, 2u);
  EXPECT_EQ(fixture.ops(), Ops{"Neg"});
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok());
  EXPECT_TRUE(built->plan.weights.empty());
  EXPECT_TRUE(built->plan.sources.empty());
}

TEST(DeadCode, KeepsWhatBodiesRead) {
  GraphMaker then_branch, else_branch;
  then_branch.node("Abs", {"n"}, {"t"}).output("t");
  else_branch.node("Exp", {"x"}, {"e"}).output("e");
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).input("flag", DType::boolean, {}).node("Neg", {"x"}, {"n"});
  graph.node("If", {"flag"}, {"y"}).with_body("then_branch", then_branch).with_body("else_branch", else_branch).output("y");
  Fixture fixture(graph);
  PassContext context = fixture.context();
  EXPECT_EQ(*pass_dead_code(context), 0u);
}

TEST(Identity, RemovesCopiesButKeepsOutputNames) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"2", "3"});
  graph.node("Identity", {"x"}, {"a"}).node("Dropout", {"a"}, {"b", "mask"}).node("Cast", {"b"}, {"c"}).with("to", std::int64_t{1});
  graph.node("Neg", {"c"}, {"d"}).node("Identity", {"d"}, {"y"}).output("y", DType::f32);
  Fixture fixture(graph);
  PassContext context = fixture.context();
  const auto removed = pass_identity(context);
  ASSERT_TRUE(removed.ok());
  EXPECT_EQ(*removed, 3u);
  EXPECT_EQ(fixture.ops(), (Ops{"Neg", "Identity"}));
  EXPECT_EQ(fixture.ir().values[fixture.ir().graphs[0].outputs[0]].name, "y");
}

TEST(Identity, KeepsWhatMovesOrTrains) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"2", "3"});
  graph.node("Transpose", {"x"}, {"a"}).node("Transpose", {"a"}, {"b"}).with("perm", std::vector<std::int64_t>{0, 1});
  graph.node("Cast", {"b"}, {"c"}).with("to", std::int64_t{11}).node("Neg", {"c"}, {"y"}).output("y", DType::f64);
  Fixture fixture(graph);
  PassContext context = fixture.context();
  EXPECT_EQ(*pass_identity(context), 1u);
  EXPECT_EQ(fixture.ops(), (Ops{"Transpose", "Cast", "Neg"}));
}

GraphMaker choice(bool condition) {
  GraphMaker then_branch, else_branch;
  then_branch.constant("w", floats({4}, 5)).node("Mul", {"x", "w"}, {"t"}).output("t");
  else_branch.node("Exp", {"x"}, {"e"}).output("e");
  HostTensor truth(DType::boolean, Shape{});
  truth.data()[0] = std::byte{condition};
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).initializer("always", std::move(truth));
  graph.node("If", {"always"}, {"y"}).named("pick").with_body("then_branch", then_branch).with_body("else_branch", else_branch);
  graph.node("Neg", {"y"}, {"z"}).output("z");
  return graph;
}

TEST(Branch, TakesTheKnownSideAndRemembersWhy) {
  for (const bool condition : {true, false}) {
    Fixture fixture(choice(condition));
    PassContext context = fixture.context();
    EXPECT_EQ(*pass_branch(context), 1u);
    EXPECT_EQ(fixture.ops(), condition ? (Ops{"Mul", "Neg"}) : (Ops{"Exp", "Neg"}));
    const auto built = build_model(choice(condition).model());
    ASSERT_TRUE(built.ok()) << built.status().to_string();
    EXPECT_EQ(built->plan.graphs.size(), 1u);
    // A refit in which the condition differs must be refused.
    const auto& constants = built->plan.constants;
    ASSERT_EQ(constants.size(), 1u);
    EXPECT_EQ(constants[0].name, "always");
    EXPECT_TRUE(constants[0].kept);
    ASSERT_EQ(constants[0].sources.size(), 1u);
    EXPECT_TRUE(built->plan.sources[constants[0].sources[0]].has_sha256);
    EXPECT_EQ(weight_names(built->plan), condition ? std::vector<std::string>{"pick/then_branch/w"} : std::vector<std::string>{});
  }
}

TEST(Fold, MakesShapeArithmeticConstant) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"2", "3", "4"}).constant("zero", integers({0})).constant("rest", integers({-1}));
  graph.node("Shape", {"x"}, {"s"}).node("Gather", {"s", "zero"}, {"n"}).with("axis", std::int64_t{0});
  graph.node("Concat", {"n", "rest"}, {"target"}).with("axis", std::int64_t{0});
  graph.node("Reshape", {"x", "target"}, {"y"}).output("y", DType::f32);
  Fixture fixture(graph);
  PassContext context = fixture.context();
  EXPECT_GE(*pass_fold(context), 1u);
  ASSERT_TRUE(pass_dead_code(context).ok());
  EXPECT_EQ(fixture.ops(), Ops{"Reshape"});
  const IrValue& target = fixture.ir().values[fixture.ir().graphs[0].nodes[0]->inputs[1]];
  ASSERT_EQ(target.origin, Origin::constant);
  EXPECT_EQ(target.known->as<std::int64_t>()[0], 2);
  EXPECT_EQ(target.known->as<std::int64_t>()[1], -1);
  EXPECT_EQ(target.known_sources.size(), 2u);
  const TypeShape& y = fixture.ir().values[fixture.ir().graphs[0].outputs[0]].type;
  EXPECT_EQ(y.dims, (std::vector<std::int64_t>{2, 12}));
}

TEST(Fold, LeavesWeightsAlone) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"})
      .constant("w", floats({4}, 1))
      .constant("half", list({0.5f}, true))
      .constant("two", list({2.0f}, true));
  graph.node("Mul", {"half", "two"}, {"one"}).node("Mul", {"x", "one"}, {"a"}).node("Mul", {"a", "w"}, {"y"}).output("y");
  Fixture fixture(graph);
  PassContext context = fixture.context();
  ASSERT_TRUE(pass_fold(context).ok());
  ASSERT_TRUE(pass_dead_code(context).ok());
  EXPECT_EQ(fixture.ops(), (Ops{"Mul", "Mul"}));
  const auto& nodes = fixture.ir().graphs[0].nodes;
  EXPECT_EQ(fixture.ir().values[nodes[0]->inputs[1]].origin, Origin::constant);
  EXPECT_EQ(fixture.ir().values[nodes[1]->inputs[1]].origin, Origin::source);
}

TEST(Common, JoinsEqualNodes) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"2", "3"});
  graph.node("Transpose", {"x"}, {"a"})
      .node("Transpose", {"x"}, {"b"})
      .node("Transpose", {"x"}, {"c"})
      .with("perm", std::vector<std::int64_t>{0, 1});
  graph.node("Add", {"a", "b"}, {"d"}).node("Neg", {"c"}, {"e"}).output("d").output("e");
  Fixture fixture(graph);
  PassContext context = fixture.context();
  EXPECT_EQ(*pass_common(context), 1u);
  EXPECT_EQ(fixture.ops(), (Ops{"Transpose", "Transpose", "Add", "Neg"}));
}

TEST(Cut, MovesInputsAndOutputs) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "4"}).node("NoSuchOp", {"x"}, {"a"}).node("Neg", {"x"}, {"b"});
  graph.node("Exp", {"b"}, {"c"}).node("Abs", {"c"}, {"d"}).output("d").output("a");
  Options options;
  options.inputs = {"b"};
  options.outputs = {"d", "c"};
  const auto built = build_model(graph.model(), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(ops_of(built->plan.graphs[0]), (Ops{"Exp", "Abs"}));
  const plan::Value& input = built->plan.values[built->plan.graphs[0].inputs[0]];
  EXPECT_EQ(input.name, "b");
  EXPECT_EQ(input.dtype, DType::f32);
  EXPECT_EQ(input.dims[1].size, 4);
  EXPECT_EQ(built->plan.values[built->plan.graphs[0].outputs[1]].name, "c");
}

TEST(Cut, NamesWhatIsWrong) {
  GraphMaker graph;
  graph.input("left", DType::f32, {"4"}).input("right", DType::f32, {"4"}).node("Add", {"left", "right"}, {"total"}).output("total");
  Options typo;
  typo.outputs = {"totl"};
  const auto refused = build_model(graph.model(), typo);
  ASSERT_EQ(refused.status().code(), Code::invalid_argument);
  EXPECT_NE(refused.status().problems()[0].hint.find("total"), std::string::npos);
  Options missing;
  missing.inputs = {"left"};
  const auto needed = build_model(graph.model(), missing);
  ASSERT_EQ(needed.status().code(), Code::invalid_argument);
  EXPECT_NE(needed.status().message().find("right"), std::string::npos);
}

GraphMaker conv_bn(bool with_bias, bool transposed) {
  GraphMaker graph;
  const Dims w = transposed ? Dims{3, 5, 3, 3} : Dims{5, 3, 3, 3};
  graph.input("x", DType::f32, {"1", "3", "7", "7"}).initializer("w", floats(w, 1));
  graph.constant("scale", floats({5}, 2))
      .constant("bias", floats({5}, 3))
      .constant("mean", floats({5}, 4))
      .constant("var", floats({5}, 5, 0.1f, 2.0f));
  std::vector<std::string> inputs{"x", "w"};
  if (with_bias) {
    graph.constant("b", floats({5}, 6));
    inputs.push_back("b");
  }
  graph.node(transposed ? "ConvTranspose" : "Conv", inputs, {"c"}).named("conv");
  graph.node("BatchNormalization", {"c", "scale", "bias", "mean", "var"}, {"y"}).named("bn").with("epsilon", 1e-3f).output("y", DType::f32);
  return graph;
}

TEST(ConvBatchNorm, FoldsIntoARecipeThatEqualsTheFormula) {
  for (const bool with_bias : {false, true}) {
    for (const bool transposed : {false, true}) {
      const auto built = build_model(conv_bn(with_bias, transposed).model());
      ASSERT_TRUE(built.ok()) << built.status().to_string();
      const plan::Plan& plan = built->plan;
      EXPECT_EQ(ops_of(plan.graphs[0]), Ops{transposed ? "ConvTranspose" : "Conv"});
      EXPECT_EQ(plan.graphs[0].nodes[0].fused_from, (Ops{"conv", "bn"}));
      ASSERT_EQ(plan.weights.size(), 2u);
      const auto weight = run_recipe(*built, plan.weights[0]), bias = run_recipe(*built, plan.weights[1]);
      ASSERT_TRUE(weight.ok() && bias.ok()) << weight.status().to_string();
      const HostTensor w = floats(transposed ? Dims{3, 5, 3, 3} : Dims{5, 3, 3, 3}, 1), scale = floats({5}, 2), shift = floats({5}, 3);
      const HostTensor mean = floats({5}, 4), var = floats({5}, 5, 0.1f, 2.0f), b = floats({5}, 6);
      ASSERT_EQ(weight->shape(), w.shape());
      for (std::size_t i = 0; i < w.as<float>().size(); ++i) {
        const std::size_t channel = transposed ? i / 9 % 5 : i / 27;
        const float factor = scale.as<float>()[channel] / std::sqrt(var.as<float>()[channel] + 1e-3f);
        EXPECT_EQ(weight->as<float>()[i], w.as<float>()[i] * factor);
      }
      for (std::size_t c = 0; c < 5; ++c) {
        const float factor = scale.as<float>()[c] / std::sqrt(var.as<float>()[c] + 1e-3f);
        const float centred = with_bias ? b.as<float>()[c] - mean.as<float>()[c] : -mean.as<float>()[c];
        EXPECT_EQ(bias->as<float>()[c], centred * factor + shift.as<float>()[c]);
      }
      Options plain;
      plain.fuse = false;
      const auto unfused = build_model(conv_bn(with_bias, transposed).model(), plain);
      ASSERT_TRUE(unfused.ok()) << unfused.status().to_string();
      EXPECT_EQ(unfused->plan.graphs[0].nodes.size(), 2u);
    }
  }
}

TEST(ConvBatchNorm, LeavesConvsWithOtherReaders) {
  GraphMaker graph = conv_bn(false, false);
  graph.node("Relu", {"c"}, {"z"}).output("z");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(built->plan.graphs[0].nodes.size(), 3u);
}

// Both forms of a small network, evaluated node by node on the host.
std::vector<float> evaluate(const GraphMaker& maker, const Options& options, const HostTensor& x) {
  const auto built = build_model(maker.model(), options);
  EXPECT_TRUE(built.ok()) << built.status().to_string();
  const plan::Plan& plan = built->plan;
  ThreadPool pool(1);
  std::map<plan::ValueId, HostTensor> values;
  values[plan.graphs[0].inputs[0]] = x.clone();
  for (const plan::Weight& weight : plan.weights) {
    auto made = run_recipe(*built, weight);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    values[weight.value] = std::move(made).value();
  }
  for (const plan::Constant& constant : plan.constants) {
    HostTensor tensor(constant.dtype, constant.shape);
    std::copy(constant.data.begin(), constant.data.end(), tensor.data());
    if (constant.value != kNone) values[constant.value] = std::move(tensor);
  }
  for (const plan::Node& node : plan.graphs[0].nodes) {
    std::vector<const HostTensor*> inputs;
    for (const plan::ValueId id : node.inputs) inputs.push_back(id == kNone ? nullptr : &values[id]);
    auto made = evaluate_node(NodeView(node, plan), inputs, pool);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    for (std::size_t i = 0; i < node.outputs.size(); ++i) values[node.outputs[i]] = std::move((*made)[i]);
  }
  const auto result = values[plan.graphs[0].outputs[0]].as<float>();
  return {result.begin(), result.end()};
}

TEST(ConvAffine, FoldsNumbersAndChannelsInAnyOrder) {
  for (const bool transposed : {false, true}) {
    for (const bool with_bias : {false, true}) {
      GraphMaker graph;
      graph.input("x", DType::f32, {"1", "3", "7", "7"}).initializer("w", floats(transposed ? Dims{3, 5, 3, 3} : Dims{5, 3, 3, 3}, 1));
      graph.initializer("b", floats({5}, 2))
          .constant("s", list({0.75f}))
          .constant("t", list({-0.25f}, true))
          .constant("c", floats({1, 5, 1, 1}, 3));
      graph.constant("d", floats({5, 1, 1}, 4, 0.5f, 2.0f)).constant("u", list({0.125f}));
      graph.node(transposed ? "ConvTranspose" : "Conv",
                 with_bias ? std::vector<std::string>{"x", "w", "b"} : std::vector<std::string>{"x", "w"}, {"v0"});
      graph.node("Sub", {"v0", "t"}, {"v1"})
          .node("Mul", {"s", "v1"}, {"v2"})
          .node("Add", {"v2", "c"}, {"v3"})
          .node("Div", {"v3", "d"}, {"v4"});
      graph.node("Add", {"u", "v4"}, {"y"}).output("y", DType::f32);
      Options plain;
      plain.fuse = false;
      const HostTensor x = floats({1, 3, 7, 7}, 9);
      const std::vector<float> fused = evaluate(graph, {}, x), unfused = evaluate(graph, plain, x);
      ASSERT_EQ(fused.size(), unfused.size());
      for (std::size_t i = 0; i < fused.size(); ++i) EXPECT_NEAR(fused[i], unfused[i], 2e-5f) << i;
      const auto built = build_model(graph.model());
      EXPECT_EQ(built->plan.graphs[0].nodes.size(), 1u);
      EXPECT_EQ(built->plan.graphs[0].nodes[0].fused_from.size(), 6u);
    }
  }
}

TEST(ConvAffine, LeavesWhatWidensOrIsReadTwice) {
  GraphMaker wide;
  wide.input("x", DType::f32, {"1", "3", "7", "7"}).initializer("w", floats({5, 3, 3, 3}, 1)).constant("c", floats({2, 5, 1, 1}, 3));
  wide.node("Conv", {"x", "w"}, {"v"}).node("Add", {"v", "c"}, {"y"}).output("y", DType::f32);
  EXPECT_EQ(ops_of(build_model(wide.model())->plan.graphs[0]), (Ops{"Conv", "Add"}));
  GraphMaker spatial;
  spatial.input("x", DType::f32, {"1", "3", "7", "7"}).initializer("w", floats({5, 3, 3, 3}, 1)).constant("c", floats({5}, 3));
  spatial.node("Conv", {"x", "w"}, {"v"}).node("Add", {"v", "c"}, {"y"}).output("y", DType::f32);  // five columns, not five channels
  EXPECT_EQ(ops_of(build_model(spatial.model())->plan.graphs[0]), (Ops{"Conv", "Add"}));
  GraphMaker twice;
  twice.input("x", DType::f32, {"1", "3", "7", "7"}).initializer("w", floats({5, 3, 3, 3}, 1)).constant("c", list({2.0f}));
  twice.node("Conv", {"x", "w"}, {"v"}).node("Add", {"v", "c"}, {"y"}).node("Neg", {"v"}, {"z"}).output("y", DType::f32).output("z");
  EXPECT_EQ(ops_of(build_model(twice.model())->plan.graphs[0]), (Ops{"Conv", "Add", "Neg"}));
}

TEST(HardSwish, ReplacesTheWrittenOutForm) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"2", "8"})
      .constant("three", list({3.0f}))
      .constant("zero", list({0.0f}, true))
      .constant("six", list({6.0f}, true));
  graph.constant("by", list({6.0f}, true))
      .node("Add", {"x", "three"}, {"a"})
      .node("Clip", {"a", "zero", "six"}, {"b"})
      .node("Mul", {"x", "b"}, {"c"});
  graph.node("Div", {"c", "by"}, {"y"}).output("y", DType::f32);
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(ops_of(built->plan.graphs[0]), Ops{"HardSwish"});
  std::size_t kept = 0;  // the numbers decided the form: other ones in a refit must be refused
  for (const plan::Constant& constant : built->plan.constants) kept += constant.kept ? 1 : 0;
  EXPECT_EQ(kept, 4u);
  Options plain;
  plain.fuse = false;
  const HostTensor x = floats({2, 8}, 9, -5.0f, 5.0f);
  const std::vector<float> fused = evaluate(graph, {}, x), unfused = evaluate(graph, plain, x);
  for (std::size_t i = 0; i < fused.size(); ++i) EXPECT_NEAR(fused[i], unfused[i], 1e-5f);
}

TEST(Linear, ReadsTransposedWeightsAsTheyLie) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "T", "8"}).initializer("w", floats({16, 8}, 1));
  graph.node("Transpose", {"w"}, {"wt"})
      .with("perm", std::vector<std::int64_t>{1, 0})
      .node("MatMul", {"x", "wt"}, {"y"})
      .output("y", DType::f32);
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Weight* weight = find_weight(built->plan, "w");
  ASSERT_NE(weight, nullptr);
  EXPECT_TRUE(weight->recipe.identity());
  EXPECT_EQ(weight->consumption, plan::Consumption::by_output);
  EXPECT_EQ(built->plan.graphs[0].nodes.size(), 1u);

  Options plain;
  plain.fuse = false;
  const auto unfused = build_model(graph.model(), plain);
  ASSERT_TRUE(unfused.ok()) << unfused.status().to_string();
  ASSERT_EQ(unfused->plan.weights.size(), 1u);
  EXPECT_EQ(unfused->plan.weights[0].recipe.describe(), "Transpose");
  EXPECT_EQ(unfused->plan.weights[0].consumption, plan::Consumption::by_reduction);
}

TEST(Linear, ServesATiedTableByOneWeight) {
  GraphMaker graph;
  graph.input("ids", DType::i64, {"N"}).initializer("table", floats({512, 64}, 1));
  graph.node("Gather", {"table", "ids"}, {"h"})
      .node("Transpose", {"table"}, {"t"})
      .node("MatMul", {"h", "t"}, {"y"})
      .output("y", DType::f32);
  Options options;
  options.slab_bytes = 16 << 10;
  const auto built = build_model(graph.model(), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  ASSERT_EQ(built->plan.weights.size(), 1u);
  const plan::Weight& table = built->plan.weights[0];
  EXPECT_EQ(table.consumption, plan::Consumption::by_output);
  EXPECT_FALSE(table.gather_only);
  EXPECT_EQ(table.use_count, 2u);
  EXPECT_EQ(table.part_count, 8u);
}

}  // namespace
}  // namespace forebay::builder::test
