// Parameters of one element: a slope, a scale. They refit like larger ones; what a checkpoint does not name keeps the model's value.
#include <gtest/gtest.h>

#include "api/engine_world.h"

namespace forebay {
namespace {

using namespace test;

HostTensor one(float value, const Shape& shape = Shape{1}) {
  return floats(shape, {value});
}

// y = PRelu(x w, slope) * scale + 1, the last number being a literal of the graph.
OnnxMaker sloped(float weight, float slope, float scale) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.initializer("w", diagonal(weight));
  graph.initializer("slope", one(slope));
  graph.initializer("scale", one(scale, Shape()));
  graph.constant("literal", one(1.0f, Shape()));
  graph.node("MatMul", {"x", "w"}, {"product"});
  graph.node("PRelu", {"product", "slope"}, {"bent"});
  graph.node("Mul", {"bent", "scale"}, {"scaled"});
  graph.node("Add", {"scaled", "literal"}, {"y"});
  graph.output("y", DType::f32, {"n", kWidth});
  return maker;
}

TEST(OneElementParameters, RefitAndKeepTheModelsValueWhereNoFileNamesThem) {
  TempFolder folder;
  for (const bool strip : {false, true}) {
    BuildOptions options;
    options.strip = strip;
    const std::string name = strip ? "stripped" : "whole";
    ASSERT_VALUE(Plan plan, build_plan(sloped(2, 0.5f, 3), folder, name, options));
    WeightSources model;
    if (strip) model.paths = {folder / (name + ".onnx")};
    ASSERT_VALUE(Engine engine, Engine::create(plan, model, with_budget(Budget::of_percent(100))));
    const Shape shape{2, kWidth};
    const Tensors inputs = only("x", filled(shape, -1));
    const auto answer = [&](float want) {
      auto got = run_once(engine, inputs);
      ASSERT_OK(got);
      EXPECT_TRUE(same_bits(*got, filled(shape, want))) << got->as<float>()[0] << " for " << want;
    };
    answer(-2 * 0.5f * 3 + 1);
    const auto with_weight = [](Tensors rest) {
      Tensors all = only("w", diagonal(4));
      for (auto& tensor : rest) all.push_back(std::move(tensor));
      return all;
    };
    Tensors both;
    both.emplace_back("slope", one(0.25f));
    both.emplace_back("scale", one(5, Shape()));
    ASSERT_OK(engine.refit(in_memory(with_weight(std::move(both))), nullptr));
    answer(-4 * 0.25f * 5 + 1);
    ASSERT_OK(engine.refit(in_memory(with_weight({})), nullptr));
    answer(-4 * 0.5f * 3 + 1);
    Tensors wrong;
    wrong.emplace_back("slope", floats(Shape{2}, {1, 1}));
    const Status refused = engine.refit(in_memory(with_weight(std::move(wrong))), nullptr).status();
    EXPECT_CODE(refused, Code::weight_mismatch);
    EXPECT_NE(refused.to_string().find("slope"), std::string::npos) << refused.to_string();
    answer(-4 * 0.5f * 3 + 1);
  }
}

// The epsilon of a fused norm is part of the kernel: another value is refused by name.
TEST(OneElementParameters, WhatAFusionHasReadIsKept) {
  TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", kWidth});
  graph.initializer("gamma", random_tensor(DType::f32, Shape{kWidth}, 3));
  graph.initializer("epsilon", one(1e-5f, Shape()));
  graph.initializer("two", one(2, Shape()));
  graph.node("Pow", {"x", "two"}, {"squares"});
  graph.node("ReduceMean", {"squares"}, {"mean"}).set("axes", std::vector<std::int64_t>{-1});
  graph.node("Add", {"mean", "epsilon"}, {"sum"});
  graph.node("Sqrt", {"sum"}, {"root"});
  graph.node("Div", {"x", "root"}, {"normal"});
  graph.node("Mul", {"normal", "gamma"}, {"y"});
  graph.output("y", DType::f32, {"n", kWidth});
  ASSERT_VALUE(Plan plan, build_plan(maker, folder, "norm"));
  ASSERT_VALUE(Engine engine, Engine::create(plan, {}, with_budget(Budget::of_percent(100))));
  Tensors other = only("gamma", random_tensor(DType::f32, Shape{kWidth}, 4));
  ASSERT_OK(engine.refit(in_memory(other), nullptr));
  other.emplace_back("epsilon", one(1e-3f, Shape()));
  const Status refused = engine.refit(in_memory(other), nullptr).status();
  EXPECT_CODE(refused, Code::weight_mismatch);
  EXPECT_NE(refused.to_string().find("epsilon"), std::string::npos) << refused.to_string();
}

}  // namespace
}  // namespace forebay
