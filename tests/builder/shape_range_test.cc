#include "builder/shape_ranges.h"

#include <gtest/gtest.h>

#include "builder/model_maker.h"

namespace forebay::builder::test {
namespace {

GraphMaker two_inputs() {
  GraphMaker graph;
  graph.input("a", DType::f32, {"N", "3", "?"}).input("b", DType::f32, {"N", "3", "1"});
  graph.node("Add", {"a", "b"}, {"y"}).output("y", DType::f32);
  return graph;
}

TEST(ShapeRanges, NamesOpenDimensionsAndSharesNamedOnes) {
  Options options;
  options.input_shapes["a"] = {{1, 3, 5}, {2, 3, 6}, {4, 3, 7}};
  const auto built = build_model(two_inputs().model(), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Plan& plan = built->plan;
  ASSERT_EQ(plan.dim_ranges.size(), 2u);
  EXPECT_EQ(plan.dim_ranges[0].name, "N");
  EXPECT_EQ(plan.dim_ranges[0].min, 1);
  EXPECT_EQ(plan.dim_ranges[0].max, 4);
  EXPECT_EQ(plan.dim_ranges[1].name, "a.2");
  EXPECT_EQ(plan.dim_ranges[1].opt, 6);
  const plan::Value& a = plan.values[plan.graphs[0].inputs[0]];
  EXPECT_EQ(a.dims[0].name, "N");
  EXPECT_EQ(a.dims[1].size, 3);
  EXPECT_EQ(a.dims[2].name, "a.2");
  EXPECT_EQ(plan.values[plan.graphs[0].inputs[1]].dims[0].name, "N");
}

TEST(ShapeRanges, FillsWhatIsNotGiven) {
  Options options;
  options.input_shapes["a"] = {{}, {}, {8, 3, 9}};
  const auto built = build_model(two_inputs().model(), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_EQ(built->plan.dim_ranges[0].min, 8);
  EXPECT_EQ(built->plan.dim_ranges[0].opt, 8);
}

TEST(ShapeRanges, RefusesConflictsNamingBoth) {
  Options options;
  options.input_shapes["a"] = {{1, 3, 5}, {2, 3, 5}, {4, 3, 5}};
  options.input_shapes["b"] = {{1, 3, 1}, {2, 3, 1}, {5, 3, 1}};
  const auto built = build_model(two_inputs().model(), options);
  ASSERT_FALSE(built.ok());
  EXPECT_EQ(built.status().code(), Code::invalid_argument);
  EXPECT_NE(built.status().message().find("input 'a'"), std::string::npos) << built.status().message();
  EXPECT_NE(built.status().message().find("input 'b'"), std::string::npos) << built.status().message();
}

TEST(ShapeRanges, RefusesWhatContradictsTheModel) {
  const std::vector<std::vector<std::vector<std::int64_t>>> bad = {
      {{1, 4, 5}},                      // axis 1 is 3
      {{1, 3}},                         // rank
      {{1, 3, 9}, {1, 3, 5}, {1, 3, 9}},  // min above opt
      {{1, 3, 5}, {1, 3}, {1, 3, 5}},   // ranks differ
  };
  for (const auto& shapes : bad) {
    Options options;
    options.input_shapes["a"] = shapes;
    EXPECT_EQ(build_model(two_inputs().model(), options).status().code(), Code::invalid_argument);
  }
  Options unknown;
  unknown.input_shapes["aa"] = {{1, 3, 5}};
  EXPECT_EQ(build_model(two_inputs().model(), unknown).status().code(), Code::invalid_argument);
  Options range;
  range.ranges = {{"M", 1, 2, 3}};
  const auto refused = build_model(two_inputs().model(), range);
  EXPECT_EQ(refused.status().code(), Code::invalid_argument);
}

TEST(StatePairs, AreFoundByName) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N"}).input("past_key_values.0.key", DType::f32, {"N"}).input("past_key_values.0.value", DType::f32, {"N"});
  graph.node("Add", {"x", "past_key_values.0.key"}, {"present.0.key"});
  graph.node("Add", {"x", "past_key_values.0.value"}, {"present.0.value"});
  graph.node("Neg", {"x"}, {"y"}).output("y").output("present.0.key").output("present.0.value");
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  ASSERT_EQ(built->plan.state_pairs.size(), 2u);
  for (const plan::StatePair& pair : built->plan.state_pairs) {
    const std::string output = built->plan.values[pair.output].name, input = built->plan.values[pair.input].name;
    EXPECT_EQ("past_key_values" + output.substr(7), input);
  }
  Options options;
  options.state_pairs = {{"y", "x"}};
  const auto chosen = build_model(graph.model(), options);
  ASSERT_TRUE(chosen.ok());
  ASSERT_EQ(chosen->plan.state_pairs.size(), 1u);
  options.state_pairs = {{"y", "xx"}};
  EXPECT_EQ(build_model(graph.model(), options).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace forebay::builder::test
