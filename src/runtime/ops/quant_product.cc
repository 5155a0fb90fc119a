#include "runtime/ops/quant_product.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/cpu/int8_gemm.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/product_plain.h"
#include "runtime/ops/quant_values.h"
#include "runtime/ops/window.h"

namespace forebay::ops {
namespace {

constexpr std::size_t kAbsent = 99;

// Where operands, their scales and zero points stand among the inputs.
struct Roles {
  std::size_t a = 0, a_scale = kAbsent, a_zero = 2, b = 1, b_scale = kAbsent, b_zero = 3, y_scale = kAbsent, y_zero = kAbsent, bias = kAbsent;
};
constexpr Roles kInteger{};
constexpr Roles kScaled{0, 1, 2, 3, 4, 5, 6, 7, 8};
const Roles& roles_of(const NodeView& node) { return node.op() == "QLinearMatMul" || node.op() == "QLinearConv" ? kScaled : kInteger; }

bool byte_type(DType dtype) { return dtype == DType::i8 || dtype == DType::u8; }
bool has(std::span<const TypeShape> inputs, std::size_t i) { return i < inputs.size() && inputs[i].present(); }

std::int32_t byte_at(DType dtype, const std::byte* data, std::int64_t i) {
  return dtype == DType::i8 ? reinterpret_cast<const std::int8_t*>(data)[i] : reinterpret_cast<const std::uint8_t*>(data)[i];
}

// Value i of an optional parameter of one or many values.
double parameter(const KernelCall& call, std::size_t input, std::int64_t i, double otherwise) {
  if (input >= call.inputs.size() || !call.inputs[input].present()) return otherwise;
  const ConstTensorView& view = call.inputs[input];
  return load_number(view.dtype, view.data, view.shape.elements() == 1 ? 0 : i);
}
bool one_value(const KernelCall& call, std::size_t input) {
  return input >= call.inputs.size() || !call.inputs[input].present() ||
         call.inputs[input].shape.elements() == 1;
}

// What one step of the sum is worth in steps of the output.
float output_scale(const KernelCall& call, const Roles& roles, std::int64_t row,
                   std::int64_t column) {
  return static_cast<float>(parameter(call, roles.a_scale, row, 1)) *
         static_cast<float>(parameter(call, roles.b_scale, column, 1)) /
         static_cast<float>(parameter(call, roles.y_scale, row, 1));
}

Status check_types(const NodeView& node, const Roles& roles, std::span<const TypeShape> inputs) {
  for (const std::size_t i : {roles.a, roles.b}) {
    if (!has(inputs, i)) return node.invalid("input " + std::to_string(i) + " is needed");
    if (!byte_type(inputs[i].dtype)) return node.unsupported("an operand of type " + std::string(dtype_name(inputs[i].dtype)));
  }
  if (roles.y_scale != kAbsent && (!has(inputs, roles.y_scale) || !has(inputs, roles.y_zero) || !byte_type(inputs[roles.y_zero].dtype))) {
    return node.invalid("the scale and 8-bit zero point of the output are needed");
  }
  return {};
}

class IntegerMatmul final : public Kernel {
 public:
  explicit IntegerMatmul(const Roles& roles) : roles_(roles), set_(cpu::cpu_instruction_set()) {}
  std::string_view id() const override { return "cpu.product.i8"; }
  std::uint64_t workspace_bytes() const override { return bytes_; }
  Status prepare(const PrepareContext& context) override {
    FB_ASSIGN(layout_, product_layout(context.node, context.inputs[roles_.a], context.inputs[roles_.b], nullptr, {}));
    if (context.sliced_input != plan::kNone &&
        (context.sliced_input != roles_.b ||
         context.consumption != plan::Consumption::by_reduction)) {
      return context.node.unsupported("only the second operand may come in slabs");
    }
    sliced_ = context.sliced_input != plan::kNone;
    batches_ = static_cast<std::int64_t>(layout_.a_offsets.size());
    const auto fits = [&](std::size_t i, std::int64_t whole) {
      return !has(context.inputs, i) || context.inputs[i].shape().elements() == 1 || context.inputs[i].shape().elements() == whole;
    };
    rows_ = batches_ * layout_.m;
    for (const std::size_t i : {roles_.a_scale, roles_.a_zero, roles_.y_scale, roles_.y_zero}) {
      if (!fits(i, rows_)) return context.node.invalid("input " + std::to_string(i) + " has neither one value nor one a row");
    }
    for (const std::size_t i : {roles_.b_scale, roles_.b_zero}) {
      if (!fits(i, layout_.n)) return context.node.invalid("input " + std::to_string(i) + " has neither one value nor one a column");
    }
    const int threads = context.pool->threads();
    stride_ = cpu::int8_a_stride(layout_.k);
    zeros_at_ = float_bytes(rows_ * stride_ + 2, sizeof(std::int16_t));
    scales_at_ = zeros_at_ + float_bytes(layout_.n, sizeof(std::int16_t));
    scratch_at_ = scales_at_ + float_bytes(layout_.n * threads);
    sums_at_ = scratch_at_ + float_bytes(cpu::kInt8Scratch * threads, sizeof(std::int16_t));
    bytes_ = sums_at_ + (roles_.y_scale != kAbsent ? float_bytes(rows_ * layout_.n) : 0);
    return {};
  }
  Status run(const KernelCall& call) override {
    if (call.slab == 0) widen(call);
    const ConstTensorView& b = call.inputs[roles_.b];
    const std::int64_t first = sliced_ ? call.row_begin : 0,
                       depth = sliced_ ? b.shape[0] : layout_.k;
    const std::int64_t panels = (layout_.n + cpu::kInt8Columns - 1) / cpu::kInt8Columns,
                       units = batches_ * panels, parts = call.pool->threads();
    call.pool->parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        auto* scratch = at<std::int16_t>(call, scratch_at_) + part * cpu::kInt8Scratch;
        for (std::int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
          const std::int64_t batch = unit / panels, n = unit % panels * cpu::kInt8Columns;
          const cpu::Int8Matrix matrix(b.dtype,
                                       b.data + layout_.b_offsets[static_cast<std::size_t>(batch)],
                                       layout_.b_row, at<std::int16_t>(call, zeros_at_));
          cpu::Int8Task task;
          task.m = layout_.m;
          task.n = layout_.n;
          task.k = depth;
          task.a = at<std::int16_t>(call, 0) + batch * layout_.m * stride_ + first;
          task.a_stride = stride_;
          task.b = &matrix;
          task.c = sums(call) + batch * layout_.m * layout_.n;
          task.c_stride = layout_.n;
          task.accumulate = sliced_ && call.slab > 0;
          cpu::int8_gemm(set_, task, n, std::min(layout_.n, n + cpu::kInt8Columns), scratch);
        }
      }
    });
    if (roles_.y_scale != kAbsent && call.slab + 1 == call.slab_count) requantize(call);
    return {};
  }

 private:
  template <typename T>
  static T* at(const KernelCall& call, std::uint64_t offset) {
    return reinterpret_cast<T*>(call.workspace + offset);
  }
  std::int32_t* sums(const KernelCall& call) const {
    return roles_.y_scale == kAbsent ? reinterpret_cast<std::int32_t*>(call.outputs[0].data)
                                     : at<std::int32_t>(call, sums_at_);
  }

  void widen(const KernelCall& call) const {
    const ConstTensorView& a = call.inputs[roles_.a];
    auto* to = at<std::int16_t>(call, 0);
    call.pool->parallel_for(rows_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const auto zero = static_cast<std::int32_t>(parameter(call, roles_.a_zero, row, 0));
        const std::int64_t from = layout_.a_offsets[static_cast<std::size_t>(row / layout_.m)] +
                                  row % layout_.m * layout_.a_row;
        cpu::int8_widen(a.dtype, a.data + from, layout_.k, zero, to + row * stride_);
        if (stride_ > layout_.k) to[row * stride_ + layout_.k] = 0;
      }
    });
    auto* zeros = at<std::int16_t>(call, zeros_at_);
    for (std::int64_t n = 0; n < layout_.n; ++n)
      zeros[n] = static_cast<std::int16_t>(parameter(call, roles_.b_zero, n, 0));
  }

  void requantize(const KernelCall& call) const {
    const TensorView& y = call.outputs[0];
    const bool same = one_value(call, roles_.a_scale) && one_value(call, roles_.y_scale);
    const std::int64_t parts = call.pool->threads();
    call.pool->parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        float* scales = at<float>(call, scales_at_) + part * layout_.n;
        const std::int64_t first = rows_ * part / parts, last = rows_ * (part + 1) / parts;
        for (std::int64_t row = first; row < last; ++row) {
          for (std::int64_t n = 0; n < layout_.n && (row == first || !same); ++n)
            scales[n] = output_scale(call, roles_, row, n);
          const auto zero = static_cast<std::int32_t>(parameter(call, roles_.y_zero, row, 0));
          cpu::int8_requantize(set_, sums(call) + row * layout_.n, layout_.n, scales, 1, 0.0f, zero,
                               y.dtype, y.data + row * layout_.n);
        }
      }
    });
  }

  Roles roles_;
  cpu::InstructionSet set_;
  ProductLayout layout_;
  bool sliced_ = false;
  std::int64_t rows_ = 0, batches_ = 1, stride_ = 0;
  std::uint64_t zeros_at_ = 0, scales_at_ = 0, scratch_at_ = 0, sums_at_ = 0, bytes_ = 0;
};

// The patches of a convolution as a matrix [channels x taps, output places].
class PatchPanels final : public cpu::Int8Panels {
 public:
  PatchPanels(const Window& window, DType dtype, const std::byte* data, std::int32_t zero)
      : window_(window), dtype_(dtype), data_(data), zero_(zero) {}
  void pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count,
            std::int16_t* to) const override {
    std::int16_t lines[2][cpu::kInt8Columns] = {};
    for (std::int64_t i = 0; i < kc; i += 2, to += 2 * cpu::kInt8Columns) {
      line(k + i, n, count, lines[0]);
      if (i + 1 < kc) {
        line(k + i + 1, n, count, lines[1]);
      } else {
        std::fill_n(lines[1], cpu::kInt8Columns, std::int16_t{0});
      }
      for (std::int64_t j = 0; j < cpu::kInt8Columns; ++j) {
        to[2 * j] = lines[0][j];
        to[2 * j + 1] = lines[1][j];
      }
    }
  }

 private:
  // One channel under one tap, places [n, n + count); padding is the zero point and adds nothing.
  void line(std::int64_t row, std::int64_t n, std::int64_t count, std::int16_t* to) const {
    const Window& w = window_;
    const std::int64_t tap = row % w.taps();
    const std::byte* plane = data_ + row / w.taps() * w.in_size();
    const std::int64_t shift = tap % w.kernel[2] * w.dilation[2] - w.pad[2];
    while (count > 0) {
      const std::int64_t v = n % w.out[2], h = n / w.out[2] % w.out[1],
                         d = n / (w.out[1] * w.out[2]), run = std::min(count, w.out[2] - v);
      const std::int64_t z =
          d * w.stride[0] + tap / (w.kernel[1] * w.kernel[2]) * w.dilation[0] - w.pad[0];
      const std::int64_t y =
          h * w.stride[1] + tap / w.kernel[2] % w.kernel[1] * w.dilation[1] - w.pad[1];
      const bool inside = z >= 0 && z < w.in[0] && y >= 0 && y < w.in[1];
      const std::byte* from = inside ? plane + (z * w.in[1] + y) * w.in[2] : plane;
      for (std::int64_t i = 0; i < run; ++i) {
        const std::int64_t x = (v + i) * w.stride[2] + shift;
        to[i] = inside && x >= 0 && x < w.in[2]
                    ? static_cast<std::int16_t>(byte_at(dtype_, from, x) - zero_)
                    : std::int16_t{0};
      }
      n += run;
      count -= run;
      to += run;
    }
  }
  const Window& window_;
  DType dtype_;
  const std::byte* data_;
  std::int32_t zero_;
};

// Patches that the slabs of a weight share: made for the first of them, kept behind the others.
class KeptPanels final : public cpu::Int8Panels {
 public:
  KeptPanels(const PatchPanels& patches, bool fresh, std::int16_t* kept)
      : patches_(patches), fresh_(fresh), kept_(kept) {}
  void pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count,
            std::int16_t* to) const override {
    const std::int64_t numbers = cpu::int8_a_stride(kc) * cpu::kInt8Columns;
    if (fresh_) patches_.pack(k, kc, n, count, kept_ + k * cpu::kInt8Columns);
    std::copy_n(kept_ + k * cpu::kInt8Columns, numbers, to);
  }

 private:
  const PatchPanels& patches_;
  const bool fresh_;
  std::int16_t* const kept_;
};

// Filters may come in slabs, which need not be whole groups.
class IntegerConv final : public Kernel {
 public:
  explicit IntegerConv(const Roles& roles) : roles_(roles), set_(cpu::cpu_instruction_set()) {}
  std::string_view id() const override { return "cpu.conv.i8"; }
  std::uint64_t workspace_bytes() const override { return bytes_; }
  Status prepare(const PrepareContext& context) override {
    const auto &x = context.inputs[roles_.a].dims, &w = context.inputs[roles_.b].dims;
    FB_ASSIGN(const WindowSpec spec, window_spec(context.node, x.size() - 2, std::span(w).subspan(2)));
    FB_ASSIGN(window_, resolve_window(context.node, spec, std::span(x).subspan(2)));
    batch_ = x[0];
    channels_ = x[1];
    filters_ = w[0];
    inner_ = w[1];
    for (const std::size_t i : {roles_.b_scale, roles_.b_zero}) {
      if (has(context.inputs, i) && context.inputs[i].shape().elements() != 1 && context.inputs[i].shape().elements() != filters_) {
        return context.node.invalid("input " + std::to_string(i) + " has neither one value nor one a filter");
      }
    }
    for (const std::size_t i : {roles_.a_scale, roles_.a_zero, roles_.y_scale, roles_.y_zero}) {
      if (has(context.inputs, i) && context.inputs[i].shape().elements() != 1) return context.node.invalid("input " + std::to_string(i) + " must be one value");
    }
    float_bias_ = context.node.domain() == "forebay";
    const DType bias = float_bias_ ? DType::f32 : DType::i32;
    if (has(context.inputs, roles_.bias) &&
        (context.inputs[roles_.bias].dtype != bias ||
         context.inputs[roles_.bias].shape().elements() != filters_)) {
      return context.node.invalid("the bias must be " + std::string(dtype_name(bias)) +
                                  " with one value a filter");
    }
    sliced_ = context.sliced_input != plan::kNone;
    if (sliced_ && context.sliced_input != roles_.b)
      return context.node.unsupported("only the weight may come in slabs");
    most_ = sliced_ ? 0 : filters_;
    for (const std::int64_t rows : context.slab_rows) most_ = std::max(most_, rows);
    stride_ = cpu::int8_a_stride(inner_ * window_.taps());
    panels_ = (window_.out_size() + cpu::kInt8Columns - 1) / cpu::kInt8Columns;
    groups_ = inner_ > 0 ? channels_ / inner_ : 1;
    const std::int64_t patches = batch_ * groups_ * panels_ * stride_ * cpu::kInt8Columns;
    shared_ = context.slab_rows.size() > 1 && patches <= kMostShared;
    scratch_at_ = float_bytes(most_ * stride_, sizeof(std::int16_t));
    sums_at_ = scratch_at_ +
               float_bytes(cpu::kInt8Scratch * context.pool->threads(), sizeof(std::int16_t));
    patches_at_ = sums_at_ +
                  (roles_.y_scale != kAbsent ? float_bytes(batch_ * most_ * window_.out_size()) : 0);
    bytes_ = patches_at_ + (shared_ ? float_bytes(patches, sizeof(std::int16_t)) : 0);
    return {};
  }
  Status run(const KernelCall& call) override {
    widen(call);
    const std::int64_t groups = groups_, panels = panels_;
    const std::int64_t units = batch_ * groups * panels, parts = call.pool->threads();
    call.pool->parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        auto* scratch = reinterpret_cast<std::int16_t*>(call.workspace + scratch_at_) +
                        part * cpu::kInt8Scratch;
        for (std::int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
          run_panel(call, unit, scratch);
        }
      }
    });
    return {};
  }

 private:
  void widen(const KernelCall& call) const {
    const ConstTensorView& w = call.inputs[roles_.b];
    const std::int64_t each = inner_ * window_.taps(), first = sliced_ ? call.row_begin : 0;
    auto* to = reinterpret_cast<std::int16_t*>(call.workspace);
    call.pool->parallel_for(
        w.shape[0], std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, each)),
        [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t f = begin; f < end; ++f) {
            cpu::int8_widen(w.dtype, w.data + f * each, each,
                            static_cast<std::int32_t>(parameter(call, roles_.b_zero, first + f, 0)),
                            to + f * stride_);
            if (stride_ > each) to[f * stride_ + each] = 0;
          }
        });
  }

  // The filters of the call that belong to the unit's group, over a panel of places of an image.
  void run_panel(const KernelCall& call, std::int64_t unit, std::int16_t* scratch) const {
    const std::int64_t batch = unit / panels_ / groups_, group = unit / panels_ % groups_,
                       n = unit % panels_ * cpu::kInt8Columns;
    const ConstTensorView& x = call.inputs[roles_.a];
    const TensorView& y = call.outputs[0];
    const std::int64_t begin = sliced_ ? call.row_begin : 0, rows = call.inputs[roles_.b].shape[0];
    const std::int64_t each = filters_ / groups_, first = std::max(group * each, begin),
                       count_f = std::min(group * each + each, begin + rows) - first;
    if (count_f <= 0) return;
    const std::int64_t out = window_.out_size(), count = std::min(cpu::kInt8Columns, out - n);
    const PatchPanels patches(window_, x.dtype,
                              x.data + (batch * channels_ + group * inner_) * window_.in_size(),
                              static_cast<std::int32_t>(parameter(call, roles_.a_zero, 0, 0)));
    const KeptPanels kept(patches, first == group * each,
                          reinterpret_cast<std::int16_t*>(call.workspace + patches_at_) +
                              unit * stride_ * cpu::kInt8Columns);
    const bool scaled = roles_.y_scale != kAbsent;
    const auto a = reinterpret_cast<const std::int16_t*>(call.workspace);
    cpu::Int8Task task;
    task.m = count_f;
    task.n = out;
    task.k = inner_ * window_.taps();
    task.a = a + (first - begin) * stride_;
    task.a_stride = stride_;
    if (shared_) {
      task.b = &kept;
    } else {
      task.b = &patches;
    }
    task.c = scaled ? reinterpret_cast<std::int32_t*>(call.workspace + sums_at_) +
                          (batch * most_ + first - begin) * out
                    : reinterpret_cast<std::int32_t*>(y.data) + (batch * filters_ + first) * out;
    task.c_stride = out;
    task.accumulate = !float_bias_ && has_bias(call);
    for (std::int64_t f = 0; f < count_f && task.accumulate; ++f) {
      std::fill_n(task.c + f * out + n, count,
                  static_cast<std::int32_t>(parameter(call, roles_.bias, first + f, 0)));
    }
    cpu::int8_gemm(set_, task, n, n + count, scratch);
    const auto zero = static_cast<std::int32_t>(parameter(call, roles_.y_zero, 0, 0));
    for (std::int64_t f = 0; f < count_f && scaled; ++f) {
      const float scale = output_scale(call, roles_, 0, first + f);
      const double bias = float_bias_ ? parameter(call, roles_.bias, first + f, 0) : 0.0;
      const float offset =
          static_cast<float>(bias) / static_cast<float>(parameter(call, roles_.y_scale, 0, 1));
      cpu::int8_requantize(set_, task.c + f * out + n, count, &scale, 0, offset, zero, y.dtype,
                           y.data + (batch * filters_ + first + f) * out + n);
    }
  }
  bool has_bias(const KernelCall& call) const {
    return roles_.bias < call.inputs.size() && call.inputs[roles_.bias].present();
  }

  Roles roles_;
  cpu::InstructionSet set_;
  Window window_;
  static constexpr std::int64_t kMostShared = 4 << 20;  // 16-bit numbers of patches that are kept
  bool float_bias_ = false, sliced_ = false, shared_ = false;
  std::int64_t batch_ = 0, channels_ = 0, filters_ = 0, inner_ = 1, stride_ = 0;
  std::int64_t most_ = 0, panels_ = 0, groups_ = 1;  // filters of a call; panels of an image
  std::uint64_t scratch_at_ = 0, sums_at_ = 0, patches_at_ = 0, bytes_ = 0;
};

std::vector<TypeShape> all_inputs(InferContext& context) {
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) inputs.push_back(context.input(i));
  return inputs;
}

}  // namespace

Status infer_integer_matmul(InferContext& context) {
  const NodeView& node = context.node();
  const Roles& roles = roles_of(node);
  FB_TRY(check_types(node, roles, all_inputs(context)));
  const TypeShape &a = context.input(roles.a), &b = context.input(roles.b);
  const DType y = roles.y_scale == kAbsent ? DType::i32 : context.input(roles.y_zero).dtype;
  if (!a.has_rank || !b.has_rank) {
    context.set_output_unranked(0, y);
    return {};
  }
  FB_ASSIGN(std::vector<std::int64_t> dims, product_dims(node, a, b, {}));
  context.set_output(0, y, std::move(dims));
  return {};
}

Status infer_integer_conv(InferContext& context) {
  const NodeView& node = context.node();
  const Roles& roles = roles_of(node);
  FB_TRY(check_types(node, roles, all_inputs(context)));
  const TypeShape &x = context.input(roles.a), &w = context.input(roles.b);
  const DType y = roles.y_scale == kAbsent ? DType::i32 : context.input(roles.y_zero).dtype;
  if (!x.has_rank || !w.has_rank) {
    context.set_output_unranked(0, y);
    return {};
  }
  const std::int64_t group = node.integer("group", 1);
  const bool known = x.dims.size() > 2 && x.dims.size() == w.dims.size() && group >= 1;
  if (!known || (x.dims[1] >= 0 && w.dims[1] >= 0 && x.dims[1] != w.dims[1] * group) || (w.dims[0] >= 0 && w.dims[0] % group != 0)) {
    return node.invalid("X " + dims_text(x.dims) + " does not fit W " + dims_text(w.dims) + " with group " + std::to_string(group));
  }
  FB_ASSIGN(const WindowSpec spec, window_spec(node, x.dims.size() - 2, std::span(w.dims).subspan(2)));
  std::vector<std::int64_t> dims = {x.dims[0], w.dims[0]};
  for (std::size_t i = 0; i < spec.kernel.size(); ++i) dims.push_back(window_output(spec, i, x.dims[i + 2]));
  context.set_output(0, y, std::move(dims));
  return {};
}

// [K,N] codes come in slabs of the reduction; integer sums do not mind.
plan::Consumption consume_integer_matmul(const NodeView& node, std::uint32_t input,
                                         std::span<const TypeShape> inputs) {
  const Roles& roles = roles_of(node);
  const bool matrix = input == roles.b && input < inputs.size() && inputs[input].has_rank &&
                      inputs[input].dims.size() == 2;
  return matrix ? plan::Consumption::by_reduction : plan::Consumption::whole;
}

plan::Consumption consume_integer_conv(const NodeView& node, std::uint32_t input,
                                       std::span<const TypeShape>) {
  return input == roles_of(node).b ? plan::Consumption::by_output : plan::Consumption::whole;
}

Result<std::unique_ptr<Kernel>> create_integer_matmul(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<IntegerMatmul>(roles_of(node)));
}
Result<std::unique_ptr<Kernel>> create_integer_conv(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<IntegerConv>(roles_of(node)));
}

}  // namespace forebay::ops
