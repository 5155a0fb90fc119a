#include "onnx/tensor_walk.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace forebay::onnx {
namespace {

const std::string& first_output(const Node& node) {
  static const std::string kEmpty;
  for (const std::string& output : node.outputs)
    if (!output.empty()) return output;
  return kEmpty;
}

template <typename T>
SourceTensor in_memory(DType dtype, const Shape& shape, const T* values, std::size_t count) {
  SourceTensor tensor;
  tensor.dtype = dtype;
  tensor.shape = shape;
  HostTensor host(dtype, shape);
  if (count != 0) std::memcpy(host.data(), values, count * sizeof(T));
  tensor.stored_bytes = host.bytes();
  tensor.memory = std::make_shared<const HostTensor>(std::move(host));
  return tensor;
}

std::optional<SourceTensor> tensor_of(const Attribute& attribute) {
  if (attribute.name == "value") {
    if (const auto* tensor = std::get_if<SourceTensor>(&attribute.value)) return *tensor;
  } else if (attribute.name == "value_float") {
    if (const auto* value = std::get_if<float>(&attribute.value)) return in_memory(DType::f32, Shape{}, value, 1);
  } else if (attribute.name == "value_int") {
    if (const auto* value = std::get_if<std::int64_t>(&attribute.value)) return in_memory(DType::i64, Shape{}, value, 1);
  } else if (attribute.name == "value_floats") {
    if (const auto* list = std::get_if<std::vector<float>>(&attribute.value))
      return in_memory(DType::f32, Shape{static_cast<std::int64_t>(list->size())}, list->data(), list->size());
  } else if (attribute.name == "value_ints") {
    if (const auto* list = std::get_if<std::vector<std::int64_t>>(&attribute.value))
      return in_memory(DType::i64, Shape{static_cast<std::int64_t>(list->size())}, list->data(), list->size());
  }
  return std::nullopt;
}

// Depth is bounded by Limits::max_depth when the model was read.
void walk(const Graph& graph, const std::string& prefix, const TensorCallback& callback) {
  for (const SourceTensor& tensor : graph.initializers) callback(prefix + tensor.name, tensor);
  for (const Node& node : graph.nodes) {
    if (const auto tensor = constant_tensor(node)) callback(prefix + tensor->name, *tensor);
    for (const Attribute& attribute : node.attributes)
      if (const auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute.value); body != nullptr && *body != nullptr)
        walk(**body, body_prefix(prefix, node, attribute.name), callback);
  }
}

}  // namespace

std::string body_prefix(const std::string& prefix, const Node& node, const std::string& attribute) {
  return prefix + (node.name.empty() ? first_output(node) : node.name) + "/" + attribute + "/";
}

std::optional<SourceTensor> constant_tensor(const Node& node) {
  if (node.op != "Constant" || !(node.domain.empty() || node.domain == "ai.onnx")) return std::nullopt;
  for (const Attribute& attribute : node.attributes) {
    if (auto tensor = tensor_of(attribute)) {
      tensor->name = first_output(node);
      return tensor;
    }
  }
  return std::nullopt;
}

void for_each_tensor(const Graph& graph, const TensorCallback& callback) { walk(graph, "", callback); }

}  // namespace forebay::onnx
