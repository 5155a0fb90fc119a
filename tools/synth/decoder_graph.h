// The decoder as an ONNX model (opset 17, primitive operators), its weights as external data in the safetensors shards.
#pragma once

#include <string>
#include <vector>

#include "synth/decoder_shape.h"
#include "synth/safetensors_layout.h"

namespace forebay::tools {

// Inputs: input_ids [batch, sequence], past_key_values.N.key/value [batch, kv_heads, past_sequence, head_dim]. Outputs: logits (f32, last
// position unless `all_logits`), present.N.key/value. Positions follow from the length of the past.
std::string decoder_model(const DecoderShape& shape, DType dtype, const std::vector<DecoderTensor>& tensors, const CheckpointLayout& layout,
                          bool all_logits);

}  // namespace forebay::tools
