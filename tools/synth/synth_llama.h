// Writes a synthetic decoder: safetensors shards, their index, model.onnx. Durable; on failure or cancellation nothing of it stays.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "forebay/builder.h"
#include "synth/decoder_shape.h"

namespace forebay::tools {

struct SynthOptions {
  std::string params = "1B";
  DType dtype = DType::bf16;
  std::uint64_t seed = 0;
  bool all_logits = false;
  std::uint64_t max_shard_bytes = 4ull << 30;
  int threads = 0;  // 0: all
  ProgressFunction progress;
};
struct SynthReport {
  DecoderShape shape;
  std::uint64_t tensor_bytes = 0, tensors = 0;
  std::vector<std::string> files;  // names in the folder
  double seconds = 0;
};

Result<SynthReport> synth_llama(FileSystem& fs, const std::string& folder, const SynthOptions& options);

}  // namespace forebay::tools
