// forebay inspect: what a plan, a shard folder, an ONNX model or a safetensors file holds. Reads headers and tables only.
#include "base/check.h"
#include "codec/chunk_codec.h"
#include "forebay/plan.h"
#include "inspect_plan.h"
#include "json_out.h"
#include "onnx/onnx_model.h"
#include "onnx/tensor_walk.h"
#include "refit/catalog.h"
#include "refit/shard_reader.h"
#include "session.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

json::object source_json(const std::string& name, const SourceTensor& tensor) {
  json::object out;
  out["name"] = name;
  out["dtype"] = dtype_name(tensor.dtype);
  out["shape"] = dims_json(tensor.shape.dims());
  out["bytes"] = tensor.bytes();
  if (tensor.file) {
    out["file"] = tensor.file->name();
    out["offset"] = tensor.offset;
  }
  return out;
}

Status inspect_shards(Session& session, const std::string& folder) {
  FB_ASSIGN(const auto shards, refit::ShardSet::open(posix_file_system(), folder, DirectIo::off));
  const refit::ShardIndex& index = shards->index();
  std::uint64_t raw = 0, stored = 0;
  std::map<std::string, std::uint64_t> codecs;
  for (const refit::ShardChunk& chunk : index.chunks) {
    raw += chunk.raw_bytes;
    stored += chunk.stored_bytes;
    ++codecs[codec::codec_name(chunk.codec)];
  }
  session.result["kind"] = "shards";
  session.result["plan_id"] = to_hex(index.plan_id);
  session.result["weight_set_id"] = to_hex(index.weight_set_id);
  session.result["raw_bytes"] = raw;
  session.result["stored_bytes"] = stored;
  session.result["chunks"] = index.chunks.size();
  json::object codec_counts;
  for (const auto& [name, count] : codecs) codec_counts[name] = count;
  session.result["codecs"] = std::move(codec_counts);
  json::array files, weights;
  for (const auto& file : index.files) files.push_back(json::object{{"name", file.name}, {"bytes", file.bytes}, {"chunks", file.chunk_count}});
  for (const refit::ShardWeight& weight : index.weights) {
    weights.push_back(json::object{{"name", weight.name}, {"dtype", dtype_name(weight.dtype)}, {"shape", dims_json(weight.shape.dims())},
                                   {"bytes", weight.bytes}, {"slabs", weight.part_count}});
  }
  session.result["files"] = std::move(files);
  session.result["weights"] = std::move(weights);
  session.print("shards of plan {}\nweight set {}\n", to_hex(index.plan_id), to_hex(index.weight_set_id));
  session.print("{} files, {} chunks, {} weights; {} raw, {} stored\n", index.files.size(), index.chunks.size(), index.weights.size(),
                format_size(raw), format_size(stored));
  for (const auto& [name, count] : codecs) session.print("  {:<8} {} chunks\n", name, count);
  return {};
}

json::object value_json(const onnx::ValueInfo& value) {
  json::array dims;
  for (const auto& dim : value.dims) {
    if (dim.size >= 0) dims.push_back(dim.size);
    else if (!dim.name.empty()) dims.push_back(json::value(dim.name));
    else dims.push_back(nullptr);
  }
  json::object out{{"name", value.name}, {"dtype", value.unsupported.empty() ? std::string(dtype_name(value.dtype)) : value.unsupported}};
  if (value.has_shape) out["shape"] = std::move(dims);
  return out;
}

Status inspect_model(Session& session, const std::string& path) {
  FB_ASSIGN(onnx::Model model, onnx::read_model(posix_file_system(), path, {}));
  const onnx::Limits limits;
  FB_TRY(onnx::inline_functions(model, limits));
  session.result["kind"] = "onnx";
  session.result["model_bytes"] = model.file_bytes;
  session.result["ir_version"] = model.ir_version;
  session.result["producer"] = model.producer;
  json::object opsets, ops;
  for (const auto& [domain, version] : model.opsets) opsets[domain.empty() ? "ai.onnx" : domain] = version;
  std::map<std::string, std::size_t> counts;
  for (const onnx::Node& node : model.graph.nodes) ++counts[node.domain.empty() ? node.op : node.domain + ":" + node.op];
  for (const auto& [op, count] : counts) ops[op] = count;
  json::array inputs, outputs, tensors;
  for (const auto& value : model.graph.inputs) inputs.push_back(value_json(value));
  for (const auto& value : model.graph.outputs) outputs.push_back(value_json(value));
  std::uint64_t bytes = 0, count = 0;
  onnx::for_each_tensor(model.graph, [&](const std::string& name, const SourceTensor& tensor) {
    tensors.push_back(source_json(name, tensor));
    bytes += tensor.bytes();
    ++count;
  });
  session.print("ONNX model, IR {}, {} nodes, {} tensors of {}\n", model.ir_version, model.graph.nodes.size(), count, format_size(bytes));
  for (const auto& [domain, version] : model.opsets) session.print("  opset {} {}\n", domain.empty() ? "ai.onnx" : domain, version);
  for (const auto& [op, uses] : counts) session.print("  {:<28} {}\n", op, uses);
  session.result["opsets"] = std::move(opsets);
  session.result["ops"] = std::move(ops);
  session.result["inputs"] = std::move(inputs);
  session.result["outputs"] = std::move(outputs);
  session.result["weights_bytes"] = bytes;
  session.result["tensors"] = std::move(tensors);
  return {};
}

Status inspect_catalog(Session& session, const std::string& path) {
  const std::vector<std::string> sources{path};
  FB_ASSIGN(const auto catalog, refit::Catalog::open(posix_file_system(), sources, session.console));
  json::array tensors;
  std::uint64_t bytes = 0;
  for (const std::string& name : catalog->names()) {
    const SourceTensor* tensor = catalog->find(name);
    tensors.push_back(source_json(name, *tensor));
    bytes += tensor->bytes();
    session.print("{:<60} {:<5} {:<20} {}\n", name, dtype_name(tensor->dtype), tensor->shape.to_string(), format_size(tensor->bytes()));
  }
  session.print("{} tensors, {}\n", tensors.size(), format_size(bytes));
  session.result["kind"] = "weights";
  session.result["weights_bytes"] = bytes;
  session.result["tensors"] = std::move(tensors);
  session.result["problems"] = problems_json(catalog->problems());
  return {};
}

}  // namespace

Status run_inspect(Session& session) {
  FileSystem& fs = posix_file_system();
  const std::string& path = session.operand();
  session.result["file"] = path;
  FB_ASSIGN(const bool folder, fs.is_folder(path));
  if (folder) {
    FB_ASSIGN(const bool shards, refit::is_shard_folder(fs, path));
    return shards ? inspect_shards(session, path) : inspect_catalog(session, path);
  }
  if (file_name_of(path) == "forebay.index") return inspect_shards(session, folder_of(path));
  if (path.ends_with(".onnx")) return inspect_model(session, path);
  if (path.ends_with(".safetensors") || path.ends_with(".json")) return inspect_catalog(session, path);
  return inspect_plan(session, path);
}

}  // namespace forebay::tools
