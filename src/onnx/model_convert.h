// Pieces of a model as protobuf messages to the structures of onnx_model.h. Private to src/onnx.
#pragma once

#include <string>
#include <vector>

#include "onnx/onnx_model.h"
#include "onnx/tensor_record.h"

namespace forebay::onnx_wire {
class AttributeProto;
class GraphProto;
class ModelProto;
class NodeProto;
class ValueInfoProto;
}  // namespace forebay::onnx_wire

namespace forebay::onnx {

class ModelConverter {
 public:
  ModelConverter(TensorFiles& files, const Limits& limits, Model& model) : files_(files), limits_(limits), model_(model) {}
  // Pieces come in file order; each adds to the model.
  Status add(const std::string& piece);
  // After the last piece: what only the whole can tell.
  Status finish();

 private:
  Status add_graph(onnx_wire::GraphProto& proto, Graph& graph);
  Result<Node> node(onnx_wire::NodeProto& proto);
  Result<Attribute> attribute(onnx_wire::AttributeProto& proto);
  Status add_value_info(const onnx_wire::ValueInfoProto& proto, std::vector<ValueInfo>& to) const;
  Status add_initializers(const onnx_wire::GraphProto& proto, Graph& graph);
  Status check_graph(const Graph& graph, bool in_function) const;
  Status check_nodes(const std::vector<Node>& nodes, bool in_function) const;

  TensorFiles& files_;
  const Limits& limits_;
  Model& model_;
  bool has_graph_ = false;
  std::vector<Problem> unsupported_;  // initializers that are well formed and not for us: reported together
};

}  // namespace forebay::onnx
