// An ONNX file as written: graphs, nodes, tensor records with extents. Payloads above 4 KiB are never loaded: the pre-pass
// (wire_scan.h) replaces them by extents, so a 60 GB model costs megabytes. Protobuf types stay inside src/onnx.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/source_tensor.h"
#include "forebay/status.h"
#include "forebay/types.h"

namespace forebay::onnx {

struct Limits {
  std::uint64_t max_model_bytes = 128 << 20;  // the graph itself, payloads left out; below 2 GiB
  int max_depth = 32;                             // nested graphs
  std::uint64_t max_nodes = 250'000, max_tensors = 250'000;
  std::uint64_t max_name_bytes = 64 * 1024;
};

struct Graph;

struct SparseTensor;  // refused by name

struct Attribute {
  std::string name;
  // monostate: a reference to a function's attribute (`ref`), replaced when functions are inlined.
  std::variant<std::monostate, std::int64_t, float, std::string, std::vector<std::int64_t>, std::vector<float>, std::vector<std::string>,
               SourceTensor, std::shared_ptr<Graph>>
      value;
  std::string ref;
  std::string unsupported;  // non-empty: a kind we do not take ("sparse_tensor", "type_proto", "graphs"); refused when the node is used
};

struct Node {
  std::string name, domain, op, overload;
  std::vector<std::string> inputs, outputs;  // "" absent
  std::vector<Attribute> attributes;
  std::vector<std::string> function_stack;  // innermost last; filled by inlining
};

struct ValueInfo {
  std::string name;
  DType dtype = DType::none;  // none when not stated
  std::string unsupported;    // "sequence", "optional", "map", "string", "sparse"
  bool has_shape = false;
  struct Dim {
    std::int64_t size = -1;
    std::string name;
  };
  std::vector<Dim> dims;
};

struct Graph {
  std::string name;
  std::vector<ValueInfo> inputs, outputs, value_infos;
  std::vector<SourceTensor> initializers;  // checked records; sparse ones are listed in `sparse`
  std::vector<std::string> sparse;
  std::vector<Node> nodes;
};

struct Function {
  std::string domain, name, overload;
  std::vector<std::string> inputs, outputs, attributes;
  std::vector<Attribute> attribute_defaults;
  std::vector<Node> nodes;
  std::vector<std::pair<std::string, std::int64_t>> opsets;
};

struct Model {
  std::string file_name;  // for messages
  std::int64_t ir_version = 0;
  std::string producer;
  std::vector<std::pair<std::string, std::int64_t>> opsets;
  Graph graph;
  std::vector<Function> functions;  // as written; inline_functions expands them
  std::uint64_t file_bytes = 0;
  std::vector<std::string> notes;  // for the log: what was read past, for example checksums of external data
};

// Reads and checks the whole file (structure, every tensor record; external data is opened beneath the model's folder).
// invalid_model, unsupported or corruption with file, tensor and offset.
Result<Model> read_model(FileSystem& fs, const std::string& path, const Limits& limits);
// Expands model-local functions in place (recursively, at most max_depth), renaming inner values uniquely. Node names get the call's name
// as prefix.
Status inline_functions(Model& model, const Limits& limits);
// A serialised TensorProto (test data of backend folders: input_0.pb), up to `max_bytes`.
Result<HostTensor> read_tensor_file(FileSystem& fs, const std::string& path, std::uint64_t max_bytes, std::string* name);

}  // namespace forebay::onnx
