// The names under which the tensors of an ONNX file are known to plans and refits. Builder and refit both use these functions, so that a
// plan built from a file always finds its sources in that file again.
//
// An initializer keeps its name; the tensor of a Constant node is called by the node's output. Inside a body of If, Loop or Scan
// the name gets a prefix per level: the node's name (its first output's where it has none), '/', the attribute's name, '/'.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/source_tensor.h"
#include "onnx/onnx_model.h"

namespace forebay::onnx {

// Prefix of everything inside the body `attribute` of `node`, itself lying under `prefix` ("" in the main graph).
std::string body_prefix(const std::string& prefix, const Node& node, const std::string& attribute);

// The tensor of a Constant node, whatever attribute holds it (value, value_float, value_floats, value_int, value_ints), under the node's
// output name. Lists become tensors in memory. Empty for other nodes, and for kinds without a tensor (strings, sparse).
std::optional<SourceTensor> constant_tensor(const Node& node);

// Every initializer and Constant of `graph` and of the bodies inside it, in file order. Call it on a model whose functions are inlined.
using TensorCallback = std::function<void(const std::string& path_name, const SourceTensor& tensor)>;
void for_each_tensor(const Graph& graph, const TensorCallback& callback);

}  // namespace forebay::onnx
