// Models made in memory for the builder's tests: no file, no protobuf.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "builder/build.h"
#include "onnx/onnx_model.h"

namespace forebay::builder::test {

using Dims = std::vector<std::int64_t>;

inline SourceTensor in_memory(std::string name, HostTensor tensor) {
  SourceTensor source;
  source.name = std::move(name);
  source.dtype = tensor.dtype();
  source.shape = tensor.shape();
  source.stored_bytes = tensor.bytes();
  source.memory = std::make_shared<const HostTensor>(std::move(tensor));
  return source;
}

inline HostTensor floats(const Dims& dims, std::uint32_t seed, float low = -1.0f, float high = 1.0f) {
  HostTensor tensor(DType::f32, Shape(std::span<const std::int64_t>(dims)));
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  for (float& value : tensor.as<float>()) value = uniform(random);
  return tensor;
}

inline HostTensor list(const std::vector<float>& values, bool scalar = false) {
  HostTensor tensor(DType::f32, scalar ? Shape{} : Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.as<float>().begin());
  return tensor;
}

inline HostTensor integers(const std::vector<std::int64_t>& values, bool scalar = false) {
  HostTensor tensor(DType::i64, scalar ? Shape{} : Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.as<std::int64_t>().begin());
  return tensor;
}

// "N" is a named dimension, "?" an anonymous one, anything else a number.
inline onnx::ValueInfo info(std::string name, DType dtype, const std::vector<std::string>& dims) {
  onnx::ValueInfo value;
  value.name = std::move(name);
  value.dtype = dtype;
  value.has_shape = true;
  for (const std::string& text : dims) {
    onnx::ValueInfo::Dim dim;
    if (text.find_first_not_of("0123456789") == std::string::npos) {
      dim.size = std::stoll(text);
    } else if (text != "?") {
      dim.name = text;
    }
    value.dims.push_back(dim);
  }
  return value;
}

class GraphMaker {
 public:
  GraphMaker& input(const std::string& name, DType dtype, const std::vector<std::string>& dims) {
    graph_.inputs.push_back(info(name, dtype, dims));
    return *this;
  }
  GraphMaker& output(const std::string& name, DType dtype = DType::none) {
    onnx::ValueInfo value;
    value.name = name;
    value.dtype = dtype;
    graph_.outputs.push_back(std::move(value));
    return *this;
  }
  GraphMaker& initializer(const std::string& name, HostTensor tensor) {
    graph_.initializers.push_back(in_memory(name, std::move(tensor)));
    return *this;
  }
  GraphMaker& constant(const std::string& output, HostTensor tensor) {
    onnx::Node& node = add("Constant", {}, {output});
    onnx::Attribute attribute;
    attribute.name = "value";
    attribute.value = in_memory("", std::move(tensor));
    node.attributes.push_back(std::move(attribute));
    return *this;
  }
  template <typename T>
  GraphMaker& with(const std::string& attribute, T value) {
    onnx::Attribute added;
    added.name = attribute;
    added.value = std::move(value);
    graph_.nodes.back().attributes.push_back(std::move(added));
    return *this;
  }
  GraphMaker& with_body(const std::string& attribute, const GraphMaker& body) {
    return with(attribute, std::make_shared<onnx::Graph>(body.graph_));
  }
  GraphMaker& node(const std::string& op, std::vector<std::string> inputs, std::vector<std::string> outputs,
                   const std::string& domain = {}) {
    add(op, std::move(inputs), std::move(outputs)).domain = domain;
    return *this;
  }
  GraphMaker& named(const std::string& name) {
    graph_.nodes.back().name = name;
    return *this;
  }
  onnx::Model model(std::int64_t opset = 17) const {
    onnx::Model made;
    made.file_name = "test.onnx";
    made.ir_version = 8;
    made.opsets = {{"", opset}, {"ai.onnx.ml", 2}};  // an unused import is fine
    made.graph = graph_;
    return made;
  }

 private:
  onnx::Node& add(const std::string& op, std::vector<std::string> inputs, std::vector<std::string> outputs) {
    onnx::Node node;
    node.op = op;
    node.inputs = std::move(inputs);
    node.outputs = std::move(outputs);
    graph_.nodes.push_back(std::move(node));
    return graph_.nodes.back();
  }
  onnx::Graph graph_;
};

inline Result<Output> build_model(const onnx::Model& model, const Options& options = {}) {
  ThreadPool pool(1);
  return build(model, options, pool, null_logger());
}

inline const plan::Weight* find_weight(const plan::Plan& plan, const std::string& name) {
  for (const plan::Weight& weight : plan.weights)
    if (weight.name == name) return &weight;
  return nullptr;
}

inline std::vector<std::string> weight_names(const plan::Plan& plan) {
  std::vector<std::string> names;
  for (const plan::Weight& weight : plan.weights) names.push_back(weight.name);
  return names;
}

inline std::vector<std::string> ops_of(const plan::Graph& graph) {
  std::vector<std::string> ops;
  for (const plan::Node& node : graph.nodes) ops.push_back(node.op);
  return ops;
}

// The weight's bytes by its recipe, from the sources that build() hands out.
Result<HostTensor> run_recipe(const Output& built, const plan::Weight& weight);

}  // namespace forebay::builder::test
