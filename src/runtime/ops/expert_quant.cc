// forebay.ExpertQuantLinear, which the builder writes for com.microsoft.QMoE: forebay.ExpertLinear with packed matrices. Codes
// [experts, out, in * bits / 8] lie in bytes, low bits first; each row has one scale, or one for each `block_size` elements. They come in
// slabs of whole experts, scales and zero points with them, and are made into values in registers.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/cpu/convert_floats.h"
#include "runtime/cpu/quant_rows.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

constexpr std::size_t kX = 0, kCodes = 1, kScale = 2, kZero = 3, kIndices = 4, kBias = 5;

bool has(std::span<const TypeShape> inputs, std::size_t i) {
  return i < inputs.size() && inputs[i].present();
}

struct ExpertCodes {
  DType code = DType::none;
  std::int64_t experts = 0, out = 0, in = 0, block = 0, blocks = 1;
  std::int64_t zero_row = 0;  // codes from row to row; 0: rows of an expert lie one after another
};

// Shapes that are not known yet fit.
Result<ExpertCodes> expert_codes(const NodeView& node, std::span<const TypeShape> inputs) {
  const TypeShape &codes = inputs[kCodes], &scale = inputs[kScale];
  const std::int64_t bits = node.integer("bits", 4), block = node.integer("block_size", 0);
  if (bits != 2 && bits != 4 && bits != 8) return node.unsupported("experts of " + std::to_string(bits) + " bits; 2, 4 and 8 are served");
  if (block != 0 && (block < 16 || block > (std::int64_t{1} << 30) || (block & (block - 1)) != 0))
    return node.invalid("block_size is " + std::to_string(block) + ", not a power of two of at least 16");
  if (codes.dtype != DType::u8) return node.unsupported("experts' codes of type " + std::string(dtype_name(codes.dtype)));
  if (!codes.known() || !scale.known() || (has(inputs, kZero) && !inputs[kZero].known()))
    return node.unsupported("the shapes of codes, scales and zero points must be known");
  if (codes.dims.size() != 3) return node.invalid("experts' codes " + dims_text(codes.dims) + " must have 3 dimensions");
  ExpertCodes e;
  e.code = bits == 2 ? DType::u2 : bits == 4 ? DType::u4 : DType::u8;
  e.experts = codes.dims[0];
  e.out = codes.dims[1];
  e.in = codes.dims[2] * 8 / bits;
  e.block = block != 0 ? block : std::max<std::int64_t>(1, e.in);
  if (e.in % e.block != 0)
    return node.invalid(std::to_string(e.in) + " values of a row are no multiple of block_size " + std::to_string(block));
  e.blocks = block != 0 ? e.in / block : 1;
  std::vector<std::int64_t> wanted{e.experts, e.out}, zeros{e.experts, (e.out * bits + 7) / 8};
  if (block != 0) {
    wanted.push_back(e.blocks);
    zeros = {e.experts, e.out, (e.blocks * bits + 7) / 8};
    e.zero_row = zeros[2] * 8 / bits;
  }
  if (scale.dims != wanted) return node.invalid("scales " + dims_text(scale.dims) + " are not " + dims_text(wanted));
  if (has(inputs, kZero) && (inputs[kZero].dtype != DType::u8 || inputs[kZero].dims != zeros))
    return node.invalid("zero points " + dims_text(inputs[kZero].dims) + " are not u8 " + dims_text(zeros));
  return e;
}

Status infer_expert_quant(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(need_arity(context, 5, 6));
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) inputs.push_back(context.input(i));
  for (const std::size_t i : {kX, kScale, kBias}) {
    if (i == kBias && !has(inputs, i)) continue;
    if (!has(inputs, i)) return node.invalid("input " + std::to_string(i) + " is missing");
    if (!narrow_float(inputs[i].dtype))
      return node.unsupported("input " + std::to_string(i) + " has type " + std::string(dtype_name(inputs[i].dtype)));
  }
  FB_ASSIGN(const ExpertCodes e, expert_codes(node, inputs));
  const TypeShape &x = inputs[kX], &indices = inputs[kIndices];
  if (indices.dtype != DType::i32) return node.invalid("indices must be i32");
  if (x.has_rank && (x.dims.empty() || (x.dims.back() >= 0 && x.dims.back() != e.in)))
    return node.invalid("experts of rows of " + std::to_string(e.in) + " values do not fit rows of " + dims_text(x.dims));
  if (has(inputs, kBias) && inputs[kBias].known() && inputs[kBias].dims != std::vector<std::int64_t>{e.experts, e.out})
    return node.invalid("experts' bias " + dims_text(inputs[kBias].dims));
  const bool known = indices.has_rank && indices.dims.size() == 2;
  context.set_output(0, x.dtype, {known ? indices.dims[0] : -1, known ? indices.dims[1] : -1, e.out});
  return {};
}

plan::Consumption consume_expert_quant(const NodeView&, std::uint32_t input, std::span<const TypeShape>) {
  return input >= kCodes && input <= kZero ? plan::Consumption::by_output : plan::Consumption::whole;
}

class ExpertQuantLinear final : public Kernel {
 public:
  std::string_view id() const override { return "cpu.expert_quant_linear"; }
  std::uint64_t workspace_bytes() const override { return bytes_; }
  Status prepare(const PrepareContext& context) override {
    FB_ASSIGN(e_, expert_codes(context.node, context.inputs));
    set_ = cpu::cpu_instruction_set();
    const auto &x = context.inputs[kX].dims, &y = context.outputs[0].dims;
    pairs_ = y[0] * y[1];
    const std::int64_t rows = e_.in > 0 ? context.inputs[kX].shape().elements() / e_.in : pairs_;
    if (rows != pairs_ && rows != y[0])
      return context.node.invalid("rows " + dims_text(x) + " and indices " + dims_text(context.inputs[kIndices].dims) +
                                  " differ in number");
    per_row_ = rows == pairs_ ? 1 : y[1];
    scratch_each_ = (cpu::quant_row_dot_scratch(cpu::kGemvRows, e_.in) + 15) / 16 * 16;
    x_at_ = float_bytes(pairs_, sizeof(std::int32_t));
    y_at_ = x_at_ + float_bytes(cpu::kGemvRows * e_.in);
    scratch_at_ = y_at_ + float_bytes(cpu::kGemvRows * e_.out);
    bytes_ = scratch_at_ + float_bytes(scratch_each_ * context.pool->threads());
    return {};
  }
  // An expert's rows go together, eight at a time: each of its values is made once for them.
  Status run(const KernelCall& call) override {
    const auto* indices = reinterpret_cast<const std::int32_t*>(call.inputs[kIndices].data);
    const std::int64_t first = call.row_begin, last = first + call.inputs[kCodes].shape[0];
    if (call.slab == 0) std::fill_n(call.outputs[0].data, pairs_ * e_.out * dtype_bits(call.outputs[0].dtype) / 8, std::byte{0});
    auto* mine = reinterpret_cast<std::int32_t*>(call.workspace);
    for (std::int64_t expert = first; expert < last; ++expert) {
      std::int64_t count = 0;
      for (std::int64_t pair = 0; pair < pairs_; ++pair)
        if (indices[pair] == expert) mine[count++] = static_cast<std::int32_t>(pair);
      if (count == 0) continue;
      const cpu::QuantView matrix = view(call, expert, expert - first);
      for (std::int64_t at = 0; at < count; at += cpu::kGemvRows)
        multiply(call, matrix, expert, mine + at, std::min(cpu::kGemvRows, count - at));
    }
    return {};
  }

 private:
  // `local` counts from the slab's first expert; what is not cut counts from the first of all.
  cpu::QuantView view(const KernelCall& call, std::int64_t expert, std::int64_t local) const {
    const auto of_expert = [&](std::size_t input) {
      const ConstTensorView& from = call.inputs[input];
      const std::int64_t each = from.shape.elements() / std::max<std::int64_t>(1, from.shape[0]) * dtype_bits(from.dtype) / 8;
      return from.data + (from.shape[0] == e_.experts ? expert : local) * each;
    };
    cpu::QuantView matrix;
    matrix.data = of_expert(kCodes);
    matrix.dtype = e_.code;
    matrix.stride = e_.in;
    matrix.col_block = e_.block;
    const std::int64_t column = e_.blocks > 1 ? 1 : 0;
    matrix.scale = {of_expert(kScale), call.inputs[kScale].dtype, e_.blocks, column, 0};
    matrix.zero_default = static_cast<float>(1 << (dtype_bits(e_.code) - 1));
    if (call.inputs[kZero].present()) matrix.zero = {of_expert(kZero), e_.code, e_.zero_row != 0 ? e_.zero_row : 1, column, 0};
    return matrix;
  }

  void multiply(const KernelCall& call, const cpu::QuantView& matrix, std::int64_t expert, const std::int32_t* pairs,
                std::int64_t count) const {
    auto *x = reinterpret_cast<float*>(call.workspace + x_at_), *y = reinterpret_cast<float*>(call.workspace + y_at_);
    const ConstTensorView& rows = call.inputs[kX];
    const std::int64_t size = dtype_bits(rows.dtype) / 8, parts = call.pool->threads();
    for (std::int64_t m = 0; m < count; ++m)
      cpu::to_f32(rows.dtype, rows.data + pairs[m] / per_row_ * e_.in * size, e_.in, x + m * e_.in, set_);
    cpu::GemvTask task;
    task.n = e_.out;
    task.k = e_.in;
    task.x = x;
    task.x_stride = e_.in;
    task.m = count;
    task.y = y;
    task.y_stride = e_.out;
    call.pool->parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        float* scratch = reinterpret_cast<float*>(call.workspace + scratch_at_) + part * scratch_each_;
        cpu::quant_row_dot(set_, matrix, task, e_.out * part / parts, e_.out * (part + 1) / parts, scratch);
      }
    });
    const TensorView& to = call.outputs[0];
    for (std::int64_t m = 0; m < count; ++m) {
      float* row = y + m * e_.out;
      if (call.inputs.size() > kBias && call.inputs[kBias].present()) add_bias(call.inputs[kBias], expert, row);
      cpu::from_f32(to.dtype, row, e_.out, to.data + pairs[m] * e_.out * dtype_bits(to.dtype) / 8, set_);
    }
  }

  void add_bias(const ConstTensorView& bias, std::int64_t expert, float* row) const {
    constexpr std::int64_t kPiece = 256;
    float values[kPiece];
    for (std::int64_t at = 0; at < e_.out; at += kPiece) {
      const std::int64_t n = std::min(kPiece, e_.out - at);
      cpu::to_f32(bias.dtype, bias.data + (expert * e_.out + at) * dtype_bits(bias.dtype) / 8, n, values, set_);
      for (std::int64_t i = 0; i < n; ++i) row[at + i] += values[i];
    }
  }

  ExpertCodes e_;
  cpu::InstructionSet set_ = cpu::InstructionSet::baseline;
  std::int64_t pairs_ = 0, per_row_ = 1, scratch_each_ = 0;
  std::uint64_t x_at_ = 0, y_at_ = 0, scratch_at_ = 0, bytes_ = 0;
};

Result<std::unique_ptr<Kernel>> create_expert_quant(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<ExpertQuantLinear>());
}

constexpr OpSpec kSpecs[] = {
    {.domain = "forebay",
     .name = "ExpertQuantLinear",
     .infer = infer_expert_quant,
     .consume = consume_expert_quant,
     .create = create_expert_quant},
};

}  // namespace

std::span<const OpSpec> expert_quant_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
