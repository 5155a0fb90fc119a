#include "support/onnx_maker.h"

#include <cstring>

#include "base/checked.h"
#include "base/file.h"
#include "onnx_wire.pb.h"
#include "support/temp_folder.h"

namespace forebay::test {

struct OnnxMaker::Rep {
  onnx_wire::ModelProto model;
  std::map<std::string, std::string> external;
};

int onnx_type(DType dtype) {
  switch (dtype) {
    case DType::none: return 0;
    case DType::f32: return 1;
    case DType::u8: return 2;
    case DType::i8: return 3;
    case DType::u16: return 4;
    case DType::i16: return 5;
    case DType::i32: return 6;
    case DType::i64: return 7;
    case DType::boolean: return 9;
    case DType::f16: return 10;
    case DType::f64: return 11;
    case DType::u32: return 12;
    case DType::u64: return 13;
    case DType::bf16: return 16;
    case DType::f8e4m3fn: return 17;
    case DType::f8e4m3fnuz: return 18;
    case DType::f8e5m2: return 19;
    case DType::f8e5m2fnuz: return 20;
    case DType::u4: return 21;
    case DType::i4: return 22;
    case DType::f4e2m1: return 23;
    case DType::f8e8m0: return 24;
    case DType::u2: return 25;
    case DType::i2: return 26;
  }
  return 0;
}

namespace {

void describe(onnx_wire::ValueInfoProto& info, const std::string& name, DType dtype, const std::vector<MakerDim>& dims) {
  info.set_name(name);
  auto* type = info.mutable_type()->mutable_tensor_type();
  type->set_elem_type(onnx_type(dtype));
  auto* shape = type->mutable_shape();
  for (const MakerDim& dim : dims) {
    auto* out = shape->add_dim();
    if (!dim.name.empty()) {
      out->set_dim_param(dim.name);
    } else if (dim.size >= 0) {
      out->set_dim_value(dim.size);
    }
  }
}

template <typename T, typename Add>
void add_all(const HostTensor& tensor, Add add) {
  for (const T value : tensor.as<T>()) add(value);
}

void fill_typed(onnx_wire::TensorProto& proto, const HostTensor& tensor) {
  const auto int32 = [&](auto value) { proto.add_int32_data(static_cast<std::int32_t>(value)); };
  switch (tensor.dtype()) {
    case DType::f32: return add_all<float>(tensor, [&](float v) { proto.add_float_data(v); });
    case DType::f64: return add_all<double>(tensor, [&](double v) { proto.add_double_data(v); });
    case DType::i64: return add_all<std::int64_t>(tensor, [&](std::int64_t v) { proto.add_int64_data(v); });
    case DType::u64: return add_all<std::uint64_t>(tensor, [&](std::uint64_t v) { proto.add_uint64_data(v); });
    case DType::u32: return add_all<std::uint32_t>(tensor, [&](std::uint32_t v) { proto.add_uint64_data(v); });
    case DType::i32: return add_all<std::int32_t>(tensor, int32);
    case DType::i16: return add_all<std::int16_t>(tensor, int32);
    case DType::u16:
    case DType::f16:
    case DType::bf16: return add_all<std::uint16_t>(tensor, int32);
    case DType::i8: return add_all<std::int8_t>(tensor, int32);
    default: return add_all<std::uint8_t>(tensor, int32);  // one byte, or several packed elements
  }
}

onnx_wire::AttributeProto& add_attribute(onnx_wire::NodeProto& node, const std::string& name, int type) {
  auto* attribute = node.add_attribute();
  attribute->set_name(name);
  attribute->set_type(type);
  return *attribute;
}

template <typename Proto>
onnx_wire::NodeProto* add_node(Proto& to, const std::string& op, const std::vector<std::string>& inputs,
                               const std::vector<std::string>& outputs, const std::string& domain) {
  onnx_wire::NodeProto* const node = to.add_node();
  node->set_op_type(op);
  for (const std::string& input : inputs) node->add_input(input);
  for (const std::string& output : outputs) node->add_output(output);
  if (!domain.empty()) node->set_domain(domain);
  return node;
}

}  // namespace

NodeMaker& NodeMaker::name(const std::string& name) {
  node_->set_name(name);
  return *this;
}
NodeMaker& NodeMaker::overload(const std::string& overload) {
  node_->set_overload(overload);
  return *this;
}
NodeMaker& NodeMaker::set(const std::string& name, std::int64_t value) {
  add_attribute(*node_, name, 2).set_i(value);
  return *this;
}
NodeMaker& NodeMaker::set(const std::string& name, float value) {
  add_attribute(*node_, name, 1).set_f(value);
  return *this;
}
NodeMaker& NodeMaker::set(const std::string& name, const std::string& value) {
  add_attribute(*node_, name, 3).set_s(value);
  return *this;
}
NodeMaker& NodeMaker::set(const std::string& name, const std::vector<std::int64_t>& values) {
  auto& attribute = add_attribute(*node_, name, 7);
  for (const std::int64_t value : values) attribute.add_ints(value);
  return *this;
}
NodeMaker& NodeMaker::set(const std::string& name, const std::vector<float>& values) {
  auto& attribute = add_attribute(*node_, name, 6);
  for (const float value : values) attribute.add_floats(value);
  return *this;
}
NodeMaker& NodeMaker::set(const std::string& name, const std::vector<std::string>& values) {
  auto& attribute = add_attribute(*node_, name, 8);
  for (const std::string& value : values) attribute.add_strings(value);
  return *this;
}
NodeMaker& NodeMaker::set(const std::string& name, const HostTensor& tensor, Store store) {
  maker_->fill(*add_attribute(*node_, name, 4).mutable_t(), tensor, store);
  return *this;
}
NodeMaker& NodeMaker::ref(const std::string& name, const std::string& function_attribute) {
  add_attribute(*node_, name, 0).set_ref_attr_name(function_attribute);
  return *this;
}
GraphMaker NodeMaker::body(const std::string& name) {
  auto* const graph = add_attribute(*node_, name, 5).mutable_g();
  graph->set_name(name);
  return GraphMaker(*maker_, graph);
}

void GraphMaker::input(const std::string& name, DType dtype, const std::vector<MakerDim>& dims) {
  describe(*graph_->add_input(), name, dtype, dims);
}
void GraphMaker::output(const std::string& name, DType dtype, const std::vector<MakerDim>& dims) {
  describe(*graph_->add_output(), name, dtype, dims);
}
void GraphMaker::output(const std::string& name) { graph_->add_output()->set_name(name); }
void GraphMaker::value_info(const std::string& name, DType dtype, const std::vector<MakerDim>& dims) {
  describe(*graph_->add_value_info(), name, dtype, dims);
}
void GraphMaker::initializer(const std::string& name, const HostTensor& tensor, Store store) {
  auto* const proto = graph_->add_initializer();
  proto->set_name(name);
  maker_->fill(*proto, tensor, store);
}
void GraphMaker::initializer_i64(const std::string& name, const std::vector<std::int64_t>& values) {
  HostTensor tensor(DType::i64, Shape{static_cast<std::int64_t>(values.size())});
  if (!values.empty()) std::memcpy(tensor.data(), values.data(), values.size() * 8);
  initializer(name, tensor);
}
void GraphMaker::initializer_external(const std::string& name, DType dtype, const std::vector<std::int64_t>& dims,
                                      const std::vector<std::pair<std::string, std::string>>& keys) {
  auto* const proto = graph_->add_initializer();
  proto->set_name(name);
  proto->set_data_type(onnx_type(dtype));
  for (const std::int64_t dim : dims) proto->add_dims(dim);
  proto->set_data_location(1);
  for (const auto& [key, value] : keys) {
    auto* const entry = proto->add_external_data();
    entry->set_key(key);
    entry->set_value(value);
  }
}
NodeMaker GraphMaker::node(const std::string& op, const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
                           const std::string& domain) {
  return NodeMaker(*maker_, add_node(*graph_, op, inputs, outputs, domain));
}
NodeMaker GraphMaker::constant(const std::string& output, const HostTensor& tensor, Store store) {
  NodeMaker made = node("Constant", {}, {output});
  made.set("value", tensor, store);
  return made;
}

NodeMaker FunctionMaker::node(const std::string& op, const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
                              const std::string& domain) {
  return NodeMaker(*maker_, add_node(*function_, op, inputs, outputs, domain));
}
FunctionMaker& FunctionMaker::opset(int version, const std::string& domain) {
  auto* const opset = function_->add_opset_import();
  opset->set_domain(domain);
  opset->set_version(version);
  return *this;
}
FunctionMaker& FunctionMaker::overload(const std::string& overload) {
  function_->set_overload(overload);
  return *this;
}
FunctionMaker& FunctionMaker::attributes(const std::vector<std::string>& names) {
  for (const std::string& name : names) function_->add_attribute(name);
  return *this;
}
FunctionMaker& FunctionMaker::attribute_default(const std::string& name, std::int64_t value) {
  auto* const attribute = function_->add_attribute_proto();
  attribute->set_name(name);
  attribute->set_type(2);
  attribute->set_i(value);
  return *this;
}

OnnxMaker::OnnxMaker(int opset, int ir) : rep_(std::make_unique<Rep>()) {
  rep_->model.set_ir_version(ir);
  rep_->model.set_producer_name("forebay tests");
  rep_->model.mutable_graph()->set_name("main");
  import("", opset);
}
OnnxMaker::~OnnxMaker() = default;
OnnxMaker::OnnxMaker(OnnxMaker&&) noexcept = default;
OnnxMaker& OnnxMaker::operator=(OnnxMaker&&) noexcept = default;

void OnnxMaker::import(const std::string& domain, int version) {
  auto* const opset = rep_->model.add_opset_import();
  opset->set_domain(domain);
  opset->set_version(version);
}
GraphMaker OnnxMaker::graph() { return GraphMaker(*this, rep_->model.mutable_graph()); }
FunctionMaker OnnxMaker::function(const std::string& domain, const std::string& name, const std::vector<std::string>& inputs,
                                  const std::vector<std::string>& outputs) {
  auto* const function = rep_->model.add_functions();
  function->set_domain(domain);
  function->set_name(name);
  for (const std::string& input : inputs) function->add_input(input);
  for (const std::string& output : outputs) function->add_output(output);
  return FunctionMaker(*this, function);
}
onnx_wire::ModelProto& OnnxMaker::proto() { return rep_->model; }
std::string OnnxMaker::bytes() const { return rep_->model.SerializeAsString(); }
std::map<std::string, std::string>& OnnxMaker::external_files() { return rep_->external; }

void OnnxMaker::write(const std::string& path) const {
  write_file(path, bytes());
  for (const auto& [name, content] : rep_->external) write_file(join_path(folder_of(path), name), content);
}

void OnnxMaker::fill(onnx_wire::TensorProto& proto, const HostTensor& tensor, Store store) {
  proto.set_data_type(onnx_type(tensor.dtype()));
  for (const std::int64_t dim : tensor.shape().dims()) proto.add_dims(dim);
  if (store == Store::typed) return fill_typed(proto, tensor);
  const std::string bytes(reinterpret_cast<const char*>(tensor.data()), tensor.bytes());
  if (store == Store::raw) {
    proto.set_raw_data(bytes);
    return;
  }
  std::string& file = rep_->external["weights.bin"];
  file.resize(align_up(file.size(), kBlockBytes));
  const auto add = [&](const char* key, const std::string& value) {
    auto* const entry = proto.add_external_data();
    entry->set_key(key);
    entry->set_value(value);
  };
  proto.set_data_location(1);
  add("location", "weights.bin");
  add("offset", std::to_string(file.size()));
  add("length", std::to_string(bytes.size()));
  file += bytes;
}

std::string tensor_bytes(const std::string& name, const HostTensor& tensor, Store store) {
  onnx_wire::TensorProto proto;
  proto.set_name(name);
  proto.set_data_type(onnx_type(tensor.dtype()));
  for (const std::int64_t dim : tensor.shape().dims()) proto.add_dims(dim);
  if (store == Store::typed) {
    fill_typed(proto, tensor);
  } else {
    proto.set_raw_data(std::string(reinterpret_cast<const char*>(tensor.data()), tensor.bytes()));
  }
  return proto.SerializeAsString();
}

}  // namespace forebay::test
