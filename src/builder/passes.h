// The rewrites between import and emission: one a file, each testable alone. Every pass keeps types inferred and producers set, and returns
// how many rewrites it made.
#pragma once

#include <string>
#include <vector>

#include "builder/graph_ir.h"
#include "builder/host_values.h"
#include "builder/type_inference.h"
#include "forebay/logger.h"
#include "runtime/thread_pool.h"

namespace forebay::builder {

struct PassContext {
  Ir& ir;
  const OpRegistry& registry;
  HostValues& host;
  TypeInference& types;  // for nodes that a pass adds
};

// The opset whose meaning nodes made by passes have, whatever the model imports.
inline constexpr std::int32_t kPassOpset = 13;

// pass_cut.cc: makes `inputs` and `outputs` (names of values of the main graph; empty: as they are) the graph's own. Types of values that
// become inputs come from the model's value_infos or inference. invalid_argument with the nearest names; also when another input is still
// needed.
Status pass_cut(PassContext& context, const std::vector<std::string>& inputs, const std::vector<std::string>& outputs);
// pass_dead_code.cc: nodes whose outputs nothing reads, and with them unused tensors.
Result<std::size_t> pass_dead_code(PassContext& context);
// pass_identity.cc: Identity, Dropout at inference, casts to the same type, transposes that move nothing, sums of one.
Result<std::size_t> pass_identity(PassContext& context);
// pass_branch.cc: an If whose condition is known is replaced by the branch taken.
Result<std::size_t> pass_branch(PassContext& context);
// pass_fold.cc: shape arithmetic and scalars become constants of the plan. Afterwards what shape arithmetic reads is a constant wherever it
// can be known, and every source that is still read is a weight.
Result<std::size_t> pass_fold(PassContext& context);
// pass_fold.cc, after everything that reads numbers: a parameter of one element that was folded and then decided nothing is a weight like
// larger ones. Numbers that a fusion has read stay part of the plan, and so does what was computed from them.
std::size_t pass_parameters(PassContext& context);
// pass_common.cc: equal nodes over equal inputs become one; sources at one extent become one.
Result<std::size_t> pass_common(PassContext& context);
// pass_conv_bn.cc: BatchNormalization after Conv or ConvTranspose goes into the weights, as ordinary nodes over them. f32 only.
Result<std::size_t> pass_conv_bn(PassContext& context);
// pass_conv_affine.cc: sums and products with a number, or one per channel, after Conv or ConvTranspose go into the weights likewise. f32
// only.
Result<std::size_t> pass_conv_affine(PassContext& context);
// pass_hard_swish.cc: x * clip(x + 3, 0, 6) / 6 becomes HardSwish. Run pass_fold first: its numbers are constants then. f32 only.
Result<std::size_t> pass_hard_swish(PassContext& context);
// pass_qdq.cc: convolutions and products between DequantizeLinear and QuantizeLinear run in 8-bit
// integers with exact sums. Run before pass_quant.
Result<std::size_t> pass_qdq(PassContext& context);
// pass_quant.cc: products and gathers of dequantised weights read the packed weight. Run before
// pass_linear.
Result<std::size_t> pass_quant(PassContext& context);
// pass_activation.cc: GELU (erf, tanh), SiLU, QuickGelu, Mish and x * HardSigmoid(x) written out become one node. After pass_fold.
Result<std::size_t> pass_activation(PassContext& context);
// pass_norm.cc: layer and RMS normalisation written out become LayerNormalization and RMSNormalization. After pass_fold.
Result<std::size_t> pass_norm(PassContext& context);
// pass_select.cc: Gather of one element and Squeeze go in front of a Transpose. Before passes that look for heads.
Result<std::size_t> pass_select(PassContext& context);
// pass_attention.cc: softmax attention written out becomes forebay.Attention. After pass_fold.
Result<std::size_t> pass_attention(PassContext& context);
// pass_moves.cc: chains of transposes and views of known sizes, with products of rows between them, become one each where that moves less.
// After pass_attention.
Result<std::size_t> pass_moves(PassContext& context);
// pass_attention_heads.cc: transposes around forebay.Attention go away. After pass_attention.
Result<std::size_t> pass_attention_heads(PassContext& context);
// pass_linear.cc: MatMul of a transposed weight reads it as it lies: forebay.Linear or FusedMatMul
// where this build has it, else Gemm for rank 2.
Result<std::size_t> pass_linear(PassContext& context);

// pass_rotary.cc: rotary positions written out (rotated halves) become forebay.RotateHalf. After pass_fold.
Result<std::size_t> pass_rotary(PassContext& context);
// pass_skip_norm.cc: a sum before a LayerNormalization or RMSNormalization goes into it. After pass_norm and pass_epilogue.
Result<std::size_t> pass_skip_norm(PassContext& context);
// pass_epilogue.cc: a bias and an activation behind MatMul, Gemm, Linear or Conv go into forebay.Linear and forebay.Conv. After
// pass_linear.
Result<std::size_t> pass_epilogue(PassContext& context);
// pass_quant_conv.cc: convolutions by dequantised weights read the packed weight. After pass_epilogue.
Result<std::size_t> pass_quant_conv(PassContext& context);

// pass_siblings.cc: products of one value by weights are executed one behind the other. After everything that makes products.
Result<std::size_t> pass_siblings(PassContext& context);

// pass_patches.cc: Conv of 16-bit patches side by side, made rows behind it, becomes forebay.Linear. After pass_epilogue, before pass_nhwc.
Result<std::size_t> pass_patches(PassContext& context);
// pass_nhwc.cc: images of f16 and bf16 between convolutions have their channels together, for devices that read them in runs. After
// pass_epilogue.
Result<std::size_t> pass_nhwc(PassContext& context);

}  // namespace forebay::builder
