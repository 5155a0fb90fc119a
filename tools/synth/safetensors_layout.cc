#include "synth/safetensors_layout.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "base/checked.h"

namespace forebay::tools {
namespace json = boost::json;
namespace {

std::string dtype_word(DType dtype) { return dtype == DType::bf16 ? "BF16" : dtype == DType::f16 ? "F16" : "F32"; }

void finish_shard(const std::vector<DecoderTensor>& tensors, ShardLayout& shard) {
  std::vector<std::size_t> ordered;
  for (const bool whole_blocks : {true, false}) {
    for (const std::size_t t : shard.tensors) {
      if ((tensors[t].bytes() % kBlockBytes == 0) == whole_blocks) ordered.push_back(t);
    }
  }
  shard.tensors = std::move(ordered);
  json::object header;
  header["__metadata__"] = json::object{{"format", "pt"}};
  std::uint64_t at = 0;
  for (const std::size_t t : shard.tensors) {
    json::array dims;
    for (const std::int64_t dim : tensors[t].dims()) dims.push_back(dim);
    header[tensors[t].name] = json::object{{"dtype", dtype_word(tensors[t].dtype)}, {"shape", std::move(dims)},
                                           {"data_offsets", json::array{at, at + tensors[t].bytes()}}};
    at += tensors[t].bytes();
  }
  std::string text = json::serialize(header);
  text.resize(align_up(8 + text.size(), kBlockBytes) - 8, ' ');
  const std::uint64_t length = text.size();
  for (int i = 0; i < 8; ++i) shard.header += static_cast<char>(static_cast<unsigned char>(length >> (8 * i)));
  shard.header += text;
  shard.bytes = shard.header.size();
  for (const std::size_t t : shard.tensors) {
    shard.offsets.push_back(shard.bytes);
    shard.bytes += tensors[t].bytes();
  }
}

}  // namespace

CheckpointLayout lay_out(const std::vector<DecoderTensor>& tensors, std::uint64_t max_shard_bytes) {
  CheckpointLayout layout;
  layout.places.resize(tensors.size());
  std::uint64_t filled = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const std::uint64_t bytes = tensors[t].bytes();
    if (layout.shards.empty() || (filled > 0 && filled + bytes > max_shard_bytes)) {
      layout.shards.emplace_back();
      filled = 0;
    }
    layout.shards.back().tensors.push_back(t);
    filled += bytes;
    layout.tensor_bytes += bytes;
  }
  json::object map;
  for (std::size_t s = 0; s < layout.shards.size(); ++s) {
    ShardLayout& shard = layout.shards[s];
    shard.name = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, layout.shards.size());
    finish_shard(tensors, shard);
    for (std::size_t i = 0; i < shard.tensors.size(); ++i) layout.places[shard.tensors[i]] = {s, shard.offsets[i]};
  }
  for (std::size_t t = 0; t < tensors.size(); ++t) map[tensors[t].name] = layout.shards[layout.places[t].first].name;
  json::object index;
  index["metadata"] = json::object{{"total_size", layout.tensor_bytes}};
  index["weight_map"] = std::move(map);
  layout.index_json = json::serialize(index) + "\n";
  return layout;
}

}  // namespace forebay::tools
