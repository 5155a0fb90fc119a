#include "runtime/ops/nn_support.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "runtime/cpu/convert_floats.h"

namespace forebay::ops {
namespace {

bool staged(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }
constexpr std::int64_t kConvertGrain = 16384;

}  // namespace

std::string dims_text(std::span<const std::int64_t> dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (i > 0) text += ",";
    text += dims[i] < 0 ? "?" : std::to_string(dims[i]);
  }
  return text + "]";
}

Status require_float(const NodeView& node, DType dtype, std::string_view what) {
  if (kernel_float(dtype)) return {};
  return node.unsupported(std::string(what) + " has type " + std::string(dtype_name(dtype)) + "; f32, f16, bf16 and f64 are served");
}

void copy_floats(DType from_dtype, const std::byte* from, std::int64_t count, DType to_dtype, std::byte* to) {
  const std::int64_t from_size = dtype_bits(from_dtype) / 8, to_size = dtype_bits(to_dtype) / 8;
  if (from_dtype == to_dtype) {
    std::copy_n(from, count * from_size, to);
    return;
  }
  constexpr std::int64_t kPiece = 256;
  float piece[kPiece];
  for (std::int64_t at = 0; at < count; at += kPiece) {
    const std::int64_t n = std::min(kPiece, count - at);
    cpu::to_f32(from_dtype, from + at * from_size, n, piece);
    cpu::from_f32(to_dtype, piece, n, to + at * to_size);
  }
}

void same_as_input(InferContext& context, std::size_t output, std::size_t from) {
  const TypeShape& input = context.input(from);
  if (input.has_rank) {
    context.set_output(output, input.dtype, input.dims);
  } else {
    context.set_output_unranked(output, input.dtype);
  }
}

Status FloatKernel::prepare(const PrepareContext& context) {
  if (context.inputs.size() > kMostInputs || context.outputs.size() > kMostOutputs) return context.node.unsupported("too many inputs or outputs");
  input_at_.assign(context.inputs.size(), kInPlace);
  output_at_.assign(context.outputs.size(), kInPlace);
  sliced_ = context.sliced_input;
  staged_bytes_ = 0;
  std::int64_t slab_most = 0;
  for (const std::int64_t rows : context.slab_rows) slab_most = std::max(slab_most, rows);
  for (std::size_t i = 0; i < context.inputs.size(); ++i) {
    if (!staged(context.inputs[i].dtype) || (raw_inputs_ >> i & 1u) != 0) continue;
    std::int64_t elements = context.inputs[i].shape().elements();
    if (i == sliced_ && context.inputs[i].dims[0] > 0) elements = elements / context.inputs[i].dims[0] * slab_most;
    input_at_[i] = staged_bytes_;
    staged_bytes_ += float_bytes(elements);
  }
  for (std::size_t i = 0; i < context.outputs.size(); ++i) {
    if (!staged(context.outputs[i].dtype) || (raw_outputs_ >> i & 1u) != 0) continue;
    output_at_[i] = staged_bytes_;
    staged_bytes_ += float_bytes(context.outputs[i].shape().elements());
  }
  scratch_bytes_ = 0;
  return setup(context);
}

Status FloatKernel::run(const KernelCall& call) {
  if (staged_bytes_ == 0) return compute(call);
  std::array<ConstTensorView, kMostInputs> inputs;
  std::array<TensorView, kMostOutputs> outputs;
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    inputs[i] = call.inputs[i];
    if (input_at_[i] == kInPlace) continue;
    auto* wide = reinterpret_cast<float*>(call.workspace + input_at_[i]);
    const ConstTensorView& from = call.inputs[i];
    if (call.slab == 0 || i == sliced_) {
      call.pool->parallel_for(from.shape.elements(), kConvertGrain, [&](std::int64_t begin, std::int64_t end) {
        cpu::to_f32(from.dtype, from.data + begin * 2, end - begin, wide + begin);
      });
    }
    inputs[i].data = reinterpret_cast<const std::byte*>(wide);
    inputs[i].dtype = DType::f32;
  }
  for (std::size_t i = 0; i < call.outputs.size(); ++i) {
    outputs[i] = call.outputs[i];
    if (output_at_[i] == kInPlace) continue;
    outputs[i].data = call.workspace + output_at_[i];
    outputs[i].dtype = DType::f32;
  }
  KernelCall wide_call = call;
  wide_call.inputs = std::span<const ConstTensorView>(inputs.data(), call.inputs.size());
  wide_call.outputs = std::span<const TensorView>(outputs.data(), call.outputs.size());
  wide_call.workspace = call.workspace + staged_bytes_;
  wide_call.workspace_bytes = scratch_bytes_;
  FB_TRY(compute(wide_call));
  if (call.slab + 1 != call.slab_count) return {};
  for (std::size_t i = 0; i < call.outputs.size(); ++i) {
    if (output_at_[i] == kInPlace) continue;
    const TensorView& to = call.outputs[i];
    const auto* wide = reinterpret_cast<const float*>(outputs[i].data);
    call.pool->parallel_for(to.shape.elements(), kConvertGrain, [&](std::int64_t begin, std::int64_t end) {
      cpu::from_f32(to.dtype, wide + begin, end - begin, to.data + begin * 2);
    });
  }
  return {};
}

}  // namespace forebay::ops
