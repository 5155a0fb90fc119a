// Small models, built into plans that stream, for tests of the public interface.
#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "forebay/forebay.h"
#include "support/onnx_maker.h"
#include "support/random.h"
#include "support/safetensors_maker.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::test {

inline constexpr std::int64_t kWidth = 64;

using Tensors = std::vector<std::pair<std::string, HostTensor>>;

inline bool same_bits(const HostTensor& a, const HostTensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && (a.bytes() == 0 || std::memcmp(a.data(), b.data(), a.bytes()) == 0);
}

inline HostTensor floats(const Shape& shape, const std::vector<float>& values) {
  HostTensor tensor(DType::f32, shape);
  for (std::size_t i = 0; i < values.size(); ++i) tensor.as<float>()[i] = values[i];
  return tensor;
}

inline HostTensor filled(const Shape& shape, float value) {
  HostTensor tensor(DType::f32, shape);
  for (float& v : tensor.as<float>()) v = value;
  return tensor;
}

inline HostTensor integer(std::int64_t value) {
  HostTensor tensor(DType::i64, Shape{});
  tensor.as<std::int64_t>()[0] = value;
  return tensor;
}

inline HostTensor truth(bool value) {
  HostTensor tensor(DType::boolean, Shape{});
  tensor.data()[0] = value ? std::byte{1} : std::byte{0};
  return tensor;
}

// `factor` on the diagonal: a product with it is exact.
inline HostTensor diagonal(float factor, std::int64_t width = kWidth) {
  HostTensor tensor(DType::f32, Shape{width, width});
  for (std::int64_t i = 0; i < width; ++i) tensor.as<float>()[static_cast<std::size_t>(i * width + i)] = factor;
  return tensor;
}

// Weights of make_layers, scaled so that values neither vanish nor grow.
inline Tensors layer_weights(int layers, std::int64_t width, std::uint64_t seed) {
  Tensors weights;
  for (int i = 0; i < layers; ++i) {
    HostTensor w = random_tensor(DType::f32, Shape{width, width}, seed * 1000 + static_cast<std::uint64_t>(2 * i));
    for (float& v : w.as<float>()) v *= 16.0f / static_cast<float>(width);
    weights.emplace_back("w" + std::to_string(i), std::move(w));
    const std::uint64_t bias_seed = seed * 1000 + static_cast<std::uint64_t>(2 * i + 1);
    weights.emplace_back("b" + std::to_string(i), random_tensor(DType::f32, Shape{width}, bias_seed));
  }
  return weights;
}

// x[batch,width] -> (MatMul, Add, Relu) x layers -> y.
inline OnnxMaker make_layers(const Tensors& weights, std::int64_t width) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"batch", width});
  std::string value = "x";
  for (std::size_t i = 0; i < weights.size() / 2; ++i) {
    const std::string n = std::to_string(i), out = 2 * (i + 1) == weights.size() ? "y" : "h" + n;
    graph.initializer("w" + n, weights[2 * i].second);
    graph.initializer("b" + n, weights[2 * i + 1].second);
    graph.node("MatMul", {value, "w" + n}, {"m" + n}).name("matmul" + n);
    graph.node("Add", {"m" + n, "b" + n}, {"a" + n}).name("add" + n);
    graph.node("Relu", {"a" + n}, {out}).name("relu" + n);
    value = out;
  }
  graph.output("y", DType::f32, {"batch", width});
  return maker;
}

inline WeightSources in_memory(const Tensors& weights) {
  WeightSources sources;
  for (const auto& [name, tensor] : weights) sources.tensors.push_back({name, tensor});
  return sources;
}

inline std::string safetensors_of(const Tensors& weights) {
  std::vector<NamedTensor> named;
  for (const auto& [name, tensor] : weights) named.push_back({name, tensor});
  return make_safetensors(named);
}

// Slabs of 4 KiB unless `options` says otherwise.
inline Result<Plan> build_plan(const OnnxMaker& maker, const TempFolder& folder, const std::string& name, BuildOptions options = {}) {
  maker.write(folder / (name + ".onnx"));
  if (options.slab_bytes == 0) options.slab_bytes = 4096;
  options.threads = 2;
  auto built = build(folder / (name + ".onnx"), folder / (name + ".plan"), options);
  if (!built.ok()) return std::move(built).status();
  return Plan::load(folder / (name + ".plan"));
}

// Buffered reads, so that a busy disk does not decide how long a test takes; tests of direct reads say so.
inline EngineOptions with_budget(const Budget& budget, int concurrent = 1) {
  EngineOptions options;
  options.threads = 2;
  options.budget = budget;
  options.direct = "off";
  options.concurrent_passes = concurrent;
  return options;
}

inline Result<HostTensor> run_once(ExecutionContext& context, const Tensors& inputs, const std::string& output = "y") {
  for (const auto& [name, tensor] : inputs) {
    Status status = context.set_input(name, tensor);
    if (!status.ok()) return status;
  }
  Status status = context.execute();
  if (!status.ok()) return status;
  return context.output(output);
}

inline Result<HostTensor> run_once(Engine& engine, const Tensors& inputs, const std::string& output = "y") {
  auto context = engine.create_context();
  if (!context.ok()) return std::move(context).status();
  return run_once(*context, inputs, output);
}

inline Tensors only(const std::string& name, HostTensor tensor) {
  Tensors inputs;
  inputs.emplace_back(name, std::move(tensor));
  return inputs;
}

inline std::vector<std::pair<std::string, Shape>> shapes_of(const Tensors& inputs) {
  std::vector<std::pair<std::string, Shape>> shapes;
  for (const auto& [name, tensor] : inputs) shapes.emplace_back(name, tensor.shape());
  return shapes;
}

}  // namespace forebay::test
