#include <set>

#include <gtest/gtest.h>

#include "onnx/onnx_model.h"
#include "onnx/tensor_walk.h"
#include "support/onnx_maker.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::onnx {
namespace {

using test::OnnxMaker;
using test::TempFolder;

Result<Model> inlined(const OnnxMaker& maker) {
  const TempFolder folder;
  maker.write(folder / "m.onnx");
  auto model = read_model(posix_file_system(), folder / "m.onnx", Limits{});
  if (!model.ok()) return model;
  if (Status status = inline_functions(*model, Limits{}); !status.ok()) return status;
  return model;
}

TEST(InlineFunctions, CallsBecomeNodes) {
  OnnxMaker maker;
  maker.import("f", 1);
  auto function = maker.function("f", "Scale", {"x", "s"}, {"y"});
  function.opset(17).attributes({"axis"}).attribute_default("k", 5);
  function.node("Mul", {"x", "s"}, {"t"}).name("mul").ref("axis", "axis").ref("k", "k").ref("gone", "never_given");
  function.node("Relu", {"t"}, {"y"});
  auto graph = maker.graph();
  graph.node("Scale", {"a", "b"}, {"m"}, "f").name("first").set("axis", 3);
  graph.node("Scale", {"m"}, {"out"}, "f").name("second").set("axis", 4).set("k", 6);
  ASSERT_VALUE(const Model model, inlined(maker));
  ASSERT_EQ(model.graph.nodes.size(), 4u);
  const auto& nodes = model.graph.nodes;
  EXPECT_EQ(nodes[0].name, "first/mul");
  EXPECT_EQ(nodes[0].inputs, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(nodes[0].outputs, (std::vector<std::string>{"first/t"}));
  EXPECT_EQ(nodes[1].inputs, (std::vector<std::string>{"first/t"}));
  EXPECT_EQ(nodes[1].outputs, (std::vector<std::string>{"m"}));
  EXPECT_EQ(nodes[2].inputs, (std::vector<std::string>{"m", ""}));
  EXPECT_EQ(nodes[3].outputs, (std::vector<std::string>{"out"}));
  EXPECT_EQ(nodes[0].function_stack, std::vector<std::string>{"f.Scale"});
  ASSERT_EQ(nodes[0].attributes.size(), 2u) << "an attribute that is not given and has no default is absent";
  EXPECT_EQ(std::get<std::int64_t>(nodes[0].attributes[0].value), 3);
  EXPECT_EQ(std::get<std::int64_t>(nodes[0].attributes[1].value), 5);
  EXPECT_EQ(std::get<std::int64_t>(nodes[2].attributes[1].value), 6);
}

TEST(InlineFunctions, NestedOnesOverloadsBodiesAndWeights) {
  OnnxMaker maker;
  maker.import("f", 1);
  auto inner = maker.function("f", "Inner", {"x"}, {"y"});
  inner.opset(17);
  inner.node("Constant", {}, {"w"}).set("value", test::random_tensor(DType::f32, {3}, 1));
  auto branch = inner.node("If", {"x"}, {"y"});
  auto body = branch.body("then_branch");
  body.node("Add", {"x", "w"}, {"inside"});
  body.output("inside");
  auto over = maker.function("f", "Inner", {"x"}, {"y"});
  over.opset(17).overload("b");
  over.node("Neg", {"x"}, {"y"});
  auto outer = maker.function("f", "Outer", {"x"}, {"y", "extra"});
  outer.opset(17).opset(1, "f");
  outer.node("Inner", {"x"}, {"h"}, "f").name("call");
  outer.node("Inner", {"h"}, {"y"}, "f").name("call2").overload("b");
  outer.node("Abs", {"h"}, {"extra"});
  auto graph = maker.graph();
  graph.node("Outer", {"a"}, {"r"}, "f").name("o1");
  graph.node("Outer", {"r"}, {"s"}, "f").name("o2");
  ASSERT_VALUE(const Model model, inlined(maker));
  std::set<std::string> outputs;
  for (const Node& node : model.graph.nodes) {
    EXPECT_NE(node.domain, "f");
    for (const std::string& output : node.outputs) EXPECT_TRUE(outputs.insert(output).second) << output;
  }
  EXPECT_TRUE(outputs.count("r") == 1 && outputs.count("s") == 1);
  std::vector<std::string> weights;
  for_each_tensor(model.graph, [&](const std::string& name, const SourceTensor&) { weights.push_back(name); });
  EXPECT_EQ(weights, (std::vector<std::string>{"o1/call/w", "o2/call/w"}));
  const Node& branch_node = model.graph.nodes[1];
  EXPECT_EQ(branch_node.op, "If");
  EXPECT_EQ(branch_node.function_stack, (std::vector<std::string>{"f.Outer", "f.Inner"}));
  const Graph& then_graph = *std::get<std::shared_ptr<Graph>>(branch_node.attributes[0].value);
  EXPECT_EQ(then_graph.nodes[0].inputs, (std::vector<std::string>{"a", "o1/call/w"}));
  EXPECT_EQ(then_graph.nodes[0].outputs[0], then_graph.outputs[0].name);
  EXPECT_EQ(model.graph.nodes[2].op, "Neg");
}

TEST(InlineFunctions, CallsInsideBodiesOfTheGraph) {
  OnnxMaker maker;
  maker.import("f", 1);
  auto function = maker.function("f", "Pass", {"x"}, {"x"});  // hands its input through
  function.opset(17);
  auto body = maker.graph().node("If", {"c"}, {"y"}).body("then_branch");
  body.node("Pass", {"a"}, {"b"}, "f");
  ASSERT_VALUE(const Model model, inlined(maker));
  const Graph& inner = *std::get<std::shared_ptr<Graph>>(model.graph.nodes[0].attributes[0].value);
  ASSERT_EQ(inner.nodes.size(), 1u);
  EXPECT_EQ(inner.nodes[0].op, "Identity");
  EXPECT_EQ(inner.nodes[0].inputs[0], "a");
  EXPECT_EQ(inner.nodes[0].outputs[0], "b");
}

TEST(InlineFunctions, NamesStayUnique) {
  OnnxMaker maker;
  maker.import("f", 1);
  auto function = maker.function("f", "F", {"x"}, {"y"});
  function.opset(17);
  function.node("Abs", {"x"}, {"t"});
  function.node("Neg", {"t"}, {"y"});
  auto graph = maker.graph();
  graph.node("Abs", {"in"}, {"n/t"});  // the very name that inlining would choose
  graph.node("F", {"n/t"}, {"p"}, "f").name("n");
  graph.node("F", {"p"}, {"q"}, "f").name("n");
  ASSERT_VALUE(const Model model, inlined(maker));
  std::set<std::string> outputs;
  for (const Node& node : model.graph.nodes) EXPECT_TRUE(outputs.insert(node.outputs[0]).second) << node.outputs[0];
}

TEST(InlineFunctions, Refusals) {
  {
    OnnxMaker maker;
    maker.import("f", 1);
    maker.function("f", "A", {"x"}, {"y"}).opset(17).opset(1, "f").node("B", {"x"}, {"y"}, "f");
    maker.function("f", "B", {"x"}, {"y"}).opset(17).opset(1, "f").node("A", {"x"}, {"y"}, "f");
    maker.graph().node("A", {"x"}, {"y"}, "f");
    EXPECT_CODE(inlined(maker), Code::invalid_model);
  }
  {  // 2^30 nodes from thirty functions
    OnnxMaker maker;
    maker.import("f", 1);
    for (int i = 0; i < 30; ++i) {
      auto function = maker.function("f", "F" + std::to_string(i), {"x"}, {"y"});
      function.opset(17).opset(1, "f");
      const std::string next = i == 29 ? "Abs" : "F" + std::to_string(i + 1), domain = i == 29 ? "" : "f";
      function.node(next, {"x"}, {"t"}, domain);
      function.node(next, {"t"}, {"y"}, domain);
    }
    maker.graph().node("F0", {"x"}, {"y"}, "f");
    EXPECT_CODE(inlined(maker), Code::resource_exhausted);
  }
  {
    OnnxMaker maker(17);
    maker.import("f", 1);
    maker.function("f", "A", {"x"}, {"y"}).opset(13).node("Softmax", {"x"}, {"y"});
    maker.graph().node("A", {"x"}, {"y"}, "f");
    EXPECT_CODE(inlined(maker), Code::unsupported);
  }
  {
    OnnxMaker maker;
    maker.import("f", 1);
    maker.function("f", "A", {"x"}, {"y"}).opset(17).node("Abs", {"x"}, {"y"});
    maker.graph().node("A", {"x", "z"}, {"y"}, "f");
    EXPECT_CODE(inlined(maker), Code::invalid_model);
  }
  {
    OnnxMaker maker;
    maker.import("f", 1);
    maker.function("f", "A", {"x"}, {"y"}).opset(17).node("Abs", {"x"}, {"y"});
    maker.function("f", "A", {"x"}, {"y"}).opset(17).node("Neg", {"x"}, {"y"});
    EXPECT_CODE(inlined(maker), Code::invalid_model);
  }
  {  // a reference to an attribute outside of any function
    OnnxMaker maker;
    maker.graph().node("Softmax", {"x"}, {"y"}).ref("axis", "axis");
    EXPECT_CODE(inlined(maker), Code::invalid_model);
  }
}

}  // namespace
}  // namespace forebay::onnx
