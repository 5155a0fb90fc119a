#include <gtest/gtest.h>

#include <set>

#include "op_runner.h"
#include "runtime/op.h"

namespace forebay {
namespace {

TEST(OpRegistry, FindsByVersionRange) {
  const OpRegistry& registry = OpRegistry::builtin();
  ASSERT_NE(registry.find("", "Add", 13), nullptr);
  EXPECT_EQ(registry.find("ai.onnx", "Add", 13), registry.find("", "Add", 13));
  EXPECT_EQ(registry.find("", "Squeeze", 12)->host_inputs, 0u);
  EXPECT_EQ(registry.find("", "Squeeze", 13)->host_inputs, 2u);
  EXPECT_EQ(registry.find("", "NoSuchOperator", 13), nullptr);
  EXPECT_EQ(registry.find("other.domain", "Add", 1), nullptr);
  EXPECT_EQ(registry.find("", "Add", 28), nullptr);
}

TEST(OpRegistry, SaysWhyAnOperatorIsMissing) {
  const OpRegistry& registry = OpRegistry::builtin();
  EXPECT_EQ(registry.why_missing("", "NoSuchOperator", 13), "no such operator here: NoSuchOperator");
  EXPECT_NE(registry.why_missing("", "Where", 7).find("opset 7 of Where is not served (9 to"), std::string::npos);
  EXPECT_NE(registry.why_missing("", "Add", 1000).find("newer"), std::string::npos);
}

TEST(OpRegistry, EntriesAreWellFormed) {
  for (const OpSpec& spec : OpRegistry::builtin().all()) {
    EXPECT_NE(spec.infer, nullptr) << spec.name;
    EXPECT_LE(spec.since, spec.until) << spec.name;
    const bool needs_kernel = (spec.flags & (kOpView | kOpControl)) == 0;
    EXPECT_TRUE(!needs_kernel || spec.create != nullptr) << spec.name;
    // No other entry serves the same version.
    for (const OpSpec& other : OpRegistry::builtin().all()) {
      if (&other == &spec || other.name != spec.name || other.domain != spec.domain) continue;
      EXPECT_TRUE(other.since > spec.until || other.until < spec.since) << spec.name << " from " << spec.since;
    }
  }
}

TEST(NodeView, ReadsAttributesByType) {
  OpRunner op("Anything");
  op.attr("i", 5).attr("f", 1.5f).attr("s", "text").attr("is", plan::AttributeValue(std::vector<std::int64_t>{1, 2}));
  const NodeView view = op.view();
  EXPECT_EQ(view.integer("i", 0), 5);
  EXPECT_EQ(view.integer("f", 7), 7);  // of another type: as if absent
  EXPECT_EQ(view.real("f", 0), 1.5f);
  EXPECT_EQ(view.text("s", ""), "text");
  EXPECT_EQ(view.integers("is").size(), 2u);
  EXPECT_TRUE(view.integers("none").empty());
  EXPECT_EQ(view.tensor("i"), nullptr);
  EXPECT_TRUE(view.has("i"));
  EXPECT_FALSE(view.has("j"));
}

TEST(NodeView, RefusalsNameTheNode) {
  const OpRunner op("Relu");
  const Status status = op.view().invalid("it is wrong");
  EXPECT_EQ(status.code(), Code::invalid_model);
  ASSERT_EQ(status.problems().size(), 1u);
  EXPECT_EQ(status.problems()[0].node, "node");
  EXPECT_EQ(status.problems()[0].op, "Relu");
  EXPECT_EQ(op.view().unsupported("x").code(), Code::unsupported);
}

TEST(BroadcastDims, MeetsKnownAndUnknown) {
  struct Case {
    std::vector<std::int64_t> a, b, out;
  };
  const OpRunner op("Add");
  const Case cases[] = {
      {{2, 3}, {3}, {2, 3}},   {{}, {4}, {4}},      {{1, 5}, {7, 1}, {7, 5}},  {{-1}, {4}, {4}},
      {{-1}, {1}, {-1}},       {{-1}, {-1}, {-1}},  {{0}, {1}, {0}},           {{3, -1}, {1}, {3, -1}},
  };
  for (const Case& c : cases) {
    const auto out = broadcast_dims(op.view(), c.a, c.b);
    ASSERT_TRUE(out.ok());
    EXPECT_EQ(*out, c.out);
    EXPECT_EQ(*broadcast_dims(op.view(), c.b, c.a), c.out);
  }
  const std::vector<std::int64_t> two{2}, three{3}, zero{0};
  EXPECT_EQ(broadcast_dims(op.view(), two, three).status().code(), Code::invalid_model);
  EXPECT_EQ(broadcast_dims(op.view(), two, zero).status().code(), Code::invalid_model);
}

TEST(NormalizeAxis, TakesBothEndsOfItsRange) {
  const OpRunner op("Concat");
  EXPECT_EQ(*normalize_axis(op.view(), -3, 3), 0);
  EXPECT_EQ(*normalize_axis(op.view(), 2, 3), 2);
  EXPECT_FALSE(normalize_axis(op.view(), 3, 3).ok());
  EXPECT_FALSE(normalize_axis(op.view(), -4, 3).ok());
  EXPECT_FALSE(normalize_axis(op.view(), 0, 0).ok());
}

TEST(EvaluateNode, RefusesWhatItCannotRun) {
  EXPECT_EQ(OpRunner("If").in(bools({}, {1})).code(), Code::unsupported);
  EXPECT_EQ(OpRunner("NoSuchOperator").in(tensor<float>({1}, {1})).code(), Code::unsupported);
  EXPECT_EQ(OpRunner("Relu").code(), Code::invalid_model);
  EXPECT_EQ(OpRunner("Relu").absent().code(), Code::invalid_model);
}

}  // namespace
}  // namespace forebay
