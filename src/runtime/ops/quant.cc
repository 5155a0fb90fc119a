// QuantizeLinear, DequantizeLinear (per tensor, per axis, blocked) and DynamicQuantizeLinear; the integer products are in quant_product.cc.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "runtime/cpu/convert_floats.h"
#include "runtime/cpu/quant_rows.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/quant_product.h"
#include "runtime/ops/quant_values.h"

namespace forebay::ops {
namespace {

// Which scale belongs to an element.
struct ScaleMap {
  std::int64_t inner = 1, axis = 1, block = 0, scale_axis = 1;
  bool single = true;
  std::int64_t index(std::int64_t i) const {
    if (single) return 0;
    const std::int64_t a = i / inner % axis;
    return block == 0 ? a : (i / (inner * axis) * scale_axis + a / block) * inner + i % inner;
  }
};

Result<ScaleMap> scale_map(const NodeView& node, const Shape& x, const Shape& scale) {
  ScaleMap map;
  const std::int64_t block = node.integer("block_size", 0);
  if (block == 0 && scale.elements() == 1) return map;
  FB_ASSIGN(const int axis, normalize_axis(node, node.integer("axis", 1), x.rank()));
  map.single = false;
  map.axis = x[axis];
  map.inner = x.elements(axis + 1, x.rank());
  map.block = block;
  // Above that, blocks times their size could wrap round and an empty scale would fit.
  if (block < 0 || block > (std::int64_t{1} << 30)) return node.invalid("block_size is " + std::to_string(block));
  if (block == 0) {
    if (scale.rank() != 1 || scale[0] != x[axis]) return node.invalid("the scale " + scale.to_string() + " does not have one value for each of " + std::to_string(x[axis]));
    return map;
  }
  bool fits = scale.rank() == x.rank();
  for (int i = 0; fits && i < x.rank(); ++i) fits = scale[i] == (i == axis ? (x[i] + block - 1) / block : x[i]);
  if (!fits) return node.invalid("the scale " + scale.to_string() + " does not fit blocks of " + std::to_string(block) + " of " + x.to_string());
  map.scale_axis = scale[axis];
  return map;
}

// The tensor as rows of elements that lie side by side, each with one scale or with a list of them.
struct RowMap {
  std::int64_t rows = 1, columns = 1,
               per_slab_row = 1;  // rows for each index of the outermost axis
  std::int64_t axis = 1, scale_axis = 1, block = 0;
  std::int64_t col_block = 1, col_stride = 0;
  bool single = true, innermost = false;

  RowMap() = default;
  RowMap(const ScaleMap& map, const Shape& x, const Shape& scale)
      : axis(map.axis), scale_axis(map.scale_axis), block(map.block), single(map.single) {
    const std::int64_t count = x.elements(), outermost = x.rank() > 0 ? x[0] : 1;
    innermost = !single && map.inner == 1;
    columns = single ? (outermost > 0 ? count / outermost : 0) : innermost ? map.axis : map.inner;
    if (single && x.rank() < 2) columns = count;
    rows = columns > 0 ? count / columns : 0;
    per_slab_row = outermost > 0 ? std::max<std::int64_t>(1, rows / outermost) : 1;
    col_stride = single || (!innermost && block == 0) || scale.elements() == 0 ? 0 : 1;
    col_block = innermost && block > 0 ? block
                : col_stride != 0      ? 1
                                       : std::max<std::int64_t>(1, columns);
  }
  std::int64_t first_scale(std::int64_t row) const {
    if (single) return 0;
    if (innermost) return block == 0 ? 0 : row * scale_axis;
    return block == 0 ? row % axis : (row / axis * scale_axis + row % axis / block) * columns;
  }
};

class LinearQuant final : public Kernel {
 public:
  explicit LinearQuant(bool quantizes) : quantizes_(quantizes) {}
  std::string_view id() const override { return "cpu.quant.linear"; }
  Status prepare(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape(), scale = context.inputs[1].shape();
    FB_ASSIGN(map_, scale_map(context.node, x, scale));
    if (context.inputs.size() > 2 && context.inputs[2].present() && context.inputs[2].shape().elements() != scale.elements()) {
      return context.node.invalid("zero points " + dims_text(context.inputs[2].dims) + " do not fit the scale " + scale.to_string());
    }
    saturate_ = context.node.integer("saturate", 1) != 0;
    const bool shifted = context.inputs.size() > 2 && context.inputs[2].present();
    by_rows_ = !quantizes_ && cpu::quant_code_dtype(context.inputs[0].dtype) &&
               narrow_float(context.inputs[1].dtype) && narrow_float(context.outputs[0].dtype) &&
               (!shifted || cpu::quant_code_dtype(context.inputs[2].dtype));
    if (by_rows_) rows_ = RowMap(map_, x, context.inputs[1].shape());
    if (context.sliced_input != plan::kNone && (!by_rows_ || context.sliced_input != 0))
      return context.node.unsupported("this operand in slabs");
    return {};
  }
  Status run(const KernelCall& call) override {
    if (by_rows_) return run_rows(call);
    const ConstTensorView &x = call.inputs[0], &scale = call.inputs[1];
    const bool shifted = call.inputs.size() > 2 && call.inputs[2].present();
    const TensorView& y = call.outputs[0];
    // Ranges start at whole bytes also for sub-byte types.
    const std::int64_t count = x.shape.elements(), unit = 64, units = (count + unit - 1) / unit;
    call.pool->parallel_for(units, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin * unit; i < std::min(count, end * unit); ++i) {
        const std::int64_t at = map_.index(i);
        const double zero = shifted ? load_number(call.inputs[2].dtype, call.inputs[2].data, at) : 0.0;
        const double factor = load_number(scale.dtype, scale.data, at), value = load_number(x.dtype, x.data, i);
        if (!quantizes_) {
          store_number(y.dtype, y.data, i, static_cast<double>(static_cast<float>(value - zero) * static_cast<float>(factor)));
          continue;
        }
        const auto divided = static_cast<double>(static_cast<float>(value) / static_cast<float>(factor));
        const bool whole = dtype_is_integer(y.dtype);
        store_number(y.dtype, y.data, i, whole ? std::nearbyint(divided) + zero : divided + 0.0, saturate_);
      }
    });
    return {};
  }

 private:
  Status run_rows(const KernelCall& call) const {
    constexpr std::int64_t kPiece = 1024;
    const ConstTensorView &x = call.inputs[0], &scale = call.inputs[1];
    const TensorView& y = call.outputs[0];
    cpu::QuantView view;
    view.data = x.data;
    view.dtype = x.dtype;
    view.stride = rows_.columns;
    view.col_block = rows_.col_block;
    view.scale = {scale.data, scale.dtype, 0, rows_.col_stride, 0};
    if (call.inputs.size() > 2 && call.inputs[2].present())
      view.zero = {call.inputs[2].data, call.inputs[2].dtype, 0, rows_.col_stride, 0};
    const std::int64_t first = call.row_begin * rows_.per_slab_row,
                       count = rows_.columns > 0 ? x.shape.elements() / rows_.columns : 0;
    const std::int64_t pieces = (rows_.columns + kPiece - 1) / kPiece,
                       size = dtype_bits(y.dtype) / 8;
    const cpu::InstructionSet set = cpu::cpu_instruction_set();
    call.pool->parallel_for(count * pieces, 16, [&](std::int64_t begin, std::int64_t end) {
      float values[kPiece];
      cpu::QuantView mine = view;
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = i / pieces, at = i % pieces * kPiece,
                           n = std::min(kPiece, rows_.columns - at);
        mine.scale.origin = mine.zero.origin = -rows_.first_scale(first + row);
        cpu::dequant_row(set, mine, row, at, n, values);
        cpu::from_f32(y.dtype, values, n, y.data + ((first + row) * rows_.columns + at) * size,
                      set);
      }
    });
    return {};
  }

  bool quantizes_, saturate_ = true, by_rows_ = false;
  ScaleMap map_;
  RowMap rows_;
};

// Codes may come in slabs of the outermost axis: what they are dequantised by is whole.
plan::Consumption consume_dequantize(const NodeView& node, std::uint32_t input,
                                     std::span<const TypeShape> inputs) {
  const bool rows =
      input == 0 && node.integer("output_dtype", 0) != 11 && inputs[0].has_rank &&
      inputs[0].dims.size() > 1 && cpu::quant_code_dtype(inputs[0].dtype) && inputs.size() > 1 &&
      narrow_float(inputs[1].dtype) &&
      (inputs.size() < 3 || !inputs[2].present() || cpu::quant_code_dtype(inputs[2].dtype));
  return rows ? plan::Consumption::elementwise : plan::Consumption::whole;
}

Status infer_quantize(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape &x = context.input(0), &scale = context.input(1), &zero = context.input(2);
  if (!x.present() || !scale.present()) return node.invalid("an input and a scale are needed");
  if (!kernel_float(x.dtype) && x.dtype != DType::i32) return node.unsupported("an input of type " + std::string(dtype_name(x.dtype)));
  FB_TRY(require_float(node, scale.dtype, "the scale"));
  DType y = zero.present() ? zero.dtype : DType::u8;
  if (const std::int64_t asked = node.integer("output_dtype", 0); asked != 0) {
    const auto named = dtype_of_onnx(asked);
    if (!named || (zero.present() && *named != y)) return node.invalid("output_dtype " + std::to_string(asked) + " does not fit the zero point");
    y = *named;
  }
  if (!quantized_dtype(y)) return node.unsupported("an output of type " + std::string(dtype_name(y)));
  same_as_input(context, 0, 0);
  context.output(0).dtype = y;
  return {};
}

Status infer_dequantize(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape &x = context.input(0), &scale = context.input(1), &zero = context.input(2);
  if (!x.present() || !scale.present()) return node.invalid("an input and a scale are needed");
  if (!quantized_dtype(x.dtype) && x.dtype != DType::i32) return node.unsupported("an input of type " + std::string(dtype_name(x.dtype)));
  if (zero.present() && zero.dtype != x.dtype) return node.invalid("the zero point has another type than the input");
  FB_TRY(require_float(node, scale.dtype, "the scale"));
  DType y = scale.dtype;
  if (const std::int64_t asked = node.integer("output_dtype", 0); asked != 0) {
    const auto named = dtype_of_onnx(asked);
    if (!named || !kernel_float(*named)) return node.invalid("output_dtype is " + std::to_string(asked));
    y = *named;
  }
  same_as_input(context, 0, 0);
  context.output(0).dtype = y;
  return {};
}

class DynamicQuant final : public Kernel {
 public:
  std::string_view id() const override { return "cpu.quant.dynamic"; }
  Status run(const KernelCall& call) override {
    const auto* x = reinterpret_cast<const float*>(call.inputs[0].data);
    const std::int64_t count = call.inputs[0].shape.elements();
    float low = 0, high = 0;  // the range always holds 0
    for (std::int64_t i = 0; i < count; ++i) {
      low = std::min(low, x[i]);
      high = std::max(high, x[i]);
    }
    const float range = (high - low) / 255.0f, scale = range == 0.0f ? 1.0f : range;
    const float zero = std::clamp(std::nearbyint(0.0f - low / scale), 0.0f, 255.0f);
    auto* y = reinterpret_cast<std::uint8_t*>(call.outputs[0].data);
    call.pool->parallel_for(count, 16384, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) y[i] = static_cast<std::uint8_t>(std::clamp(std::nearbyint(x[i] / scale) + zero, 0.0f, 255.0f));
    });
    if (call.outputs.size() > 1 && call.outputs[1].present()) *reinterpret_cast<float*>(call.outputs[1].data) = scale;
    if (call.outputs.size() > 2 && call.outputs[2].present()) *reinterpret_cast<std::uint8_t*>(call.outputs[2].data) = static_cast<std::uint8_t>(zero);
    return {};
  }
};

Status infer_dynamic(InferContext& context) {
  if (context.input(0).dtype != DType::f32) return context.node().invalid("an f32 input is needed");
  same_as_input(context, 0, 0);
  context.output(0).dtype = DType::u8;
  context.set_output(1, DType::f32, {});
  context.set_output(2, DType::u8, {});
  return {};
}

Result<std::unique_ptr<Kernel>> create_linear(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<LinearQuant>(node.op() == "QuantizeLinear"));
}
Result<std::unique_ptr<Kernel>> create_dynamic(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<DynamicQuant>());
}

}  // namespace

std::span<const OpSpec> quant_ops() {
  constexpr std::int32_t kAll = 0x7fffffff;
  static const OpSpec specs[] = {
      {"", "QuantizeLinear", 10, kAll, kOpNone, 0, infer_quantize, nullptr, create_linear},
      {"", "DequantizeLinear", 10, kAll, kOpNone, 0, infer_dequantize, consume_dequantize,
       create_linear},
      {"", "DynamicQuantizeLinear", 11, kAll, kOpNone, 0, infer_dynamic, nullptr, create_dynamic},
      {"", "MatMulInteger", 10, kAll, kOpNone, 0, infer_integer_matmul, consume_integer_matmul,
       create_integer_matmul},
      {"", "QLinearMatMul", 10, kAll, kOpNone, 0, infer_integer_matmul, consume_integer_matmul,
       create_integer_matmul},
      {"", "ConvInteger", 10, kAll, kOpNone, 0, infer_integer_conv, consume_integer_conv, create_integer_conv},
      {"forebay", "QLinearConv", 1, 1, kOpNone, 0, infer_integer_conv, consume_integer_conv,
       create_integer_conv},
      {"", "QLinearConv", 10, kAll, kOpNone, 0, infer_integer_conv, consume_integer_conv, create_integer_conv},
  };
  return specs;
}

}  // namespace forebay::ops
