#include "onnx/model_convert.h"

#include <climits>
#include <set>
#include <string_view>
#include <utility>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "base/check.h"
#include "base/printable.h"
#include "onnx_wire.pb.h"

namespace forebay::onnx {
namespace {

constexpr std::int64_t kOldestIr = 3, kNewestIr = 14;

// AttributeProto.AttributeType
enum Kind : std::int32_t {
  undefined = 0, single_float = 1, single_int = 2, single_string = 3, tensor = 4, graph = 5, floats = 6, ints = 7, strings = 8,
  tensors = 9, graphs = 10, sparse_tensor = 11, sparse_tensors = 12, type_proto = 13, type_protos = 14,
};

// Models before IR 4 may leave the kind out.
std::int32_t kind_of(const onnx_wire::AttributeProto& proto) {
  if (proto.type() != undefined) return proto.type();
  if (proto.has_f()) return single_float;
  if (proto.has_i()) return single_int;
  if (proto.has_s()) return single_string;
  if (proto.has_t()) return tensor;
  if (proto.has_g()) return graph;
  if (proto.floats_size() != 0) return floats;
  if (proto.ints_size() != 0) return ints;
  if (proto.strings_size() != 0) return strings;
  return undefined;
}

std::string_view unsupported_kind(std::int32_t kind) {
  switch (kind) {
    case tensors: return "tensors";
    case graphs: return "graphs";
    case sparse_tensor: return "sparse_tensor";
    case sparse_tensors: return "sparse_tensors";
    case type_proto: return "type_proto";
    case type_protos: return "type_protos";
    default: return "";
  }
}

std::string called(const Node& node) {
  if (!node.name.empty()) return "node \"" + printable(node.name) + "\" (" + printable(node.op) + ")";
  for (const std::string& output : node.outputs) {
    if (!output.empty()) return "the " + printable(node.op) + " node that makes \"" + printable(output) + "\"";
  }
  return "a node of op " + printable(node.op);
}

template <typename Repeated>
std::vector<std::string> take_strings(Repeated* from) {
  std::vector<std::string> to;
  to.reserve(static_cast<std::size_t>(from->size()));
  for (std::string& text : *from) to.push_back(std::move(text));
  return to;
}

bool set_unsupported_type(const onnx_wire::TypeProto& type, ValueInfo& info) {
  switch (type.value_case()) {
    case onnx_wire::TypeProto::kSequenceType: info.unsupported = "sequence"; return true;
    case onnx_wire::TypeProto::kOptionalType: info.unsupported = "optional"; return true;
    case onnx_wire::TypeProto::kMapType: info.unsupported = "map"; return true;
    case onnx_wire::TypeProto::kSparseTensorType: info.unsupported = "sparse"; return true;
    default: return false;
  }
}

}  // namespace

Status ModelConverter::add(const std::string& piece) {
  onnx_wire::ModelProto proto;
  google::protobuf::io::ArrayInputStream bytes(piece.data(), static_cast<int>(piece.size()));
  google::protobuf::io::CodedInputStream stream(&bytes);
  stream.SetTotalBytesLimit(INT_MAX);
  // Three messages per nested graph, and the types of values below the last.
  stream.SetRecursionLimit(3 * limits_.max_depth + 40);
  if (!proto.MergeFromCodedStream(&stream) || !stream.ConsumedEntireMessage()) {
    return Status(Code::invalid_model, "the description of the graph cannot be parsed (or its types are nested too deeply)")
        .with_file(model_.file_name)
        .with_hint("the file is damaged or not an ONNX model");
  }
  if (proto.has_ir_version()) model_.ir_version = proto.ir_version();
  if (proto.has_producer_name()) model_.producer = proto.producer_name();
  if (proto.has_producer_version()) model_.producer += " " + proto.producer_version();
  for (auto& opset : *proto.mutable_opset_import()) model_.opsets.emplace_back(std::move(*opset.mutable_domain()), opset.version());
  if (proto.has_graph()) {
    has_graph_ = true;
    FB_TRY(add_graph(*proto.mutable_graph(), model_.graph));
  }
  for (auto& from : *proto.mutable_functions()) {
    Function function;
    function.domain = std::move(*from.mutable_domain());
    function.name = std::move(*from.mutable_name());
    function.overload = std::move(*from.mutable_overload());
    function.inputs = take_strings(from.mutable_input());
    function.outputs = take_strings(from.mutable_output());
    function.attributes = take_strings(from.mutable_attribute());
    for (auto& opset : *from.mutable_opset_import()) function.opsets.emplace_back(std::move(*opset.mutable_domain()), opset.version());
    for (auto& fallback : *from.mutable_attribute_proto()) {
      FB_ASSIGN(Attribute taken, attribute(fallback));
      function.attribute_defaults.push_back(std::move(taken));
    }
    for (auto& inner : *from.mutable_node()) {
      FB_ASSIGN(Node taken, node(inner));
      function.nodes.push_back(std::move(taken));
    }
    model_.functions.push_back(std::move(function));
  }
  return {};
}

Status ModelConverter::add_graph(onnx_wire::GraphProto& proto, Graph& graph) {
  if (proto.has_name()) graph.name = std::move(*proto.mutable_name());
  for (const auto& info : proto.input()) FB_TRY(add_value_info(info, graph.inputs));
  for (const auto& info : proto.output()) FB_TRY(add_value_info(info, graph.outputs));
  for (const auto& info : proto.value_info()) FB_TRY(add_value_info(info, graph.value_infos));
  FB_TRY(add_initializers(proto, graph));
  for (auto& inner : *proto.mutable_node()) {
    FB_ASSIGN(Node taken, node(inner));
    graph.nodes.push_back(std::move(taken));
  }
  return {};
}

Status ModelConverter::add_initializers(const onnx_wire::GraphProto& proto, Graph& graph) {
  for (const auto& initializer : proto.initializer()) {
    FB_ASSIGN(TensorFiles::Made made, files_.make(initializer));
    if (made.unsupported.empty()) {
      graph.initializers.push_back(std::move(made.tensor));
      continue;
    }
    Problem problem;
    problem.code = "unsupported_tensor";
    problem.message = "initializer \"" + printable(initializer.name()) + "\" is a " + made.unsupported + ", which is not supported";
    problem.file = model_.file_name;
    problem.tensor = printable(initializer.name());
    if (initializer.forebay_offset_size() != 0) problem.offset = initializer.forebay_offset(0);
    unsupported_.push_back(std::move(problem));
  }
  for (const auto& sparse : proto.sparse_initializer()) graph.sparse.push_back(sparse.values().name());
  return {};
}

Status ModelConverter::add_value_info(const onnx_wire::ValueInfoProto& proto, std::vector<ValueInfo>& to) const {
  ValueInfo info;
  info.name = proto.name();
  if (info.name.size() > limits_.max_name_bytes || !is_utf8(info.name)) {
    return Status(Code::invalid_model, "the name of a value, \"" + printable(info.name) + "\", is too long or not UTF-8")
        .with_file(model_.file_name);
  }
  if (!set_unsupported_type(proto.type(), info) && proto.type().has_tensor_type()) {
    const auto& type = proto.type().tensor_type();
    info.dtype = dtype_from_onnx(type.elem_type()).value_or(DType::none);
    if (info.dtype == DType::none && type.elem_type() != 0) {
      const std::string_view kind = unsupported_onnx_type(type.elem_type());
      info.unsupported = kind.empty() ? "element type " + std::to_string(type.elem_type()) : std::string(kind);
    }
    info.has_shape = type.has_shape();
    for (const auto& dim : type.shape().dim()) {
      // Some exporters write -1 or 0 for "not known"; a size of 0 is kept, it may be meant.
      ValueInfo::Dim taken;
      if (dim.has_dim_value() && dim.dim_value() >= 0) taken.size = dim.dim_value();
      if (dim.has_dim_param()) taken.name = dim.dim_param();
      if (!is_utf8(taken.name))
        return Status(Code::invalid_model, "the name of a dimension of \"" + printable(info.name) + "\" is not UTF-8")
            .with_file(model_.file_name);
      info.dims.push_back(std::move(taken));
    }
  }
  to.push_back(std::move(info));
  return {};
}

Result<Node> ModelConverter::node(onnx_wire::NodeProto& proto) {
  Node taken;
  taken.name = std::move(*proto.mutable_name());
  taken.domain = std::move(*proto.mutable_domain());
  taken.op = std::move(*proto.mutable_op_type());
  taken.overload = std::move(*proto.mutable_overload());
  taken.inputs = take_strings(proto.mutable_input());
  taken.outputs = take_strings(proto.mutable_output());
  std::set<std::string_view> names;
  for (auto& from : *proto.mutable_attribute()) {
    auto converted = attribute(from);
    if (!converted.ok()) {
      Status status = std::move(converted).status();
      if (status.problems().front().node.empty() && status.problems().size() == 1 && !taken.name.empty()) {
        Problem problem = status.problems().front();
        problem.node = printable(taken.name);
        problem.op = printable(taken.op);
        return Status(status.code(), std::move(problem), status.location());
      }
      return status;
    }
    taken.attributes.push_back(std::move(converted).value());
  }
  for (const Attribute& each : taken.attributes) {
    if (!names.insert(each.name).second) {
      Problem problem;
      problem.message = called(taken) + " has the attribute \"" + printable(each.name) + "\" twice";
      problem.file = model_.file_name;
      problem.node = printable(taken.name);
      problem.op = printable(taken.op);
      return Status(Code::invalid_model, std::move(problem));
    }
  }
  return taken;
}

Result<Attribute> ModelConverter::attribute(onnx_wire::AttributeProto& proto) {
  Attribute taken;
  taken.name = std::move(*proto.mutable_name());
  if (proto.has_ref_attr_name()) {
    taken.ref = std::move(*proto.mutable_ref_attr_name());
    return taken;
  }
  const std::int32_t kind = kind_of(proto);
  switch (kind) {
    case single_float: taken.value = proto.f(); break;
    case single_int: taken.value = proto.i(); break;
    case single_string: taken.value = std::move(*proto.mutable_s()); break;
    case floats: taken.value = std::vector<float>(proto.floats().begin(), proto.floats().end()); break;
    case ints: taken.value = std::vector<std::int64_t>(proto.ints().begin(), proto.ints().end()); break;
    case strings: taken.value = take_strings(proto.mutable_strings()); break;
    case tensor: {
      FB_ASSIGN(TensorFiles::Made made, files_.make(proto.t()));
      if (made.unsupported.empty()) {
        taken.value = std::move(made.tensor);
      } else {
        taken.unsupported = std::move(made.unsupported);
      }
      break;
    }
    case graph: {
      auto inner = std::make_shared<Graph>();
      FB_TRY(add_graph(*proto.mutable_g(), *inner));
      taken.value = std::move(inner);
      break;
    }
    default:
      taken.unsupported = unsupported_kind(kind);
      if (taken.unsupported.empty()) taken.unsupported = kind == undefined ? "no value" : "attribute kind " + std::to_string(kind);
  }
  return taken;
}

Status ModelConverter::finish() {
  const auto refuse = [&](Code code, std::string why, std::string_view hint) {
    return Status(code, std::move(why)).with_file(model_.file_name).with_hint(hint);
  };
  if (!has_graph_) return refuse(Code::invalid_model, "the file holds no graph", "the file is cut, empty or not an ONNX model");
  if (model_.ir_version < kOldestIr || model_.ir_version > kNewestIr) {
    return refuse(Code::unsupported,
                  "IR version " + std::to_string(model_.ir_version) + "; versions " + std::to_string(kOldestIr) + " to " +
                      std::to_string(kNewestIr) + " are read",
                  "export the model again, or convert it with onnx.version_converter");
  }
  if (model_.opsets.empty()) return refuse(Code::invalid_model, "the model imports no opset", "the file is cut or not an ONNX model");
  std::set<std::string> domains;
  for (auto& [domain, version] : model_.opsets) {
    if (!domains.insert(domain == "ai.onnx" ? "" : domain).second) {
      return refuse(Code::invalid_model, "the opset of domain \"" + printable(domain) + "\" is imported twice", "");
    }
  }
  FB_TRY(check_graph(model_.graph, false));
  for (const Function& function : model_.functions) FB_TRY(check_nodes(function.nodes, true));
  if (!unsupported_.empty()) {
    std::string summary = unsupported_.size() == 1
                              ? unsupported_.front().message
                              : std::to_string(unsupported_.size()) + " initializers are of kinds that are not supported";
    return Status(Code::unsupported, std::move(summary), std::move(unsupported_));
  }
  return {};
}

Status ModelConverter::check_graph(const Graph& checked, bool in_function) const {
  std::set<std::string_view> names;
  for (const SourceTensor& initializer : checked.initializers) {
    if (initializer.name.empty()) return Status(Code::invalid_model, "an initializer has no name").with_file(model_.file_name);
    if (!names.insert(initializer.name).second) {
      return Status(Code::invalid_model, "two initializers have the name \"" + printable(initializer.name) + "\"")
          .with_file(model_.file_name)
          .with_tensor(printable(initializer.name))
          .with_offset(initializer.offset);
    }
  }
  return check_nodes(checked.nodes, in_function);
}

Status ModelConverter::check_nodes(const std::vector<Node>& nodes, bool in_function) const {
  for (const Node& each : nodes) {
    for (const Attribute& part : each.attributes) {
      if (!part.ref.empty() && !in_function) {
        return Status(Code::invalid_model,
                      called(each) + " refers to the attribute \"" + printable(part.ref) + "\" of a function, and is in none")
            .with_file(model_.file_name);
      }
      if (const auto* body = std::get_if<std::shared_ptr<Graph>>(&part.value)) FB_TRY(check_graph(**body, in_function));
    }
  }
  return {};
}

}  // namespace forebay::onnx
