// DFT (17, 20), STFT, the window functions and MelWeightMatrix.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "base/check.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/families.h"
#include "runtime/ops/fourier.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/quant_values.h"

namespace forebay::ops {
namespace {

constexpr std::int64_t kMostLength = std::int64_t{1} << 26;

// A scalar known on the host; `*known` false when it is not.
std::int64_t scalar(const HostTensor* tensor, std::int64_t otherwise, bool* known) {
  *known = tensor != nullptr && tensor->shape().elements() == 1;
  return *known ? static_cast<std::int64_t>(load_number(tensor->dtype(), tensor->data(), 0)) : otherwise;
}

struct DftForm {
  int axis = 1;
  std::int64_t length = -1, in = -1, out = -1;  // transform length; sizes of the axis
  bool inverse = false, onesided = false, complex = false;
};

Result<DftForm> dft_form(const NodeView& node, std::span<const TypeShape> inputs, std::span<const HostTensor* const> values) {
  DftForm form;
  const auto& x = inputs[0].dims;
  const auto rank = static_cast<int>(x.size());
  if (rank < 2) return node.invalid("the input " + dims_text(x) + " needs a signal axis and a last axis of 1 or 2");
  if (x.back() >= 0 && x.back() != 1 && x.back() != 2) return node.invalid("the last axis of " + dims_text(x) + " must be 1 or 2");
  form.inverse = node.integer("inverse", 0) != 0;
  form.onesided = node.integer("onesided", 0) != 0;
  form.complex = x.back() == 2;
  std::int64_t axis = node.integer("axis", 1);
  bool known = true;
  if (node.version() >= 20) {
    const bool given = inputs.size() > 2 && inputs[2].present();
    axis = given ? scalar(values.size() > 2 ? values[2] : nullptr, -2, &known) : -2;
    if (!known) {
      form.axis = -1;
      return form;
    }
  }
  FB_ASSIGN(form.axis, normalize_axis(node, axis, rank));
  if (form.axis == rank - 1) return node.invalid("the axis is that of the real and imaginary parts");
  form.in = x[static_cast<std::size_t>(form.axis)];
  if (inputs.size() > 1 && inputs[1].present()) {
    form.length = scalar(values.size() > 1 ? values[1] : nullptr, -1, &known);
    if (known && (form.length < 1 || form.length > kMostLength)) return node.invalid("dft_length is " + std::to_string(form.length));
  } else if (form.in >= 0) {
    form.length = form.inverse && form.onesided ? 2 * (form.in - 1) : form.in;
  }
  form.out = form.length < 0 ? -1 : form.onesided && !form.inverse ? form.length / 2 + 1 : form.length;
  return form;
}

Status infer_dft(InferContext& context) {
  const NodeView& node = context.node();
  std::vector<TypeShape> inputs;
  std::vector<const HostTensor*> values;
  for (std::size_t i = 0; i < context.input_count(); ++i) {
    inputs.push_back(context.input(i));
    values.push_back(context.value(i));
  }
  if (inputs.empty() || !inputs[0].present()) return node.invalid("an input is needed");
  FB_TRY(require_float(node, inputs[0].dtype, "the input"));
  if (!inputs[0].has_rank) {
    context.set_output_unranked(0, inputs[0].dtype);
    return {};
  }
  FB_ASSIGN(const DftForm form, dft_form(node, inputs, values));
  std::vector<std::int64_t> dims = inputs[0].dims;
  if (form.axis < 0) {
    std::fill(dims.begin(), dims.end() - 1, -1);
  } else {
    dims[static_cast<std::size_t>(form.axis)] = form.out;
  }
  dims.back() = form.inverse && form.onesided ? 1 : 2;
  context.set_output(0, inputs[0].dtype, std::move(dims));
  return {};
}

// Transforms of `length` values each, shared out over the threads: each thread has one line of complex doubles and the transform's scratch.
class FourierKernel : public FloatKernel {
 protected:
  void prepare_lines(const PrepareContext& context, std::int64_t length) {
    fourier_.prepare(length);
    each_ = 2 * length + fourier_.scratch();
    set_scratch(float_bytes(each_, 8) * static_cast<std::uint64_t>(context.pool->threads()));
  }
  // transform(i, line) for every i below `count`.
  template <typename F>
  void for_lines(const KernelCall& call, std::int64_t count, const F& transform) const {
    const std::int64_t threads = call.pool->threads();
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        auto* line = reinterpret_cast<double*>(call.workspace + static_cast<std::uint64_t>(part) * float_bytes(each_, 8));
        for (std::int64_t i = count * part / threads; i < count * (part + 1) / threads; ++i) transform(i, line);
      }
    });
  }
  Fourier fourier_;

 private:
  std::int64_t each_ = 0;
};

class Dft final : public FourierKernel {
 public:
  std::string_view id() const override { return "cpu.dft"; }

 protected:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(form_, dft_form(context.node, context.inputs, context.values));
    if (form_.length < 1) return context.node.invalid("the length of the transform is not known or is 0");
    const Shape x = context.inputs[0].shape();
    outer_ = x.elements(0, form_.axis);
    inner_ = x.elements(form_.axis + 1, x.rank() - 1);
    prepare_lines(context, form_.length);
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    for_lines(call, outer_ * inner_, [&](std::int64_t i, double* line) {
      transform(reinterpret_cast<const T*>(call.inputs[0].data), reinterpret_cast<T*>(call.outputs[0].data), i / inner_, i % inner_, line);
    });
  }
  template <typename T>
  void transform(const T* x, T* y, std::int64_t outer, std::int64_t inner, double* line) const {
    const std::int64_t parts = form_.complex ? 2 : 1, n = form_.length;
    const bool real_output = form_.inverse && form_.onesided;
    for (std::int64_t i = 0; i < n; ++i) {
      std::int64_t from = i;
      double mirror = 1;
      if (real_output && i > n / 2) {  // the other half of a real signal's spectrum
        from = n - i;
        mirror = -1;
      }
      const T* at = x + ((outer * form_.in + from) * inner_ + inner) * parts;
      line[2 * i] = from < form_.in ? static_cast<double>(at[0]) : 0.0;
      line[2 * i + 1] = from < form_.in && form_.complex ? mirror * static_cast<double>(at[1]) : 0.0;
    }
    if (real_output) {  // as irfft: these two bins are real
      line[1] = 0;
      if (n % 2 == 0) line[n + 1] = 0;
    }
    fourier_.run(line, form_.inverse, line + 2 * n);
    const double scale = form_.inverse ? 1.0 / static_cast<double>(n) : 1.0;
    const std::int64_t out_parts = real_output ? 1 : 2;
    for (std::int64_t k = 0; k < form_.out; ++k) {
      T* to = y + ((outer * form_.out + k) * inner_ + inner) * out_parts;
      to[0] = static_cast<T>(line[2 * k] * scale);
      if (out_parts == 2) to[1] = static_cast<T>(line[2 * k + 1] * scale);
    }
  }
  DftForm form_;
  std::int64_t outer_ = 1, inner_ = 1;
};

// Inputs: signal, frame_step, window, frame_length.
struct StftForm {
  std::int64_t batch = -1, samples = -1, step = -1, length = -1, frames = -1, bins = -1;
  bool complex = false;
};

Result<StftForm> stft_form(const NodeView& node, std::span<const TypeShape> inputs, std::span<const HostTensor* const> values) {
  StftForm form;
  const auto& x = inputs[0].dims;
  if (x.size() != 3 && x.size() != 2) return node.invalid("the signal " + dims_text(x) + " must be [batch, samples, 1 or 2]");
  form.batch = x[0];
  form.samples = x[1];
  form.complex = x.size() == 3 && x[2] == 2;
  bool known = false;
  form.step = scalar(values.size() > 1 ? values[1] : nullptr, -1, &known);
  if (known && form.step < 1) return node.invalid("frame_step is " + std::to_string(form.step));
  const bool window = inputs.size() > 2 && inputs[2].present(), length = inputs.size() > 3 && inputs[3].present();
  if (!window && !length) return node.invalid("a window or a frame_length is needed");
  if (length) form.length = scalar(values.size() > 3 ? values[3] : nullptr, -1, &known);
  if (window && inputs[2].has_rank && inputs[2].dims.size() == 1 && inputs[2].dims[0] >= 0) {
    if (form.length >= 0 && form.length != inputs[2].dims[0]) return node.invalid("the window does not have frame_length values");
    form.length = inputs[2].dims[0];
  }
  if (form.length > kMostLength || form.length == 0) return node.invalid("a frame of " + std::to_string(form.length) + " samples");
  if (form.length > 0) form.bins = node.integer("onesided", 1) != 0 ? form.length / 2 + 1 : form.length;
  if (form.length > 0 && form.step > 0 && form.samples >= 0) form.frames = form.samples < form.length ? 0 : (form.samples - form.length) / form.step + 1;
  return form;
}

Status infer_stft(InferContext& context) {
  const NodeView& node = context.node();
  std::vector<TypeShape> inputs;
  std::vector<const HostTensor*> values;
  for (std::size_t i = 0; i < context.input_count(); ++i) {
    inputs.push_back(context.input(i));
    values.push_back(context.value(i));
  }
  if (inputs.size() < 2 || !inputs[0].present()) return node.invalid("a signal and frame_step are needed");
  FB_TRY(require_float(node, inputs[0].dtype, "the signal"));
  if (!inputs[0].has_rank) {
    context.set_output(0, inputs[0].dtype, {-1, -1, -1, 2});
    return {};
  }
  FB_ASSIGN(const StftForm form, stft_form(node, inputs, values));
  context.set_output(0, inputs[0].dtype, {form.batch, form.frames, form.bins, 2});
  return {};
}

class Stft final : public FourierKernel {
 public:
  std::string_view id() const override { return "cpu.stft"; }

 protected:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(form_, stft_form(context.node, context.inputs, context.values));
    if (form_.length < 1 || form_.step < 1) return context.node.invalid("frame_step or the frame length is not known");
    prepare_lines(context, form_.length);
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const std::int64_t parts = form_.complex ? 2 : 1;
    const T* window = in<T>(call, 2);
    for_lines(call, form_.batch * form_.frames, [&](std::int64_t f, double* line) {
      const T* x = reinterpret_cast<const T*>(call.inputs[0].data) + (f / form_.frames * form_.samples + f % form_.frames * form_.step) * parts;
      for (std::int64_t i = 0; i < form_.length; ++i) {
        const double weight = window != nullptr ? static_cast<double>(window[i]) : 1.0;
        line[2 * i] = weight * static_cast<double>(x[i * parts]);
        line[2 * i + 1] = form_.complex ? weight * static_cast<double>(x[i * parts + 1]) : 0.0;
      }
      fourier_.run(line, false, line + 2 * form_.length);
      T* y = reinterpret_cast<T*>(call.outputs[0].data) + f * form_.bins * 2;
      for (std::int64_t k = 0; k < 2 * form_.bins; ++k) y[k] = static_cast<T>(line[k]);
    });
  }
  StftForm form_;
};

Result<DType> output_type(const NodeView& node) {
  const auto type = dtype_of_onnx(node.integer("output_datatype", 1));
  if (!type || !(kernel_float(*type) || *type == DType::i32)) return node.unsupported("output_datatype " + std::to_string(node.integer("output_datatype", 1)));
  return *type;
}

Status infer_window(InferContext& context) {
  const NodeView& node = context.node();
  FB_ASSIGN(const DType type, output_type(node));
  bool known = false;
  const std::int64_t size = scalar(context.value(0), -1, &known);
  if (known && (size < 0 || size > kMostLength)) return node.invalid("a window of " + std::to_string(size));
  context.set_output(0, type, {size});
  return {};
}

class WindowFunction final : public Kernel {
 public:
  std::string_view id() const override { return "cpu.window"; }
  Status prepare(const PrepareContext& context) override {
    const std::int64_t size = context.outputs[0].dims[0];
    const double period = static_cast<double>(context.node.integer("periodic", 1) != 0 ? size : size - 1);
    values_.resize(static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const double angle = period > 0 ? 2.0 * std::numbers::pi * static_cast<double>(i) / period : 0;
      if (context.node.op() == "HannWindow") {
        values_[i] = 0.5 - 0.5 * std::cos(angle);
      } else if (context.node.op() == "HammingWindow") {
        values_[i] = 25.0 / 46.0 - 21.0 / 46.0 * std::cos(angle);
      } else {
        values_[i] = 0.42 - 0.5 * std::cos(angle) + 0.08 * std::cos(2 * angle);
      }
    }
    return {};
  }
  Status run(const KernelCall& call) override {
    for (std::size_t i = 0; i < values_.size(); ++i) store_number(call.outputs[0].dtype, call.outputs[0].data, static_cast<std::int64_t>(i), values_[i]);
    return {};
  }

 private:
  std::vector<double> values_;
};

// Inputs: num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz.
Status infer_mel(InferContext& context) {
  const NodeView& node = context.node();
  FB_ASSIGN(const DType type, output_type(node));
  bool known_bins = false, known_length = false;
  const std::int64_t bins = scalar(context.value(0), -1, &known_bins), length = scalar(context.value(1), -1, &known_length);
  if ((known_bins && (bins < 0 || bins > kMostLength)) || (known_length && (length < 0 || length > kMostLength))) return node.invalid("num_mel_bins or dft_length");
  context.set_output(0, type, {known_length ? length / 2 + 1 : -1, bins});
  return {};
}

class MelWeights final : public Kernel {
 public:
  std::string_view id() const override { return "cpu.mel"; }
  Status prepare(const PrepareContext& context) override {
    double given[5];
    for (std::size_t i = 0; i < 5; ++i) {
      if (i >= context.values.size() || context.values[i] == nullptr || context.values[i]->shape().elements() != 1) return context.node.invalid("five scalars are needed");
      given[i] = load_number(context.values[i]->dtype(), context.values[i]->data(), 0);
    }
    rows_ = context.outputs[0].dims[0];
    columns_ = context.outputs[0].dims[1];
    if (given[2] <= 0) return context.node.invalid("sample_rate is " + std::to_string(given[2]));
    const double low = 2595 * std::log10(1 + given[3] / 700), high = 2595 * std::log10(1 + given[4] / 700);
    const double step = (high - low) / static_cast<double>(columns_ + 2);
    edges_.clear();
    for (std::int64_t i = 0; i < columns_ + 2; ++i) {
      const double hertz = 700 * (std::pow(10.0, (static_cast<double>(i) * step + low) / 2595) - 1);
      const auto edge = static_cast<std::int64_t>(std::floor((given[1] + 1) * hertz / given[2]));
      if (edge < 0 || edge > rows_) return context.node.invalid("the edges are outside of the spectrum");
      edges_.push_back(edge);
    }
    return {};
  }
  Status run(const KernelCall& call) override {
    const TensorView& y = call.outputs[0];
    for (std::int64_t i = 0; i < rows_ * columns_; ++i) store_number(y.dtype, y.data, i, 0);
    for (std::int64_t column = 0; column < columns_; ++column) {
      const auto at = static_cast<std::size_t>(column);
      const std::int64_t left = edges_[at], centre = edges_[at + 1], right = edges_[at + 2];
      const auto put = [&](std::int64_t row, double value) {
        if (row < rows_) store_number(y.dtype, y.data, row * columns_ + column, value);
      };
      if (centre == left) put(centre, 1);
      for (std::int64_t j = left; j <= centre && centre > left; ++j) put(j, static_cast<double>(j - left) / static_cast<double>(centre - left));
      for (std::int64_t j = centre; j < right; ++j) put(j, static_cast<double>(right - j) / static_cast<double>(right - centre));
    }
    return {};
  }

 private:
  std::int64_t rows_ = 0, columns_ = 0;
  std::vector<std::int64_t> edges_;
};

template <typename K>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>());
}

}  // namespace

std::span<const OpSpec> signal_ops() {
  constexpr std::int32_t kAll = 0x7fffffff;
  static const OpSpec specs[] = {
      {"", "DFT", 17, kAll, kOpNone, (1u << 1) | (1u << 2), infer_dft, nullptr, create<Dft>},
      {"", "STFT", 17, kAll, kOpNone, (1u << 1) | (1u << 3), infer_stft, nullptr, create<Stft>},
      {"", "HannWindow", 17, kAll, kOpNone, 1u, infer_window, nullptr, create<WindowFunction>},
      {"", "HammingWindow", 17, kAll, kOpNone, 1u, infer_window, nullptr, create<WindowFunction>},
      {"", "BlackmanWindow", 17, kAll, kOpNone, 1u, infer_window, nullptr, create<WindowFunction>},
      {"", "MelWeightMatrix", 17, kAll, kOpNone, 0x1f, infer_mel, nullptr, create<MelWeights>},
  };
  return specs;
}

}  // namespace forebay::ops
