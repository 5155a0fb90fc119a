// com.microsoft.GatherBlockQuantized, and forebay.DequantRows: the same without the gather, which
// the builder makes of it so that rows of a large table are fetched as any Gather's. Rows are
// gathered on axis 0 and quantised along the last axis, as exporters write them.
#include <algorithm>
#include <optional>
#include <string>

#include "base/check.h"
#include "runtime/cpu/convert_floats.h"
#include "runtime/cpu/quant_rows.h"
#include "runtime/ops/families.h"
#include "runtime/ops/indices.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/quant_gather.h"
#include "runtime/ops/quant_values.h"

namespace forebay::ops {
namespace {

PackedTable places_of(const NodeView& node) {
  PackedTable places;
  if (node.op() == "DequantRows") {
    places.gathers = false;
    places.scale = 1;
    places.zero = 2;
  }
  return places;
}

// What u8 data holds.
std::optional<DType> code_of(const NodeView& node, DType data) {
  if (data != DType::u8)
    return data == DType::i4 || data == DType::u4 ? std::optional(data) : std::nullopt;
  const std::int64_t bits = node.integer("bits", 4);
  return bits == 4 ? std::optional(DType::u4) : bits == 8 ? std::optional(DType::u8) : std::nullopt;
}

Result<PackedTable> rows_of(const NodeView& node, const TypeShape& data, const TypeShape& scale, const TypeShape& zero) {
  PackedTable rows = places_of(node);
  const auto code = code_of(node, data.dtype);
  if (!code)
    return node.unsupported("data of type " + std::string(dtype_name(data.dtype)) + " with bits " +
                            std::to_string(node.integer("bits", 4)));
  rows.code = *code;
  rows.block = node.integer("block_size", 128);
  if (rows.block < 16 || rows.block > (std::int64_t{1} << 30) || (rows.block & (rows.block - 1)) != 0)
    return node.invalid("block_size is " + std::to_string(rows.block));
  const std::int64_t held = 8 / dtype_bits(rows.code), last = data.dims.back();
  if (last < 0) return node.unsupported("the last axis of the data is not known");
  rows.columns = data.dtype == DType::u8 ? last * held : last;
  rows.blocks = (rows.columns + rows.block - 1) / rows.block;
  if (data.dtype == DType::u8) rows.zero_default = dtype_bits(rows.code) == 4 ? 8.0f : 128.0f;
  if (scale.has_rank && (scale.dims.size() != data.dims.size() ||
                         (scale.dims.back() >= 0 && scale.dims.back() != rows.blocks))) {
    return node.invalid("the scales " + dims_text(scale.dims) + " are not one for each block of " +
                        dims_text(data.dims));
  }
  rows.zero_stride = data.dtype == DType::u8 ? (rows.blocks + held - 1) / held * held : rows.blocks;
  if (!zero.present()) return rows;
  const std::int64_t zero_last = data.dtype == DType::u8 ? rows.zero_stride / held : rows.blocks;
  if (zero.dtype != data.dtype ||
      (zero.has_rank && (zero.dims.size() != data.dims.size() ||
                         (zero.dims.back() >= 0 && zero.dims.back() != zero_last)))) {
    return node.invalid("the zero points " + dims_text(zero.dims) + " do not fit the data " +
                        dims_text(data.dims));
  }
  return rows;
}

Status infer_rows(InferContext& context) {
  const NodeView& node = context.node();
  const PackedTable at = places_of(node);
  const TypeShape &data = context.input(0), &scale = context.input(at.scale),
                  &zero = context.input(at.zero);
  if (!data.present() || !scale.present()) return node.invalid("data and scales are needed");
  if (at.gathers) FB_TRY(need_input(context, 1, kIndices));
  if (!narrow_float(scale.dtype))
    return node.unsupported("scales of type " + std::string(dtype_name(scale.dtype)));
  if (!data.has_rank || (at.gathers && !context.input(1).has_rank)) {
    context.set_output_unranked(0, scale.dtype);
    return {};
  }
  const auto rank = static_cast<std::int64_t>(data.dims.size());
  if (rank < 2) return node.invalid("data of rank " + std::to_string(rank));
  const std::int64_t gathered = node.integer("gather_axis", 0),
                     quantised = node.integer("quantize_axis", 1);
  if (at.gathers &&
      ((gathered != 0 && gathered != -rank) || (quantised != rank - 1 && quantised != -1))) {
    return node.unsupported(
        "gather_axis " + std::to_string(gathered) + " and quantize_axis " +
        std::to_string(quantised) +
        "; rows gathered on axis 0 and quantised along the last axis are served");
  }
  FB_ASSIGN(const PackedTable rows, rows_of(node, data, scale, zero));
  std::vector<std::int64_t> dims =
      at.gathers ? context.input(1).dims : std::vector<std::int64_t>{data.dims[0]};
  dims.insert(dims.end(), data.dims.begin() + 1, data.dims.end() - 1);
  dims.push_back(rows.columns);
  context.set_output(0, scale.dtype, std::move(dims));
  return {};
}

class DequantRows final : public NamedKernel {
 public:
  DequantRows() : NamedKernel("cpu.packed.rows") {}
  Status prepare(const PrepareContext& context) override {
    FB_ASSIGN(rows_, packed_table(context.node, context.inputs));
    label_ = node_label(context.node);
    return {};
  }
  Status run(const KernelCall& call) override {
    constexpr std::int64_t kPiece = 1024;
    cpu::QuantView view;
    view.data = call.inputs[0].data;
    view.dtype = rows_.code;
    view.stride = rows_.columns;
    view.col_block = rows_.block;
    view.scale = {call.inputs[rows_.scale].data, call.inputs[rows_.scale].dtype, rows_.blocks, 1, 0};
    view.zero_default = rows_.zero_default;
    if (call.inputs.size() > rows_.zero && call.inputs[rows_.zero].present())
      view.zero = {call.inputs[rows_.zero].data, rows_.code, rows_.zero_stride, 1, 0};
    const TensorView& y = call.outputs[0];
    const std::int64_t size = dtype_bits(y.dtype) / 8, count = rows_.gathers ? call.inputs[1].shape.elements() : rows_.table;
    if (rows_.gathers) FB_TRY(check_indices(label_, IndexReader(call.inputs[1]), count, rows_.table));
    const cpu::InstructionSet set = cpu::cpu_instruction_set();
    call.pool->parallel_for(count * rows_.each, 4, [&](std::int64_t begin, std::int64_t end) {
      float values[kPiece];
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t from = rows_.gathers ? IndexReader(call.inputs[1]).at(i / rows_.each, rows_.table) : i / rows_.each;
        for (std::int64_t at = 0; at < rows_.columns; at += kPiece) {
          const std::int64_t n = std::min(kPiece, rows_.columns - at);
          cpu::dequant_row(set, view, from * rows_.each + i % rows_.each, at, n, values);
          cpu::from_f32(y.dtype, values, n, y.data + (i * rows_.columns + at) * size, set);
        }
      }
    });
    return {};
  }

 private:
  PackedTable rows_;
  std::string label_;
};

Result<std::unique_ptr<Kernel>> create_rows(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<DequantRows>());
}

constexpr OpSpec kSpecs[] = {
    {.domain = "com.microsoft",
     .name = "GatherBlockQuantized",
     .infer = infer_rows,
     .create = create_rows},
    {.domain = "forebay",
     .name = "DequantRows",
     .until = 1,
     .infer = infer_rows,
     .create = create_rows},
};

}  // namespace

Result<PackedTable> packed_table(const NodeView& node, std::span<const TypeShape> inputs) {
  const PackedTable at = places_of(node);
  const TypeShape &data = inputs[0], zero = inputs.size() > at.zero ? inputs[at.zero] : TypeShape();
  FB_ASSIGN(PackedTable rows, rows_of(node, data, inputs[at.scale], zero));
  for (std::size_t i = 1; i + 1 < data.dims.size(); ++i) rows.each *= data.dims[i];
  rows.table = data.dims[0];
  const std::int64_t wanted = rows.table * rows.each * rows.blocks, have = inputs[at.scale].shape().elements();
  if (have != wanted) return node.invalid(std::to_string(have) + " scales for " + std::to_string(wanted) + " blocks");
  const std::int64_t zeros = zero.present() ? zero.shape().elements() * dtype_bits(zero.dtype) / dtype_bits(rows.code) : -1;
  if (zeros >= 0 && zeros != rows.table * rows.each * rows.zero_stride)
    return node.invalid("zero points " + dims_text(zero.dims) + " do not fit the data");
  return rows;
}

std::span<const OpSpec> quant_gather_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
