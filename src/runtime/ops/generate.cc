// Operators that make tensors: Constant, ConstantOfShape, Expand, Tile, Range, EyeLike.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "base/half.h"
#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/strided_copy.h"
#include "runtime/ops/subbyte.h"

namespace forebay::ops {
namespace {

// ---- Constant -------------------------------------------------------------------------------------------------------------------

// The bytes of whichever value_* attribute is there. `data` may be null (shape only).
Status read_constant(const NodeView& node, DType* dtype, std::vector<std::int64_t>* dims, std::vector<std::byte>* data) {
  const auto put = [data](const void* from, std::size_t bytes) {
    if (data == nullptr) return;
    const auto* begin = static_cast<const std::byte*>(from);
    data->assign(begin, begin + bytes);
  };
  dims->clear();
  if (const plan::Constant* tensor = node.tensor("value"); tensor != nullptr) {
    *dtype = tensor->dtype;
    dims->assign(tensor->shape.dims().begin(), tensor->shape.dims().end());
    put(tensor->data.data(), tensor->data.size());
  } else if (node.has("value_float")) {
    *dtype = DType::f32;
    const float value = node.real("value_float", 0);
    put(&value, sizeof value);
  } else if (node.has("value_int")) {
    *dtype = DType::i64;
    const std::int64_t value = node.integer("value_int", 0);
    put(&value, sizeof value);
  } else if (node.has("value_floats")) {
    *dtype = DType::f32;
    const auto values = node.reals("value_floats");
    dims->push_back(static_cast<std::int64_t>(values.size()));
    put(values.data(), values.size_bytes());
  } else if (node.has("value_ints")) {
    *dtype = DType::i64;
    const auto values = node.integers("value_ints");
    dims->push_back(static_cast<std::int64_t>(values.size()));
    put(values.data(), values.size_bytes());
  } else {
    return node.unsupported("the value is a string or a sparse tensor, or there is none");
  }
  return {};
}

Status infer_constant(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 0, 0));
  DType dtype = DType::none;
  std::vector<std::int64_t> dims;
  FB_TRY(read_constant(ctx.node(), &dtype, &dims, nullptr));
  ctx.set_output(0, dtype, std::move(dims));
  return {};
}

class ConstantKernel final : public NamedKernel {
 public:
  ConstantKernel() : NamedKernel("cpu.Constant") {}
  Status prepare(const PrepareContext& context) override {
    DType dtype = DType::none;
    std::vector<std::int64_t> dims;
    return read_constant(context.node, &dtype, &dims, &data_);
  }
  Status run(const KernelCall& call) override {
    if (!data_.empty()) std::memcpy(call.outputs[0].data, data_.data(), data_.size());
    return {};
  }

 private:
  std::vector<std::byte> data_;
};

// ---- ConstantOfShape ------------------------------------------------------------------------------------------------------------

Status infer_constant_of_shape(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, dtypes(DType::i64)));
  const plan::Constant* value = ctx.node().tensor("value");
  if (value != nullptr && (value->shape.elements() != 1 || dtype_bits(value->dtype) < 8)) {
    return ctx.node().invalid("value is not one element of a byte or more");
  }
  const DType dtype = value != nullptr ? value->dtype : DType::f32;
  bool known = false;
  std::vector<std::int64_t> dims = ctx.integers(0, &known);
  if (!known) {
    const TypeShape& shape = ctx.input(0);
    if (shape.has_rank && shape.dims.size() == 1 && shape.dims[0] >= 0 && shape.dims[0] <= kMaxRank) {
      ctx.set_output(0, dtype, std::vector<std::int64_t>(static_cast<std::size_t>(shape.dims[0]), -1));
    } else {
      ctx.set_output_unranked(0, dtype);
    }
    return {};
  }
  for (const std::int64_t dim : dims) {
    if (dim < 0) return ctx.node().invalid("the shape holds " + std::to_string(dim));
  }
  ctx.set_output(0, dtype, std::move(dims));
  return {};
}

class FillKernel final : public NamedKernel {
 public:
  FillKernel() : NamedKernel("cpu.ConstantOfShape") {}
  Status prepare(const PrepareContext& context) override {
    std::memset(value_, 0, sizeof value_);
    const plan::Constant* value = context.node.tensor("value");
    if (value != nullptr) std::memcpy(value_, value->data.data(), std::min(value->data.size(), sizeof value_));
    bytes_ = element_bytes(context.outputs[0].dtype);
    return {};
  }
  Status run(const KernelCall& call) override {
    dispatch_bytes(bytes_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T value{};
      std::memcpy(&value, value_, sizeof value);
      T* out = reinterpret_cast<T*>(call.outputs[0].data);
      call.pool->parallel_for(call.outputs[0].shape.elements(), 65536,
                              [&](std::int64_t begin, std::int64_t end) { std::fill(out + begin, out + end, value); });
    });
    return {};
  }

 private:
  std::byte value_[8] = {};
  int bytes_ = 4;
};

// ---- Expand, Tile ---------------------------------------------------------------------------------------------------------------

Status infer_expand(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kAny));
  FB_TRY(need_input(ctx, 1, dtypes(DType::i64)));
  const TypeShape& data = ctx.input(0);
  bool known = false;
  const std::vector<std::int64_t> shape = ctx.integers(1, &known);
  if (!known || !data.has_rank) {
    const TypeShape& length = ctx.input(1);
    if (data.has_rank && length.has_rank && length.dims.size() == 1 && length.dims[0] >= 0 && length.dims[0] <= kMaxRank) {
      ctx.set_output(0, data.dtype, std::vector<std::int64_t>(std::max(data.dims.size(), static_cast<std::size_t>(length.dims[0])), -1));
    } else {
      ctx.set_output_unranked(0, data.dtype);
    }
    return {};
  }
  for (const std::int64_t dim : shape) {
    if (dim < 0) return ctx.node().invalid("the shape holds " + std::to_string(dim));
  }
  FB_ASSIGN(std::vector<std::int64_t> dims, broadcast_dims(ctx.node(), data.dims, shape));
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

class ExpandKernel final : public CopyKernel {
 public:
  explicit ExpandKernel(int bytes) : CopyKernel("cpu.Expand." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& in = context.inputs[0].dims;
    const auto& out = context.outputs[0].dims;
    const auto dense = dense_strides(in);
    std::vector<std::int64_t> strides(out.size(), 0);
    for (std::size_t back = 1; back <= in.size(); ++back) {
      if (in[in.size() - back] != 1) strides[out.size() - back] = dense[in.size() - back];
    }
    const auto out_strides = dense_strides(out);
    copy_.plan(bytes_, out, strides, std::span(out_strides).first(out.size()));
    return {};
  }

 private:
  int bytes_;
};

Status infer_tile(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kAny));
  FB_TRY(need_input(ctx, 1, dtypes(DType::i64)));
  const TypeShape& data = ctx.input(0);
  bool known = false;
  const std::vector<std::int64_t> repeats = ctx.integers(1, &known);
  if (!data.has_rank) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  std::vector<std::int64_t> dims(data.dims.size(), -1);
  if (known) {
    if (repeats.size() != dims.size()) return ctx.node().invalid("repeats has " + std::to_string(repeats.size()) + " entries");
    for (std::size_t i = 0; i < dims.size(); ++i) {
      if (repeats[i] < 0) return ctx.node().invalid("repeats holds " + std::to_string(repeats[i]));
      if (data.dims[i] >= 0 && __builtin_mul_overflow(data.dims[i], repeats[i], &dims[i]))
        return ctx.node().invalid("the output is too large");
    }
  }
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

class TileKernel final : public CopyKernel {
 public:
  explicit TileKernel(int bytes) : CopyKernel("cpu.Tile." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& in = context.inputs[0].dims;
    const std::vector<std::int64_t> repeats = host_integers(*context.values[1]);
    const auto in_dense = dense_strides(in);
    const auto out_dense = dense_strides(context.outputs[0].dims);
    std::vector<std::int64_t> dims, from, to;  // the repetition of an axis, then the axis
    for (std::size_t i = 0; i < in.size(); ++i) {
      dims.insert(dims.end(), {repeats[i], in[i]});
      from.insert(from.end(), {0, in_dense[i]});
      to.insert(to.end(), {in[i] * out_dense[i], out_dense[i]});
    }
    copy_.plan(bytes_, dims, from, to);
    return {};
  }

 private:
  int bytes_;
};

// ---- Range ----------------------------------------------------------------------------------------------------------------------

template <typename T>
Result<std::int64_t> range_count(const NodeView& node, T start, T limit, T delta) {
  if (delta == T{0}) return node.invalid("delta is 0");
  if constexpr (std::is_floating_point_v<T>) {
    const double count = std::ceil((static_cast<double>(limit) - static_cast<double>(start)) / static_cast<double>(delta));
    if (!(count < 9e15)) return node.invalid("the range has too many elements, or a bound is not finite");
    return count > 0 ? static_cast<std::int64_t>(count) : std::int64_t{0};
  } else {
    const __int128 span = static_cast<__int128>(limit) - start, step = delta;
    if ((span > 0) != (step > 0) || span == 0) return std::int64_t{0};
    const __int128 count = (span + step + (step > 0 ? -1 : 1)) / step;
    if (count > INT64_MAX) return node.invalid("the range has too many elements");
    return static_cast<std::int64_t>(count);
  }
}

float half_value(DType dtype, const HostTensor& tensor) {
  const std::uint16_t bits = tensor.as<std::uint16_t>()[0];
  return dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

Status infer_range(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 3, 3));
  const DTypeSet set = kFloats | dtypes(DType::i16, DType::i32, DType::i64);
  for (std::size_t i = 0; i < 3; ++i) {
    FB_TRY(need_input(ctx, i, set));
    FB_TRY(same_dtype(ctx, 0, i));
    const TypeShape& input = ctx.input(i);
    if (input.known()) {
      FB_ASSIGN(const std::int64_t count, element_count(ctx.node(), input.dims));
      if (count != 1) return ctx.node().invalid("input " + std::to_string(i) + " is not a scalar");
    }
  }
  const DType dtype = ctx.input(0).dtype;
  const HostTensor* values[3] = {ctx.value(0), ctx.value(1), ctx.value(2)};
  std::int64_t count = -1;
  if (values[0] != nullptr && values[1] != nullptr && values[2] != nullptr) {
    Result<std::int64_t> counted = std::int64_t{0};
    if (is_half(dtype)) {
      counted = range_count<float>(ctx.node(), half_value(dtype, *values[0]), half_value(dtype, *values[1]), half_value(dtype, *values[2]));
    } else {
      dispatch_number(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        counted = range_count<T>(ctx.node(), values[0]->as<T>()[0], values[1]->as<T>()[0], values[2]->as<T>()[0]);
      });
    }
    FB_ASSIGN(count, std::move(counted));
  }
  ctx.set_output(0, dtype, {count});
  return {};
}

class RangeKernel final : public NamedKernel {
 public:
  explicit RangeKernel(DType dtype) : NamedKernel("cpu.Range." + std::string(dtype_name(dtype))), dtype_(dtype) {}
  Status run(const KernelCall& call) override {
    const std::int64_t count = call.outputs[0].shape.elements();
    if (is_half(dtype_)) {
      float start = 0, delta = 0;
      load_half(dtype_, call.inputs[0].data, &start, 1);
      load_half(dtype_, call.inputs[2].data, &delta, 1);
      for (std::int64_t i = 0; i < count; ++i) {
        const float value = start + static_cast<float>(i) * delta;
        store_half(dtype_, &value, call.outputs[0].data + i * 2, 1);
      }
      return {};
    }
    dispatch_number(dtype_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T start = *reinterpret_cast<const T*>(call.inputs[0].data), delta = *reinterpret_cast<const T*>(call.inputs[2].data);
      T* out = reinterpret_cast<T*>(call.outputs[0].data);
      for (std::int64_t i = 0; i < count; ++i) {
        if constexpr (std::is_floating_point_v<T>) {
          out[i] = start + static_cast<T>(i) * delta;
        } else {
          out[i] = static_cast<T>(static_cast<Wrapping<T>>(start) + static_cast<Wrapping<T>>(i) * static_cast<Wrapping<T>>(delta));
        }
      }
    });
    return {};
  }

 private:
  DType dtype_;
};

// ---- EyeLike --------------------------------------------------------------------------------------------------------------------

Status infer_eye_like(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  DType dtype = ctx.input(0).dtype;
  if (ctx.node().has("dtype")) dtype = onnx_dtype(ctx.node().integer("dtype", 0));
  if (!in_set(kNumbers | kBool, dtype)) return ctx.node().unsupported("dtype is not served here");
  if (ctx.input(0).has_rank && ctx.input(0).dims.size() != 2) return ctx.node().invalid("the input is not a matrix");
  set_like(ctx, 0, 0, dtype);
  return {};
}

class EyeKernel final : public NamedKernel {
 public:
  EyeKernel(DType dtype, std::int64_t k) : NamedKernel("cpu.EyeLike"), dtype_(dtype), k_(k) {}
  Status run(const KernelCall& call) override {
    const Shape& shape = call.outputs[0].shape;
    const std::int64_t bytes = element_bytes(dtype_);
    if (shape.elements() == 0) return {};
    std::memset(call.outputs[0].data, 0, static_cast<std::size_t>(shape.elements() * bytes));
    alignas(8) std::byte one[8] = {};
    if (dtype_ == DType::boolean) {
      one[0] = std::byte{1};
    } else if (is_half(dtype_)) {
      const float value = 1.0f;
      store_half(dtype_, &value, one, 1);
    } else {
      dispatch_number(dtype_, [&](auto tag) { *reinterpret_cast<typename decltype(tag)::type*>(one) = 1; });
    }
    for (std::int64_t row = 0; row < shape[0]; ++row) {
      if (k_ < -row || k_ >= shape[1] - row) continue;
      std::memcpy(call.outputs[0].data + (row * shape[1] + row + k_) * bytes, one, static_cast<std::size_t>(bytes));
    }
    return {};
  }

 private:
  DType dtype_;
  std::int64_t k_;
};

// ---- list -----------------------------------------------------------------------------------------------------------------------

using Types = std::span<const TypeShape>;
using Made = Result<std::unique_ptr<Kernel>>;
Made create_constant(const NodeView&, Types, Types) { return std::unique_ptr<Kernel>(std::make_unique<ConstantKernel>()); }
Made create_fill(const NodeView&, Types, Types) { return std::unique_ptr<Kernel>(std::make_unique<FillKernel>()); }
Made create_expand(const NodeView&, Types in, Types) {
  return std::unique_ptr<Kernel>(std::make_unique<ExpandKernel>(element_bytes(in[0].dtype)));
}
Made create_tile(const NodeView&, Types in, Types) {
  return std::unique_ptr<Kernel>(std::make_unique<TileKernel>(element_bytes(in[0].dtype)));
}
Made create_range(const NodeView&, Types in, Types) { return std::unique_ptr<Kernel>(std::make_unique<RangeKernel>(in[0].dtype)); }
Made create_eye(const NodeView& node, Types, Types out) {
  return std::unique_ptr<Kernel>(std::make_unique<EyeKernel>(out[0].dtype, node.integer("k", 0)));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Constant", .infer = infer_constant, .create = create_constant},
    {.name = "ConstantOfShape", .since = 9, .host_inputs = 1u << 0, .infer = infer_constant_of_shape, .create = create_fill},
    {.name = "Expand", .since = 8, .host_inputs = 1u << 1, .infer = infer_expand, .create = with_subbyte<create_expand>},
    {.name = "Tile", .since = 6, .host_inputs = 1u << 1, .infer = infer_tile, .create = with_subbyte<create_tile>},
    {.name = "Range", .since = 11, .host_inputs = 0b111, .infer = infer_range, .create = create_range},
    {.name = "EyeLike", .since = 9, .infer = infer_eye_like, .create = create_eye},
};

}  // namespace

std::span<const OpSpec> generate_ops() { return kSpecs; }

}  // namespace forebay::ops
