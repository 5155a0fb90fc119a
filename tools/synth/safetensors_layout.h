// Where each tensor lies in the shards. The shards are at once the model's external data and a safetensors checkpoint: headers are padded to
// 4 KiB, tensors of 4 KiB multiples come first and so start at block boundaries, the rest follows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "synth/decoder_shape.h"

namespace forebay::tools {

struct ShardLayout {
  std::string name, header;            // header: length, JSON and padding, as written
  std::vector<std::size_t> tensors;    // in file order
  std::vector<std::uint64_t> offsets;  // of each, from the start of the file
  std::uint64_t bytes = 0;             // of the file
};

struct CheckpointLayout {
  std::vector<ShardLayout> shards;
  std::vector<std::pair<std::size_t, std::uint64_t>> places;  // by tensor: shard and offset in its file
  std::string index_json;                                     // model.safetensors.index.json
  std::uint64_t tensor_bytes = 0;
};

CheckpointLayout lay_out(const std::vector<DecoderTensor>& tensors, std::uint64_t max_shard_bytes);

}  // namespace forebay::tools
