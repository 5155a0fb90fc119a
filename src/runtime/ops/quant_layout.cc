#include "runtime/ops/quant_layout.h"

#include <numeric>
#include <string>

#include "base/check.h"
#include "runtime/cpu/gemm_blocked.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/quant_values.h"

namespace forebay::ops {
namespace {

constexpr std::size_t kWeight = 1, kScale = 2, kZero = 3;
// Attributes of a file: above these no product of theirs could be told from one that has wrapped round.
constexpr std::int64_t kMostBlock = std::int64_t{1} << 30, kMostRows = std::int64_t{1} << 30;

bool present(std::span<const TypeShape> inputs, std::size_t i) {
  return i < inputs.size() && inputs[i].present();
}

Status check_types(const NodeView& node, std::span<const TypeShape> inputs) {
  if (!present(inputs, 0) || !present(inputs, kWeight) || !present(inputs, kScale))
    return node.invalid("A, a weight and its scale are needed");
  for (const std::size_t i : {std::size_t{0}, kScale}) {
    if (!narrow_float(inputs[i].dtype)) {
      return node.unsupported("input " + std::to_string(i) + " has type " +
                              std::string(dtype_name(inputs[i].dtype)) +
                              "; f32, f16 and bf16 are served");
    }
  }
  for (const std::size_t i : {kWeight, kScale}) {
    if (!inputs[i].known())
      return node.unsupported("the shape of input " + std::to_string(i) + " is not known");
  }
  return {};
}

// DequantizeLinear's forms over a matrix.
Status place_scales(const NodeView& node, std::span<const TypeShape> inputs, QuantLayout& layout) {
  const std::vector<std::int64_t>& scale = inputs[kScale].dims;
  const std::int64_t block = node.integer("block_size", 0),
                     count = inputs[kScale].shape().elements();
  FB_ASSIGN(const int axis, normalize_axis(node, node.integer("axis", 1), 2));
  const std::int64_t size = axis == 0 ? layout.rows : layout.columns;
  layout.col_block = std::max<std::int64_t>(1, layout.columns);
  const auto misfit = [&] {
    return node.invalid("the scale " + dims_text(scale) + " does not fit the weight " +
                        dims_text(inputs[kWeight].dims));
  };
  if (block < 0 || block > kMostBlock) return node.invalid("block_size is " + std::to_string(block));
  if (block == 0) {
    if (count == 1) return {};
    if (scale.size() != 1 || scale[0] != size) return misfit();
    layout.scale_row = axis == 0 ? 1 : 0;
    layout.scale_col = axis == 0 ? 0 : 1;
    if (axis == 1) layout.col_block = 1;
    return {};
  }
  const std::int64_t blocks = (size + block - 1) / block,
                     other = axis == 0 ? layout.columns : layout.rows;
  if (scale.size() != 2 || scale[static_cast<std::size_t>(axis)] != blocks ||
      scale[static_cast<std::size_t>(1 - axis)] != other)
    return misfit();
  layout.scale_row = scale[1];
  layout.scale_col = 1;
  (axis == 0 ? layout.row_block : layout.col_block) = block;
  if (axis == 0) layout.col_block = 1;
  return {};
}

Result<QuantLayout> linear_layout(const NodeView& node, std::span<const TypeShape> inputs) {
  const TypeShape& weight = inputs[kWeight];
  if (!cpu::quant_code_dtype(weight.dtype))
    return node.unsupported("a weight of type " + std::string(dtype_name(weight.dtype)));
  if (weight.dims.size() != 2)
    return node.invalid("the weight " + dims_text(weight.dims) + " is not a matrix");
  QuantLayout layout;
  layout.code = weight.dtype;
  layout.value = inputs[0].dtype;
  layout.trans_b = node.integer("transB", 0) != 0;
  layout.rows = weight.dims[0];
  layout.columns = layout.stride = weight.dims[1];
  FB_TRY(place_scales(node, inputs, layout));
  layout.zero_row = layout.scale_row;
  layout.zero_col = layout.scale_col;
  if (present(inputs, kZero)) {
    if (inputs[kZero].dtype != weight.dtype)
      return node.invalid("the zero point has another type than the weight");
    if (inputs[kZero].known() &&
        inputs[kZero].shape().elements() != inputs[kScale].shape().elements()) {
      return node.invalid("zero points " + dims_text(inputs[kZero].dims) +
                          " do not fit the scale " + dims_text(inputs[kScale].dims));
    }
  }
  return layout;
}

std::optional<DType> packed_dtype(std::int64_t bits) {
  if (bits == 4) return DType::u4;
  if (bits == 8) return DType::u8;
  return bits == 2 ? std::optional(DType::u2) : std::nullopt;
}

Result<QuantLayout> nbits_layout(const NodeView& node, std::span<const TypeShape> inputs) {
  const std::int64_t k = node.integer("K", 0), n = node.integer("N", 0),
                     bits = node.integer("bits", 4), block = node.integer("block_size", 0);
  const auto code = packed_dtype(bits);
  if (!code) return node.unsupported("bits is " + std::to_string(bits) + "; 2, 4 and 8 are served");
  if (k < 1 || n < 1 || k > kMostRows || n > kMostRows)
    return node.invalid("K is " + std::to_string(k) + " and N is " + std::to_string(n));
  if (block < 16 || block > kMostBlock || (block & (block - 1)) != 0)
    return node.invalid("block_size is " + std::to_string(block) +
                        ", not a power of two of at least 16");
  if (present(inputs, 4))
    return node.unsupported(
        "g_idx (rows in another order) is not served: export without act_order");
  const std::int64_t blocks = (k + block - 1) / block;
  const TypeShape& weight = inputs[kWeight];
  if (weight.dtype != DType::u8 ||
      weight.dims != std::vector<std::int64_t>{n, blocks, block * bits / 8}) {
    return node.invalid("B " + dims_text(weight.dims) + " of " +
                        std::string(dtype_name(weight.dtype)) +
                        " is not u8 [N, blocks, bytes of a block] = " +
                        dims_text(std::vector<std::int64_t>{n, blocks, block * bits / 8}));
  }
  if (inputs[kScale].shape().elements() != n * blocks)
    return node.invalid("the scales " + dims_text(inputs[kScale].dims) +
                        " are not one for each block");
  QuantLayout layout;
  layout.code = *code;
  layout.trans_b = true;
  layout.rows = n;
  layout.columns = k;
  layout.stride = blocks * block;
  layout.col_block = block;
  layout.scale_row = layout.zero_row = blocks;
  layout.scale_col = layout.zero_col = 1;
  layout.zero_default = static_cast<float>(1 << (bits - 1));
  layout.c_input = 5;
  if (present(inputs, kZero)) {
    const bool packed = inputs[kZero].dtype == DType::u8;
    if (!packed && !narrow_float(inputs[kZero].dtype))
      return node.invalid("zero_points are neither packed u8 nor floats");
    const std::int64_t row_bytes = (blocks * bits + 7) / 8;
    if (packed) layout.zero_row = row_bytes * 8 / bits;
    if (!inputs[kZero].known() ||
        inputs[kZero].shape().elements() != n * (packed ? row_bytes : blocks)) {
      return node.invalid("zero_points " + dims_text(inputs[kZero].dims) +
                          " are not one for each block");
    }
  }
  return layout;
}

}  // namespace

TypeShape QuantLayout::matrix() const {
  TypeShape type;
  type.dtype = value;
  type.has_rank = true;
  type.dims = {rows, columns};
  return type;
}

cpu::QuantView QuantLayout::view(const KernelCall& call, std::span<const TypeShape> whole) const {
  cpu::QuantView view;
  view.data = call.inputs[kWeight].data;
  view.dtype = code;
  view.stride = stride;
  view.first_row = call.row_begin;
  view.row_block = row_block;
  view.col_block = col_block;
  view.zero_default = zero_default;
  view.value = value;
  const auto scales = [&](std::size_t input, std::int64_t row, std::int64_t col) {
    const ConstTensorView& from = call.inputs[input];
    const bool cut = !whole[input].dims.empty() && from.shape[0] != whole[input].dims[0];
    // Packed zero points hold codes.
    const DType dtype = from.dtype == DType::u8 ? code : from.dtype;
    return cpu::QuantScales{from.data, dtype, row, col, cut ? call.row_begin / row_block * row : 0};
  };
  view.scale = scales(kScale, scale_row, scale_col);
  if (call.inputs.size() > kZero && call.inputs[kZero].present())
    view.zero = scales(kZero, zero_row, zero_col);
  return view;
}

bool is_quant_product(std::string_view domain, std::string_view op) {
  return (domain == "forebay" && (op == "QuantLinear" || op == "ExpertQuantLinear")) || (domain == "com.microsoft" && op == "MatMulNBits");
}

Result<QuantLayout> quant_layout(const NodeView& node, std::span<const TypeShape> inputs) {
  FB_TRY(check_types(node, inputs));
  return node.op() == "MatMulNBits" ? nbits_layout(node, inputs) : linear_layout(node, inputs);
}

QuantCut quant_cut(const NodeView& node, std::span<const TypeShape> inputs) {
  QuantCut cut;
  if (!is_quant_product(node.domain(), node.op())) return cut;
  if (node.op() == "ExpertQuantLinear") {  // whole experts, with all that is theirs
    cut.scale_follows = cut.zero_follows = true;
    return cut;
  }
  const Result<QuantLayout> layout = quant_layout(node, inputs);
  if (!layout.ok()) return cut;
  // Sums over [K,N] end where the blocked product would end them, so that a cut changes no bit.
  if (!layout->trans_b) cut.row_unit = cpu::gemm_blocking(cpu::InstructionSet::baseline).kc;
  cut.row_unit = std::lcm(cut.row_unit, layout->row_block);
  const auto follows = [&](std::size_t i) {
    if (!present(inputs, i) || !inputs[i].known() || inputs[i].dims.empty() ||
        layout->rows % layout->row_block != 0)
      return false;
    const std::int64_t blocks = layout->rows / layout->row_block;
    if (!layout->rows_have_scales() || blocks == 0 || inputs[i].dims[0] % blocks != 0) return false;
    if (inputs[i].shape().elements() / blocks * dtype_bits(inputs[i].dtype) % 8 == 0) return true;
    cut.row_unit =
        std::lcm(cut.row_unit, 8 * layout->row_block);  // sub-byte rows end within a byte
    return true;
  };
  cut.scale_follows = follows(kScale);
  cut.zero_follows = follows(kZero);
  return cut;
}

}  // namespace forebay::ops
