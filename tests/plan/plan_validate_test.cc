// What validate_plan refuses, one rule a line, and that the message says what is wrong.
#include <gtest/gtest.h>

#include <functional>

#include "plan/plan_io.h"
#include "plan/sample_plan.h"

namespace forebay::test {
namespace {

using plan::Plan;

struct Case {
  const char* name;
  const char* text;  // of the message
  std::function<void(Plan&)> damage;
};

void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

class Refuses : public testing::TestWithParam<Case> {};

TEST_P(Refuses, WithAReason) {
  Plan plan = sample_plan();
  ASSERT_TRUE(plan::validate_plan(plan).ok()) << plan::validate_plan(plan).to_string();
  GetParam().damage(plan);
  const Status status = plan::validate_plan(plan);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.code(), Code::invalid_model);
  EXPECT_NE(status.message().find(GetParam().text), std::string::npos) << status.to_string();
  EXPECT_FALSE(plan::serialize_plan(plan, {}).ok());
}

plan::Node copy_of(const Plan& plan, std::size_t node, const char* name) {
  plan::Node copy = plan.graphs[0].nodes[node];
  copy.name = name;
  return copy;
}

const Case kGraphCases[] = {
    {"NoGraph", "no graph",
     [](Plan& p) {
       p.graphs.clear();
       p.kernels.clear();
     }},
    {"ValueOutOfRange", "which is not there", [](Plan& p) { p.graphs[0].nodes[0].inputs[1] = 9999; }},
    {"OutputOutOfRange", "which is not there", [](Plan& p) { p.graphs[0].nodes[0].outputs[0] = 9999; }},
    {"UseBeforeDefinition", "before it is defined",
     [](Plan& p) {
       std::swap(p.graphs[0].nodes[1], p.graphs[0].nodes[3]);
       p.kernels.clear();
     }},
    {"DefinedTwice", "a second time", [](Plan& p) { p.graphs[0].nodes.push_back(copy_of(p, 0, "again")); }},
    {"WritesWeight", "a weight or constant", [](Plan& p) { p.graphs[0].nodes[0].outputs[0] = p.weights[0].value; }},
    {"WritesInput", "a second time", [](Plan& p) { p.graphs[0].nodes[0].outputs[0] = p.graphs[0].inputs[0]; }},
    {"BodyValueFromOutside", "outside of its graph", [](Plan& p) { p.graphs[0].outputs[0] = p.graphs[1].outputs[0]; }},
    {"InputOfAnotherKind", "which is no input", [](Plan& p) { p.values[p.graphs[0].inputs[0]].kind = plan::ValueKind::intermediate; }},
    {"BodyTwice", "used as a body twice", [](Plan& p) { p.graphs[0].nodes[4].attributes[1].value = plan::BodyRef{1}; }},
    {"BodyIsMain", "names graph 0", [](Plan& p) { p.graphs[0].nodes[4].attributes[1].value = plan::BodyRef{0}; }},
    {"BodyMissing", "names graph 3", [](Plan& p) { p.graphs[0].nodes[4].attributes[1].value = plan::BodyRef{3}; }},
    {"BodyOfNoNode", "the body of no node", [](Plan& p) { p.graphs.push_back({}); }},
    {"NodeNameTwice", "another node has the same name", [](Plan& p) { p.graphs[1].nodes[0].name = "gather"; }},
    {"NodeNameEmpty", "no name", [](Plan& p) { p.graphs[0].nodes[0].name.clear(); }},
    {"NodeNameLong", "above 64 KiB", [](Plan& p) { p.graphs[0].nodes[0].name.assign(65537, 'n'); }},
    {"NoOperator", "no operator", [](Plan& p) { p.graphs[0].nodes[0].op.clear(); }},
    {"NegativeVersion", "version -1", [](Plan& p) { p.graphs[0].nodes[0].version = -1; }},
    {"AttributeTwice", "is there twice", [](Plan& p) { p.graphs[0].nodes[4].attributes[1].name = "then_branch"; }},
    {"AttributeWithoutName", "without a name", [](Plan& p) { p.graphs[0].nodes[0].attributes[0].name.clear(); }},
    {"TensorMissing", "names constant 8", [](Plan& p) { p.graphs[0].nodes[1].attributes[7].value = plan::TensorRef{8}; }},
    {"ValueDType", "unknown element type", [](Plan& p) { p.values[0].dtype = static_cast<DType>(200); }},
    {"ValueKind", "unknown kind", [](Plan& p) { p.values[p.graphs[0].nodes[0].outputs[0]].kind = static_cast<plan::ValueKind>(9); }},
    {"ValueDims", "dimensions and no rank", [](Plan& p) { p.values[0].has_rank = false; }},
    {"ValueRank", "has rank 9", [](Plan& p) { p.values[0].dims.resize(9); }},
    {"ValueDim", "dimension of -2", [](Plan& p) { p.values[0].dims[0].size = -2; }},
    {"ValueIndex", "neither weight nor constant", [](Plan& p) { p.values[0].index = 0; }},
    {"ForeignWeight", "differ", [](Plan& p) { p.values[p.weights[0].value].index = 1; }},
    {"ForeignConstant", "not fit", [](Plan& p) { p.values[p.constants[0].value].index = 1; }},
    {"InputNameTwice", "another has the same",
     [](Plan& p) { p.values[p.graphs[0].inputs[0]].name = p.values[p.graphs[0].inputs[1]].name; }},
    {"StateUnknown", "state pair", [](Plan& p) { p.state_pairs[0].output = p.state_pairs[0].input; }},
    {"StateTwice", "another pair", [](Plan& p) { p.state_pairs.push_back(p.state_pairs[0]); }},
    {"StateDType", "element types differ", [](Plan& p) { p.values[p.state_pairs[0].output].dtype = DType::f16; }},
    {"RangeOrder", "not in order", [](Plan& p) { p.dim_ranges[0].min = 5; }},
    {"RangeTwice", "there twice", [](Plan& p) { p.dim_ranges.push_back(p.dim_ranges[0]); }},
};

const Case kWeightCases[] = {
    {"RefitMode", "refit mode", [](Plan& p) { p.refit = static_cast<plan::RefitMode>(3); }},
    {"WeightNameTwice", "is there twice", [](Plan& p) { p.weights[1].name = p.weights[0].name; }},
    {"WeightNameEmpty", "without a name", [](Plan& p) { p.weights[1].name.clear(); }},
    {"WeightBytes", "its shape wants", [](Plan& p) { p.weights[0].bytes += 4; }},
    {"WeightShapeWraps", "has no size",
     [](Plan& p) {
       p.weights[0].shape = Shape{std::int64_t{1} << 40, std::int64_t{1} << 40};
     }},
    {"WeightNegative", "has no size",
     [](Plan& p) {
       p.weights[0].shape = Shape{-1, 4};
     }},
    {"WeightNoType", "no element type", [](Plan& p) { p.weights[0].dtype = DType::none; }},
    {"WeightConsumption", "consumption", [](Plan& p) { p.weights[0].consumption = static_cast<plan::Consumption>(9); }},
    {"WeightNoValue", "has no value", [](Plan& p) { p.weights[0].value = plan::kNone; }},
    {"WeightValueDType", "differ", [](Plan& p) { p.values[p.weights[0].value].dtype = DType::f16; }},
    {"WeightValueDims", "differ", [](Plan& p) { p.values[p.weights[0].value].dims[0].size = 5; }},
    {"QuantRange", "names weight 77", [](Plan& p) { p.weights[0].quant_scales = 77; }},
    {"QuantBlock", "out of range", [](Plan& p) { p.weights[0].quant_block = -1; }},
    {"RecipeSource", "names source 99", [](Plan& p) { p.weights[0].recipe.sources[0] = 99; }},
    {"RecipeIdentityTwo", "has one source", [](Plan& p) { p.weights[0].recipe.sources.push_back(0); }},
    {"RecipeIdentityType", "the recipe is identity", [](Plan& p) { p.sources[0].dtype = DType::i32; }},
    {"RecipeSlot", "not there yet", [](Plan& p) { p.weights[2].recipe.nodes[0].inputs[1] = 2; }},
    {"RecipeConstant", "constant 2", [](Plan& p) { p.weights[2].recipe.nodes[1].inputs[2] = plan::kConstantSlot + 2; }},
    {"RecipeOutputs", "has 0 outputs", [](Plan& p) { p.weights[2].recipe.nodes[1].output_count = 0; }},
    {"RecipeBody", "recipes have none", [](Plan& p) { p.weights[2].recipe.nodes[1].attributes[0].value = plan::BodyRef{1}; }},
    {"RecipeNoOp", "no operator", [](Plan& p) { p.weights[2].recipe.nodes[1].op.clear(); }},
    {"SourceTwice", "is there twice", [](Plan& p) { p.sources[1].name = p.sources[0].name; }},
    {"SourceShape", "has no size", [](Plan& p) { p.sources[6].shape = Shape{-3}; }},
    {"IdenticalNeedsDigests", "refit-identical", [](Plan& p) { p.refit = plan::RefitMode::identical; }},
    {"ConstantSize", "its shape wants", [](Plan& p) { p.constants[0].data.pop_back(); }},
    {"ConstantSource", "names source", [](Plan& p) { p.constants[0].sources[0] = 1000; }},
    {"ConstantSourceDigest", "no SHA-256", [](Plan& p) { p.constants[0].sources[0] = 0; }},
    {"PartGap", "leaves a gap", [](Plan& p) { p.parts[1].row_begin = 70; }},
    {"PartOverlap", "overlaps the one before", [](Plan& p) { p.parts[1].row_begin = 60; }},
    {"PartRows", "rows", [](Plan& p) { p.parts[1].row_count = 31; }},
    {"PartBytes", "its rows are", [](Plan& p) { p.parts[0].bytes -= 4; }},
    {"PartWeight", "another weight", [](Plan& p) { p.parts[0].weight = 1; }},
    {"PartChunk", "names chunk", [](Plan& p) { p.parts[0].chunk = 1000; }},
    {"PartBeyondChunk", "of a chunk of", [](Plan& p) { p.chunks[0].raw_bytes -= 64; }},
    {"PartAlignment", "lies at 32", [](Plan& p) { p.parts[5].offset_in_chunk = 32; }},
    {"PartsOverlapInChunk", "overlap", [](Plan& p) { p.parts[5].offset_in_chunk = 0; }},
    {"PartsMissing", "names slabs", [](Plan& p) { p.weights[1].first_part = 0; }},
    {"PartsBelongToNone", "belong to no weight",
     [](Plan& p) {
       p.parts.push_back(p.parts[0]);
       p.chunk_parts.push_back(0);
     }},
    {"ChunkPartTwice", "names slab", [](Plan& p) { p.chunk_parts[1] = p.chunk_parts[0]; }},
    {"ChunkEmpty", "not its own",
     [](Plan& p) {
       p.chunks.push_back({static_cast<std::uint32_t>(p.chunk_parts.size()), 0, 0});
     }},
    {"ChunkHuge", "bytes", [](Plan& p) { p.chunks[0].raw_bytes = 5ull << 30; }},
    {"ChunkTail", "its parts end at", [](Plan& p) { p.chunks[0].raw_bytes += 4096; }},
    {"KernelKind", "device kind", [](Plan& p) { p.kernels[0].device_kind = "C P U"; }},
    {"KernelTwice", "are there twice", [](Plan& p) { p.kernels[1].device_kind = "cpu"; }},
    {"KernelNode", "which is not there", [](Plan& p) { p.kernels[0].entries[0].node = 50; }},
    {"KernelNodeTwice", "twice", [](Plan& p) { p.kernels[0].entries.push_back(p.kernels[0].entries[0]); }},
    {"KernelNone", "without a kernel", [](Plan& p) { p.kernels[0].entries[0].kernel.clear(); }},
    {"KernelOrder", "in the order", [](Plan& p) { std::swap(p.kernels[0], p.kernels[1]); }},
    {"RehydratedNothing", "rehydrated", [](Plan& p) { p.embedded_rehydrated = true; }},
    {"StoredCount", "stored chunks for", [](Plan& p) { p.embedded.resize(1); }},
};

INSTANTIATE_TEST_SUITE_P(Graph, Refuses, testing::ValuesIn(kGraphCases), [](const auto& one) { return std::string(one.param.name); });
INSTANTIATE_TEST_SUITE_P(Weights, Refuses, testing::ValuesIn(kWeightCases), [](const auto& one) { return std::string(one.param.name); });

TEST(PlanValidate, BodiesMayNestToTheLimitOnly) {
  for (const int depth : {32, 33, 5000}) {
    Plan plan;
    for (int i = 0; i <= depth; ++i) {
      plan::Graph graph;
      if (i < depth) {
        plan::Node node;
        node.name = "n" + std::to_string(i);
        node.op = "Loop";
        node.attributes = {{"body", plan::BodyRef{static_cast<std::uint32_t>(i + 1)}}};
        graph.nodes.push_back(std::move(node));
      }
      plan.graphs.push_back(std::move(graph));
    }
    EXPECT_EQ(plan::validate_plan(plan).ok(), depth <= 32) << depth;
  }
}

TEST(PlanValidate, CyclesOfBodiesAreRefused) {
  Plan plan = sample_plan();
  plan::Node node;
  node.name = "loop";
  node.op = "Loop";
  node.attributes = {{"body", plan::BodyRef{1}}};
  plan.graphs[1].nodes.push_back(node);
  EXPECT_FALSE(plan::validate_plan(plan).ok());
}

TEST(PlanValidate, DescribeIsBoundedForSharedSlots) {
  plan::Recipe recipe;
  recipe.sources = {0};
  for (std::uint32_t i = 0; i < 200; ++i) recipe.nodes.push_back({"", "Add", 14, {i, i}, 1, {}});
  EXPECT_LT(recipe.describe().size(), 1000u);
}

}  // namespace
}  // namespace forebay::test
