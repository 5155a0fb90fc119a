// Writes ONNX models for tests of every layer, without Python. Example:
//
//   OnnxMaker maker;                                  // IR 8, opset 17
//   auto graph = maker.graph();
//   graph.input("x", DType::f32, {"batch", 4});
//   graph.output("y", DType::f32, {"batch", 8});
//   graph.initializer("w", random_tensor(DType::f32, {4, 8}, 1));
//   graph.node("MatMul", {"x", "w"}, {"y"});
//   maker.write(folder / "model.onnx");
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "forebay/types.h"

namespace forebay::onnx_wire {
class FunctionProto;
class GraphProto;
class ModelProto;
class NodeProto;
class TensorProto;
}  // namespace forebay::onnx_wire

namespace forebay::test {

class OnnxMaker;
class GraphMaker;

enum class Store : std::uint8_t {
  raw,       // raw_data
  typed,     // float_data, int32_data, ... by type
  external,  // appended to "weights.bin" beside the model, 4 KiB aligned
};

// A dimension: a size, or a name.
struct MakerDim {
  MakerDim(int s) : size(s) {}                                  // NOLINT: meant for brace lists
  MakerDim(std::int64_t s) : size(s) {}                         // NOLINT
  MakerDim(const char* n) : name(n) {}                          // NOLINT
  MakerDim(std::string n) : name(std::move(n)) {}               // NOLINT
  std::int64_t size = -1;
  std::string name;
};

// Handles: cheap to copy, valid as long as the OnnxMaker.
class NodeMaker {
 public:
  NodeMaker& name(const std::string& name);
  NodeMaker& overload(const std::string& overload);
  NodeMaker& set(const std::string& name, std::int64_t value);
  NodeMaker& set(const std::string& name, int value) { return set(name, static_cast<std::int64_t>(value)); }
  NodeMaker& set(const std::string& name, float value);
  NodeMaker& set(const std::string& name, const std::string& value);
  NodeMaker& set(const std::string& name, const char* value) { return set(name, std::string(value)); }
  NodeMaker& set(const std::string& name, const std::vector<std::int64_t>& values);
  NodeMaker& set(const std::string& name, const std::vector<float>& values);
  NodeMaker& set(const std::string& name, const std::vector<std::string>& values);
  NodeMaker& set(const std::string& name, const HostTensor& tensor, Store store = Store::raw);
  NodeMaker& ref(const std::string& name, const std::string& function_attribute);
  GraphMaker body(const std::string& name);  // a graph attribute, empty at first
  onnx_wire::NodeProto& proto() { return *node_; }

 private:
  friend class GraphMaker;
  friend class FunctionMaker;
  NodeMaker(OnnxMaker& maker, onnx_wire::NodeProto* node) : maker_(&maker), node_(node) {}
  OnnxMaker* maker_;
  onnx_wire::NodeProto* node_;
};

class GraphMaker {
 public:
  void input(const std::string& name, DType dtype, const std::vector<MakerDim>& dims);
  void output(const std::string& name, DType dtype, const std::vector<MakerDim>& dims);
  void output(const std::string& name);  // type not stated
  void value_info(const std::string& name, DType dtype, const std::vector<MakerDim>& dims);
  void initializer(const std::string& name, const HostTensor& tensor, Store store = Store::raw);
  void initializer_i64(const std::string& name, const std::vector<std::int64_t>& values);  // rank 1
  // External data as given, valid or not; `keys` in order, for example {{"location","w.bin"},{"offset","0"},{"length","64"}}.
  void initializer_external(const std::string& name, DType dtype, const std::vector<std::int64_t>& dims,
                            const std::vector<std::pair<std::string, std::string>>& keys);
  NodeMaker node(const std::string& op, const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
                 const std::string& domain = "");
  NodeMaker constant(const std::string& output, const HostTensor& tensor, Store store = Store::raw);
  onnx_wire::GraphProto& proto() { return *graph_; }

 private:
  friend class OnnxMaker;
  friend class NodeMaker;
  GraphMaker(OnnxMaker& maker, onnx_wire::GraphProto* graph) : maker_(&maker), graph_(graph) {}
  OnnxMaker* maker_;
  onnx_wire::GraphProto* graph_;
};

class FunctionMaker {
 public:
  NodeMaker node(const std::string& op, const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
                 const std::string& domain = "");
  FunctionMaker& opset(int version, const std::string& domain = "");
  FunctionMaker& overload(const std::string& overload);
  // Attributes without default.
  FunctionMaker& attributes(const std::vector<std::string>& names);
  FunctionMaker& attribute_default(const std::string& name, std::int64_t value);

 private:
  friend class OnnxMaker;
  FunctionMaker(OnnxMaker& maker, onnx_wire::FunctionProto* function) : maker_(&maker), function_(function) {}
  OnnxMaker* maker_;
  onnx_wire::FunctionProto* function_;
};

class OnnxMaker {
 public:
  explicit OnnxMaker(int opset = 17, int ir = 8);
  ~OnnxMaker();
  OnnxMaker(OnnxMaker&&) noexcept;
  OnnxMaker& operator=(OnnxMaker&&) noexcept;
  void import(const std::string& domain, int version);  // further opsets
  GraphMaker graph();
  FunctionMaker function(const std::string& domain, const std::string& name, const std::vector<std::string>& inputs,
                         const std::vector<std::string>& outputs);
  onnx_wire::ModelProto& proto();
  std::string bytes() const;
  // Model and external data files. Test failure when it cannot be written.
  void write(const std::string& path) const;
  std::map<std::string, std::string>& external_files();  // by name; Store::external adds to "weights.bin"

 private:
  friend class NodeMaker;
  friend class GraphMaker;
  struct Rep;
  void fill(onnx_wire::TensorProto& proto, const HostTensor& tensor, Store store);
  std::unique_ptr<Rep> rep_;
};

// A serialised TensorProto, as in the folders of backend test data.
std::string tensor_bytes(const std::string& name, const HostTensor& tensor, Store store = Store::raw);
// ONNX's own number of an element type.
int onnx_type(DType dtype);

}  // namespace forebay::test
