// The sizes of a Llama-like decoder and its tensors in execution order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "forebay/status.h"
#include "forebay/types.h"

namespace forebay::tools {

struct DecoderShape {
  std::int64_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
  std::int64_t layer_parameters() const;
  std::int64_t parameters() const;
};

// "1M", "10M", "100M", "1B", "2B", "4B", "8B", "24B", "32B" are fixed shapes; other counts take the nearest one with more or fewer layers.
Result<DecoderShape> decoder_shape(std::string_view params);

enum class TensorRole : std::uint8_t { embedding, projection, residual_projection, head, norm_gain, rope };

struct DecoderTensor {
  std::string name;
  TensorRole role = TensorRole::projection;
  DType dtype = DType::none;
  std::int64_t rows = 0, columns = 0;  // as stored; a vector has rows 1
  bool input_major = false;            // stored [K,N] rather than [N,K]
  std::int64_t layer = -1;
  std::vector<std::int64_t> dims() const;
  std::uint64_t bytes() const;
};

// Two matrices keep the [K,N] form: the first layer's up projection and the last layer's down projection.
std::vector<DecoderTensor> decoder_tensors(const DecoderShape& shape, DType dtype);

}  // namespace forebay::tools
