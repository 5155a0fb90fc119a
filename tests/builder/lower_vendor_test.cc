// Vendor operators that become others: which, with which weights, and how the rest is refused.
#include "builder/lower_vendor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "model_maker.h"

namespace forebay::builder::test {
namespace {

constexpr const char* kVendor = "com.microsoft";

onnx::Model with_vendor(const GraphMaker& graph) {
  onnx::Model model = graph.model(14);  // older than the operators that the compositions use
  model.opsets.emplace_back(kVendor, 1);
  return model;
}

TEST(LowerVendor, AttentionIsAProductOfAWeightInSlabs) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"B", "S", "64"}).initializer("w", floats({64, 192}, 1)).initializer("b", floats({192}, 2));
  graph.node("Attention", {"x", "w", "b"}, {"y"}, kVendor).named("attend").with("num_heads", std::int64_t{4}).output("y");
  Options options;
  options.slab_bytes = 4096;
  const auto built = build_model(with_vendor(graph), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const auto ops = ops_of(built->plan.graphs[0]);
  EXPECT_NE(std::find(ops.begin(), ops.end(), "MultiHeadAttention"), ops.end());
  const plan::Weight* weight = find_weight(built->plan, "w");
  ASSERT_NE(weight, nullptr);
  EXPECT_GT(weight->part_count, 1u);
  EXPECT_NE(find_weight(built->plan, "b"), nullptr);
}

TEST(LowerVendor, ExpertsComeInSlabsOfWholeExperts) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "32"}).input("scores", DType::f32, {"N", "6"});
  graph.initializer("w1", floats({6, 64, 32}, 1)).initializer("w2", floats({6, 32, 64}, 2));
  graph.node("MoE", {"x", "scores", "w1", "", "w2"}, {"y"}, kVendor).with("k", std::int64_t{2}).output("y");
  Options options;
  options.slab_bytes = 16384;
  const auto built = build_model(with_vendor(graph), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Weight* weight = find_weight(built->plan, "w1");
  ASSERT_NE(weight, nullptr);
  EXPECT_EQ(weight->part_count, 3u);  // of two experts
  EXPECT_EQ(weight->consumption, plan::Consumption::by_output);
}

TEST(LowerVendor, EmbeddingTablesAreGathered) {
  GraphMaker graph;
  graph.input("ids", DType::i32, {"B", "S"}).initializer("words", floats({4096, 64}, 1)).initializer("places", floats({64, 64}, 2));
  graph.initializer("gamma", floats({64}, 3)).initializer("beta", floats({64}, 4));
  graph.node("EmbedLayerNormalization", {"ids", "", "words", "places", "", "gamma", "beta"}, {"y", "mask_index"}, kVendor)
      .output("y")
      .output("mask_index");
  Options options;
  options.slab_bytes = 4096;
  const auto built = build_model(with_vendor(graph), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const plan::Weight* words = find_weight(built->plan, "words");
  ASSERT_NE(words, nullptr);
  EXPECT_TRUE(words->gather_only);
}

TEST(LowerVendor, RefusalsAreToldTogetherWithHints) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"2", "3", "16"}).initializer("w", floats({16, 48}, 1)).initializer("c", floats({4, 4, 1, 1}, 2));
  graph.node("Attention", {"x", "w"}, {"a"}, kVendor).named("turned").with("num_heads", std::int64_t{2}).with("do_rotary", std::int64_t{1});
  graph.node("NhwcConv", {"x", "c"}, {"b"}, kVendor).named("conv");
  graph.node("FastGelu", {"x"}, {"g"}, kVendor);
  graph.node("FusedConv", {"x", "c"}, {"d"}, kVendor).named("fused").with("activation", std::string("Strange"));
  graph.node("FusedConv", {"x", "c"}, {"unused"}, kVendor).named("unused").with("activation", std::string("Strange"));
  for (const char* output : {"a", "b", "g", "d"}) graph.output(output);
  const std::vector<Problem> problems = check(with_vendor(graph));
  std::set<std::string> nodes;
  for (const Problem& problem : problems) {
    nodes.insert(problem.node);
    EXPECT_EQ(problem.file, "test.onnx");
    if (problem.node == "conv") {
      EXPECT_NE(problem.hint.find("the standard Conv"), std::string::npos) << problem.hint;
    }
    if (problem.node == "turned") {
      EXPECT_NE(problem.message.find("do_rotary"), std::string::npos) << problem.message;
    }
  }
  EXPECT_EQ(problems.size(), 3u);
  EXPECT_EQ(nodes, (std::set<std::string>{"turned", "conv", "fused"}));
}

TEST(LowerVendor, MissingInputsMakeAModelInvalid) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"2", "4"}).node("BiasGelu", {"x"}, {"y"}, kVendor).output("y");
  EXPECT_EQ(build_model(with_vendor(graph)).status().code(), Code::invalid_model);
}

}  // namespace
}  // namespace forebay::builder::test
