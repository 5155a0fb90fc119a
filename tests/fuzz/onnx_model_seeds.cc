#include "fuzz_seeds.h"
#include "support/onnx_maker.h"
#include "support/random.h"

using namespace forebay;
using namespace forebay::test;

std::vector<std::string> forebay_fuzz_seeds() {
  std::vector<std::string> seeds;
  {
    OnnxMaker maker;
    auto graph = maker.graph();
    graph.input("x", DType::f32, {"n", 4});
    graph.output("y", DType::f32, {"n", 2});
    graph.initializer("w", random_tensor(DType::f32, {4, 2}, 1));
    graph.initializer("b", random_tensor(DType::bf16, {2}, 2), Store::typed);
    graph.initializer("q", random_tensor(DType::i4, {5}, 3), Store::typed);
    graph.node("Gemm", {"x", "w", "b"}, {"y"}).name("gemm").set("alpha", 1.0f).set("transB", 0);
    seeds.push_back(maker.bytes());
  }
  {
    OnnxMaker maker(18, 9);
    maker.import("f", 1);
    auto function = maker.function("f", "Act", {"x"}, {"y"});
    function.opset(18).attributes({"alpha"}).attribute_default("k", 1);
    function.node("LeakyRelu", {"x"}, {"t"}).ref("alpha", "alpha");
    function.node("If", {"t"}, {"y"}).body("then_branch").constant("c", random_tensor(DType::i64, {3}, 4), Store::typed);
    auto graph = maker.graph();
    graph.node("Act", {"x"}, {"h"}, "f").name("a1").set("alpha", 0.5f);
    auto loop = graph.node("Loop", {"n", "c", "h"}, {"z"});
    auto body = loop.body("body");
    body.input("i", DType::i64, {});
    body.node("Act", {"h_in"}, {"h_out"}, "f").name("a2");
    body.output("h_out", DType::f32, {"n"});
    seeds.push_back(maker.bytes());
  }
  seeds.push_back(tensor_bytes("input", random_tensor(DType::f16, {2, 3}, 5), Store::typed));
  seeds.push_back(tensor_bytes("input", random_tensor(DType::u64, {4}, 6)));
  return seeds;
}
