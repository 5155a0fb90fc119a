#include "runtime/ops/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

// Which input and output is what.
struct Form {
  bool centred = true;   // subtracts the mean
  bool skip = false;     // input 1 is added first
  std::size_t scale = 1, shift = 2, bias = 16;  // inputs; 16: none
  std::size_t mean = 1, inverse = 2, sum = 8;   // outputs; 8: none
};

Form form_of(const NodeView& node) {
  Form form;
  if (node.op() == "LayerNormalization") return form;
  if (node.op() == "SkipLayerNormalization") {
    form.skip = true;
    form.scale = 2;
    form.shift = 3;
    form.bias = 4;
    form.sum = 3;
    return form;
  }
  form.centred = false;
  form.shift = 16;
  form.mean = 8;
  form.inverse = 1;
  if (node.op() == "SkipSimplifiedLayerNormalization") {
    form.skip = true;
    form.scale = 2;
    form.bias = 3;
    form.inverse = 2;
    form.mean = 1;
    form.sum = 3;
  }
  return form;
}

// A scale or shift that broadcasts to the input: where the value for row r, element i lies.
struct Parameter {
  bool whole_row = false, single = false;
  Shape dims, strides;  // over the axes of the input, for the general case
  std::int64_t offset(std::int64_t flat) const {
    std::int64_t at = 0;
    for (int axis = dims.rank() - 1; axis >= 0; --axis) {
      at += flat % dims[axis] * strides[axis];
      flat /= dims[axis];
    }
    return at;
  }
};

Result<Parameter> parameter_of(const NodeView& node, const Shape& x, int axis, const TypeShape& given) {
  Parameter parameter;
  const Shape own = given.shape();
  parameter.single = own.elements() == 1;
  if (own.rank() > x.rank()) return node.invalid("a scale of rank " + std::to_string(own.rank()));
  const int lead = x.rank() - own.rank();
  bool row = true;
  std::int64_t stride = 1;
  parameter.dims = x;
  parameter.strides = x;
  for (int i = x.rank() - 1; i >= 0; --i) {
    const std::int64_t size = i >= lead ? own[i - lead] : 1;
    if (size != 1 && size != x[i]) return node.invalid("a scale or bias " + own.to_string() + " does not broadcast to " + x.to_string());
    row = row && (i < axis ? size == 1 : size == x[i]);
    parameter.strides[i] = size == 1 ? 0 : stride;
    stride *= size;
  }
  parameter.whole_row = row;
  return parameter;
}

class LayerNorm final : public FloatKernel {
 public:
  explicit LayerNorm(const Form& form) : form_(form) {}
  std::string_view id() const override { return "cpu.layer_norm"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const Shape x = context.inputs[0].shape();
    FB_ASSIGN(const int axis, normalize_axis(node, form_.skip ? -1 : node.integer("axis", -1), x.rank()));
    rows_ = x.elements(0, axis);
    size_ = x.elements(axis, x.rank());
    epsilon_ = node.real("epsilon", form_.skip ? 1e-12f : 1e-5f);
    FB_ASSIGN(scale_, parameter_of(node, x, axis, context.inputs[form_.scale]));
    if (has(context.inputs, form_.shift)) {
      FB_ASSIGN(shift_, parameter_of(node, x, axis, context.inputs[form_.shift]));
    }
    if (form_.skip) {
      skip_count_ = context.inputs[1].shape().elements();
      const auto& own = context.inputs[1].dims;  // the trailing dims of x; a batch of one serves all
      const auto lead = std::find_if(own.begin(), own.end(), [](std::int64_t size) { return size != 1; });
      const auto count = static_cast<std::size_t>(own.end() - lead);
      const bool trailing = count <= context.inputs[0].dims.size() && std::equal(lead, own.end(), context.inputs[0].dims.end() - static_cast<std::ptrdiff_t>(count));
      if (skip_count_ % std::max<std::int64_t>(1, size_) != 0 || !trailing) {
        return node.invalid("skip " + dims_text(context.inputs[1].dims) + " does not fit the input " + x.to_string());
      }
      if (has(context.inputs, form_.bias) && context.inputs[form_.bias].shape().elements() != size_) return node.invalid("bias does not fit the rows");
      set_scratch(float_bytes(size_ * context.pool->threads(), 8));
    }
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  static bool has(std::span<const TypeShape> inputs, std::size_t i) { return i < inputs.size() && inputs[i].present(); }

  template <typename T>
  void go(const KernelCall& call) const {
    const std::int64_t threads = call.pool->threads();
    if (form_.skip) {
      call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t part = begin; part < end; ++part) {
          T* buffer = reinterpret_cast<T*>(call.workspace) + part * size_;
          for (std::int64_t row = rows_ * part / threads; row < rows_ * (part + 1) / threads; ++row) normalize(call, row, add_skip<T>(call, row, buffer));
        }
      });
      return;
    }
    call.pool->parallel_for(rows_, std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(1, size_)), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) normalize(call, row, reinterpret_cast<const T*>(call.inputs[0].data) + row * size_);
    });
  }

  template <typename T>
  const T* add_skip(const KernelCall& call, std::int64_t row, T* buffer) const {
    const T* x = reinterpret_cast<const T*>(call.inputs[0].data) + row * size_;
    const T* skip = reinterpret_cast<const T*>(call.inputs[1].data) + row * size_ % skip_count_;
    const bool biased = form_.bias < call.inputs.size() && call.inputs[form_.bias].present();
    const T* bias = biased ? reinterpret_cast<const T*>(call.inputs[form_.bias].data) : nullptr;
    for (std::int64_t i = 0; i < size_; ++i) buffer[i] = x[i] + skip[i];
    if (bias != nullptr) {
      for (std::int64_t i = 0; i < size_; ++i) buffer[i] += bias[i];
    }
    if (form_.sum < call.outputs.size() && call.outputs[form_.sum].present()) {
      std::copy(buffer, buffer + size_, reinterpret_cast<T*>(call.outputs[form_.sum].data) + row * size_);
    }
    return buffer;
  }

  // One value a row: its dtype is f32 also where X is f64.
  static void put(const KernelCall& call, std::size_t output, std::int64_t row, double value) {
    if (output >= call.outputs.size() || !call.outputs[output].present()) return;
    if (call.outputs[output].dtype == DType::f64) {
      reinterpret_cast<double*>(call.outputs[output].data)[row] = value;
    } else {
      reinterpret_cast<float*>(call.outputs[output].data)[row] = static_cast<float>(value);
    }
  }

  template <typename T>
  void normalize(const KernelCall& call, std::int64_t row, const T* x) const {
    const T count = static_cast<T>(size_);
    const T mean = form_.centred ? lane_sum<T>(size_, [x](std::int64_t i) { return x[i]; }) / count : T(0);
    const T variance = lane_sum<T>(size_, [x, mean](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / count;
    const T inverse = T(1) / std::sqrt(variance + static_cast<T>(epsilon_));
    put(call, form_.mean, row, static_cast<double>(mean));
    put(call, form_.inverse, row, static_cast<double>(inverse));
    T* y = reinterpret_cast<T*>(call.outputs[0].data) + row * size_;
    const T* scale = reinterpret_cast<const T*>(call.inputs[form_.scale].data);
    if (scale_.whole_row) {
      for (std::int64_t i = 0; i < size_; ++i) y[i] = (x[i] - mean) * inverse * scale[i];
    } else {
      for (std::int64_t i = 0; i < size_; ++i) y[i] = (x[i] - mean) * inverse * scale[scale_.single ? 0 : scale_.offset(row * size_ + i)];
    }
    if (form_.shift >= call.inputs.size() || !call.inputs[form_.shift].present()) return;
    const T* shift = reinterpret_cast<const T*>(call.inputs[form_.shift].data);
    if (shift_.whole_row) {
      for (std::int64_t i = 0; i < size_; ++i) y[i] += shift[i];
    } else {
      for (std::int64_t i = 0; i < size_; ++i) y[i] += shift[shift_.single ? 0 : shift_.offset(row * size_ + i)];
    }
  }

  Form form_;
  Parameter scale_, shift_;
  std::int64_t rows_ = 0, size_ = 0, skip_count_ = 0;
  float epsilon_ = 1e-5f;
};

}  // namespace

Status infer_layer_norm(InferContext& context) {
  const NodeView& node = context.node();
  const Form form = form_of(node);
  const TypeShape& x = context.input(0);
  if (!x.present() || !context.input(form.scale).present()) return node.invalid("an input and a scale are needed");
  FB_TRY(require_float(node, x.dtype, "the input"));
  FB_TRY(require_float(node, context.input(form.scale).dtype, "the scale"));
  for (std::size_t i = 1; i < context.input_count(); ++i) {
    if (context.input(i).present() && (context.input(i).dtype == DType::f64) != (x.dtype == DType::f64)) {
      return node.unsupported("f64 mixed with narrower types");
    }
  }
  if (form.skip && !context.input(1).present()) return node.invalid("skip is needed");
  // Y takes the type of the scale where they differ (ONNX Runtime's simplified form).
  const DType y = node.op() == "LayerNormalization" || form.skip ? x.dtype : context.input(form.scale).dtype;
  const std::int64_t stash = node.integer("stash_type", 1);
  const DType moments = stash == 16 ? DType::bf16 : stash == 10 ? DType::f16 : stash == 11 ? DType::f64 : DType::f32;
  if (!x.has_rank) {
    context.set_output_unranked(0, y);
    for (const std::size_t i : {form.mean, form.inverse}) context.set_output_unranked(i, moments);
    context.set_output_unranked(form.sum, x.dtype);
    return {};
  }
  FB_ASSIGN(const int axis, normalize_axis(node, form.skip ? -1 : node.integer("axis", -1), static_cast<int>(x.dims.size())));
  std::vector<std::int64_t> reduced = x.dims;
  std::fill(reduced.begin() + axis, reduced.end(), 1);
  context.set_output(0, y, x.dims);
  context.set_output(form.mean, moments, reduced);
  context.set_output(form.inverse, moments, std::move(reduced));
  context.set_output(form.sum, x.dtype, x.dims);
  return {};
}

Result<std::unique_ptr<Kernel>> create_layer_norm(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<LayerNorm>(form_of(node)));
}

}  // namespace forebay::ops
