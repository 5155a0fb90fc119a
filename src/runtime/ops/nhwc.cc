#include "runtime/ops/nhwc.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/epilogue.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {

Result<Window> nhwc_window(const NodeView& node, std::span<const std::int64_t> x) {
  FB_ASSIGN(const WindowSpec spec, window_spec(node, 2, {}));
  return resolve_window(node, spec, x.subspan(1, 2));
}

namespace {

Status check_image(const NodeView& node, const TypeShape& x) {
  if (!x.present()) return node.invalid("an input is needed");
  FB_TRY(require_float(node, x.dtype, "X"));
  if (!narrow_float(x.dtype)) return node.unsupported("images of " + std::string(dtype_name(x.dtype)));
  if (!x.has_rank || x.dims.size() != 4) return node.invalid("the input must be [N,H,W,C], but is " + dims_text(x.dims));
  return {};
}

// [N,H,W,channels] behind the node's window.
Result<std::vector<std::int64_t>> windowed(const NodeView& node, const TypeShape& x, std::int64_t channels) {
  FB_ASSIGN(const WindowSpec spec, window_spec(node, 2, {}));
  std::vector<std::int64_t> dims = {x.dims[0], window_output(spec, 0, x.dims[1]), window_output(spec, 1, x.dims[2]), channels};
  for (std::size_t d = 1; d < 3; ++d) {
    if (dims[d] == 0 && x.dims[d] > 0) return node.invalid("the window is larger than the padded input " + dims_text(x.dims));
  }
  return dims;
}

// One number a channel, of each image or of all.
Status check_factors(const NodeView& node, const TypeShape& x, const TypeShape& scale) {
  FB_TRY(check_image(node, scale));
  const auto meet = [](std::int64_t a, std::int64_t b) { return a < 0 || b < 0 || a == b; };
  const bool fits = scale.dtype == x.dtype && (scale.dims[0] == 1 || meet(scale.dims[0], x.dims[0])) && meet(scale.dims[1], 1) &&
                    meet(scale.dims[2], 1) && meet(scale.dims[3], x.dims[3]);
  return fits ? Status() : node.invalid("the factors " + dims_text(scale.dims) + " are not one a channel of " + dims_text(x.dims));
}

Status infer_conv(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape &x = context.input(0), &w = context.input(1), &bias = context.input(2), &sum = context.input(3);
  FB_TRY(check_image(node, x));
  if (!w.known() || w.dims.empty() || w.dtype != x.dtype) return node.invalid("W must be of X's type and of known shape");
  const std::int64_t group = node.integer("group", 1), filters = w.dims[0], channels = x.dims[3];
  FB_ASSIGN(const WindowSpec spec, window_spec(node, 2, {}));
  if (group < 1 || filters % group != 0 || (channels >= 0 && channels % group != 0))
    return node.invalid("group is " + std::to_string(group));
  const auto taps = static_cast<std::uint64_t>(spec.kernel[0] * spec.kernel[1]);  // each at most 2^31
  const auto depth = channels < 0 ? std::nullopt : checked_mul(taps, static_cast<std::uint64_t>(channels / group));
  const auto numbers = depth ? checked_mul(*depth, static_cast<std::uint64_t>(filters)) : std::nullopt;
  if (channels >= 0 && (!numbers || static_cast<std::uint64_t>(w.shape().elements()) != *numbers))
    return node.invalid("X " + dims_text(x.dims) + " does not fit W " + dims_text(w.dims));
  if (bias.present() && (bias.dtype != x.dtype || bias.dims != std::vector<std::int64_t>{filters}))
    return node.invalid("B does not have one value a filter");
  FB_ASSIGN(std::vector<std::int64_t> dims, windowed(node, x, filters));
  if (sum.present() && (sum.dtype != x.dtype || (sum.known() && std::find(dims.begin(), dims.end(), -1) == dims.end() && sum.dims != dims)))
    return node.invalid("what is added, " + dims_text(sum.dims) + ", does not have the shape of the output, " + dims_text(dims));
  const TypeShape& scale = context.input(4);
  if (scale.present() && (spec.kernel[0] * spec.kernel[1] != 1 || group != 1))
    return node.invalid("factors for more than one tap or group");
  if (scale.present()) FB_TRY(check_factors(node, x, scale));
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

plan::Consumption consume_conv(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs) {
  if (input != 1 || inputs.size() < 2 || !inputs[0].has_rank || inputs[0].dims.size() != 4) return plan::Consumption::whole;
  const std::int64_t group = node.integer("group", 1);
  return group == 1 || inputs[0].dims[3] == group ? plan::Consumption::by_output : plan::Consumption::whole;
}

Status infer_pool(InferContext& context) {
  const TypeShape& x = context.input(0);
  FB_TRY(check_image(context.node(), x));
  FB_ASSIGN(std::vector<std::int64_t> dims, windowed(context.node(), x, x.dims[3]));
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

Status infer_global(InferContext& context) {
  const TypeShape& x = context.input(0);
  FB_TRY(check_image(context.node(), x));
  context.set_output(0, x.dtype, {x.dims[0], 1, 1, x.dims[3]});
  return {};
}

// A matrix of `rows` by `columns` numbers (-1: as many as it has), its rows first, and a number a row.
Status check_matrix(const NodeView& node, const TypeShape& x, const TypeShape& w, const TypeShape& bias, std::int64_t columns) {
  if (!w.known() || w.dims.empty() || w.dims[0] < 1 || w.dtype != x.dtype)
    return node.invalid("weights must be of X's type and of known shape");
  if (columns >= 0 && w.shape().elements() / w.dims[0] != columns)
    return node.invalid("weights " + dims_text(w.dims) + " do not have " + std::to_string(columns) + " numbers a row");
  const bool fits = !bias.present() || (bias.dtype == x.dtype && bias.dims == std::vector<std::int64_t>{w.dims[0]});
  return fits ? Status() : node.invalid("a bias does not have one value a row of " + dims_text(w.dims));
}

Status infer_squeeze(InferContext& context) {
  const TypeShape &x = context.input(0), &down = context.input(1), &up = context.input(3);
  FB_TRY(check_image(context.node(), x));
  FB_TRY(check_matrix(context.node(), x, down, context.input(2), x.dims[3]));
  FB_TRY(check_matrix(context.node(), x, up, context.input(4), down.dims[0]));
  context.set_output(0, x.dtype, {x.dims[0], 1, 1, up.dims[0]});
  return {};
}

Status infer_scale(InferContext& context) {
  const TypeShape &x = context.input(0), &scale = context.input(1);
  FB_TRY(check_image(context.node(), x));
  FB_TRY(check_factors(context.node(), x, scale));
  context.set_output(0, x.dtype, x.dims);
  return {};
}

Status infer_from(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  FB_TRY(check_image(node, x));
  const std::int64_t least = node.integer("channels", 0);
  context.set_output(0, x.dtype, {x.dims[0], x.dims[2], x.dims[3], x.dims[1] < 0 ? -1 : std::max(x.dims[1], least)});
  return {};
}

float* out(const KernelCall& call) {
  return reinterpret_cast<float*>(call.outputs[0].data);
}

// Eight sums side by side, then pairs. With factors of a or without.
float dot(const float* a, const float* factors, const float* b, std::int64_t count) {
  float sums[8] = {};
  std::int64_t i = 0;
  for (; factors == nullptr && i + 8 <= count; i += 8) {
    for (std::int64_t j = 0; j < 8; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (; i < count; ++i) sums[i & 7] += (factors != nullptr ? a[i] * factors[i] : a[i]) * b[i];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

class NhwcConv final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.nhwc.conv"; }

 protected:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(window_, nhwc_window(context.node, context.inputs[0].dims));
    FB_ASSIGN(epilogue_, epilogue_of(context.node));
    sliced_ = context.sliced_input != plan::kNone;
    batch_ = context.inputs[0].dims[0];
    pitch_ = context.inputs[0].dims[3];
    filters_ = context.outputs[0].dims[3];
    groups_ = context.node.integer("group", 1);
    return {};
  }
  Status compute(const KernelCall& call) override {
    const std::int64_t first = sliced_ ? call.row_begin : 0, count = sliced_ ? call.inputs[1].shape[0] : filters_;
    call.pool->parallel_for(batch_ * window_.out[1], 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t line = begin; line < end; ++line) {
        for (std::int64_t ox = 0; ox < window_.out[2]; ++ox) run_pixel(call, line, ox, first, count);
      }
    });
    return {};
  }

 private:
  void run_pixel(const KernelCall& call, std::int64_t line, std::int64_t ox, std::int64_t first, std::int64_t count) const {
    const std::int64_t channels = pitch_ / groups_, each = filters_ / groups_, at = (line * window_.out[2] + ox) * filters_ + first;
    const std::int64_t top = line % window_.out[1] * window_.stride[1] - window_.pad[1], left = ox * window_.stride[2] - window_.pad[2];
    const float* const image = in(call, 0) + line / window_.out[1] * window_.in[1] * window_.in[2] * pitch_;
    const float* factors = in(call, 4);
    if (factors != nullptr && call.inputs[4].shape[0] > 1) factors += line / window_.out[1] * pitch_;
    for (std::int64_t f = 0; f < count; ++f) {
      float sum = 0;
      const float* w = in(call, 1) + f * window_.taps() * channels;
      for (std::int64_t ky = 0; ky < window_.kernel[1]; ++ky) {
        for (std::int64_t kx = 0; kx < window_.kernel[2]; ++kx, w += channels) {
          const std::int64_t y = top + ky * window_.dilation[1], x = left + kx * window_.dilation[2];
          if (y < 0 || y >= window_.in[1] || x < 0 || x >= window_.in[2]) continue;
          sum += dot(image + (y * window_.in[2] + x) * pitch_ + (first + f) / each * channels, factors, w, channels);
        }
      }
      if (in(call, 2) != nullptr) sum += in(call, 2)[first + f];
      if (in(call, 3) != nullptr) sum += in(call, 3)[at + f];
      out(call)[at + f] = sum;
    }
    epilogue_.apply(out(call) + at, count);
  }

  Window window_;
  Epilogue epilogue_;
  std::int64_t batch_ = 0, pitch_ = 0, filters_ = 0, groups_ = 1;
  bool sliced_ = false;
};

// A global pool is one window over the image.
class NhwcPool final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.nhwc.pool"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    const std::string_view op = context.node.op();
    average_ = op.find("Average") != op.npos;
    count_pads_ = context.node.integer("count_include_pad", 0) != 0;
    batch_ = x[0];
    channels_ = x[3];
    if (op.find("Global") == op.npos) {
      FB_ASSIGN(window_, nhwc_window(context.node, x));
    } else {
      window_ = Window();
      window_.in = window_.kernel = {1, x[1], x[2]};
    }
    return {};
  }
  Status compute(const KernelCall& call) override {
    call.pool->parallel_for(batch_ * window_.out[1], 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t line = begin; line < end; ++line) {
        for (std::int64_t ox = 0; ox < window_.out[2]; ++ox) run_pixel(call, line, ox);
      }
    });
    return {};
  }

 private:
  // Taps of axis d that count when padding does: those inside of the padded input.
  std::int64_t padded_taps(std::size_t d, std::int64_t start) const {
    const std::int64_t room = window_.in[d] + window_.pad_end[d] - start;
    return std::clamp<std::int64_t>((room + window_.dilation[d] - 1) / window_.dilation[d], 0, window_.kernel[d]);
  }
  void run_pixel(const KernelCall& call, std::int64_t line, std::int64_t ox) const {
    const std::int64_t top = line % window_.out[1] * window_.stride[1] - window_.pad[1], left = ox * window_.stride[2] - window_.pad[2];
    const float* const image = in(call, 0) + line / window_.out[1] * window_.in[1] * window_.in[2] * channels_;
    float* const y = out(call) + (line * window_.out[2] + ox) * channels_;
    std::int64_t seen = 0;
    std::fill_n(y, channels_, average_ ? 0.0f : -std::numeric_limits<float>::infinity());
    for (std::int64_t ky = 0; ky < window_.kernel[1]; ++ky) {
      for (std::int64_t kx = 0; kx < window_.kernel[2]; ++kx) {
        const std::int64_t row = top + ky * window_.dilation[1], column = left + kx * window_.dilation[2];
        if (row < 0 || row >= window_.in[1] || column < 0 || column >= window_.in[2]) continue;
        const float* const x = image + (row * window_.in[2] + column) * channels_;
        for (std::int64_t c = 0; c < channels_; ++c) y[c] = average_ ? y[c] + x[c] : x[c] > y[c] || x[c] != x[c] ? x[c] : y[c];
        ++seen;
      }
    }
    if (!average_) return;
    const std::int64_t count = count_pads_ ? padded_taps(1, top) * padded_taps(2, left) : seen;
    for (std::int64_t c = 0; c < channels_; ++c) y[c] = count > 0 ? y[c] / static_cast<float>(count) : 0.0f;
  }

  Window window_;
  std::int64_t batch_ = 0, channels_ = 0;
  bool average_ = false, count_pads_ = false;
};

class NhwcSqueeze final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.nhwc.squeeze"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    FB_ASSIGN(down_, epilogue_of(context.node, "squeeze_activation"));
    FB_ASSIGN(up_, epilogue_of(context.node));
    batch_ = x[0];
    pixels_ = x[1] * x[2];
    channels_ = x[3];
    squeezed_ = context.inputs[1].dims[0];
    factors_ = context.outputs[0].dims[3];
    set_scratch(static_cast<std::uint64_t>(batch_ * (channels_ + squeezed_)) * sizeof(float));
    return {};
  }
  Status compute(const KernelCall& call) override {
    call.pool->parallel_for(batch_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t image = begin; image < end; ++image) run_image(call, image);
    });
    return {};
  }

 private:
  void run_image(const KernelCall& call, std::int64_t image) const {
    float* const mean = reinterpret_cast<float*>(call.workspace) + image * (channels_ + squeezed_);
    std::fill_n(mean, channels_, 0.0f);
    for (std::int64_t p = 0; p < pixels_; ++p) {
      const float* const x = in(call, 0) + (image * pixels_ + p) * channels_;
      for (std::int64_t c = 0; c < channels_; ++c) mean[c] += x[c];
    }
    for (std::int64_t c = 0; c < channels_; ++c) mean[c] /= static_cast<float>(pixels_);
    float *const squeezed = mean + channels_, *const y = out(call) + image * factors_;
    multiply(in(call, 1), in(call, 2), mean, channels_, squeezed, squeezed_);
    down_.apply(squeezed, squeezed_);
    multiply(in(call, 3), in(call, 4), squeezed, squeezed_, y, factors_);
    up_.apply(y, factors_);
  }
  static void multiply(const float* w, const float* bias, const float* x, std::int64_t columns, float* y, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; ++r) y[r] = dot(x, nullptr, w + r * columns, columns) + (bias != nullptr ? bias[r] : 0.0f);
  }

  Epilogue down_, up_;
  std::int64_t batch_ = 0, pixels_ = 0, channels_ = 0, squeezed_ = 0, factors_ = 0;
};

class NhwcScale final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.nhwc.scale"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    pixels_ = x[1] * x[2];
    channels_ = x[3];
    return {};
  }
  Status compute(const KernelCall& call) override {
    call.pool->parallel_for(call.inputs[0].shape[0] * pixels_, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const float* const scale = in(call, 1) + (call.inputs[1].shape[0] == 1 ? 0 : i / pixels_ * channels_);
        for (std::int64_t c = 0; c < channels_; ++c) out(call)[i * channels_ + c] = in(call, 0)[i * channels_ + c] * scale[c];
      }
    });
    return {};
  }

 private:
  std::int64_t pixels_ = 0, channels_ = 0;
};

class NhwcFromNchw final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.nhwc.from"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    channels_ = x[1];
    pixels_ = x[2] * x[3];
    wide_ = context.outputs[0].dims[3];
    return {};
  }
  Status compute(const KernelCall& call) override {
    call.pool->parallel_for(call.inputs[0].shape[0] * pixels_, 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const float* const x = in(call, 0) + i / pixels_ * channels_ * pixels_ + i % pixels_;
        for (std::int64_t c = 0; c < wide_; ++c) out(call)[i * wide_ + c] = c < channels_ ? x[c * pixels_] : 0.0f;
      }
    });
    return {};
  }

 private:
  std::int64_t channels_ = 0, pixels_ = 0, wide_ = 0;
};

template <typename K>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>());
}

}  // namespace

std::span<const OpSpec> nhwc_ops() {
  constexpr std::int32_t kAll = 0x7fffffff;
  static const OpSpec specs[] = {
      {"forebay", "NhwcConv", 1, kAll, kOpNone, 0, infer_conv, consume_conv,
       create<NhwcConv>},  // W is [O, tap, channel] in any shape; inputs as forebay.Conv, then factors of X
      {"forebay", "NhwcMaxPool", 1, kAll, kOpNone, 0, infer_pool, nullptr, create<NhwcPool>},
      {"forebay", "NhwcAveragePool", 1, kAll, kOpNone, 0, infer_pool, nullptr, create<NhwcPool>},
      {"forebay", "NhwcGlobalAveragePool", 1, kAll, kOpNone, 0, infer_global, nullptr, create<NhwcPool>},
      {"forebay", "NhwcSqueeze", 1, kAll, kOpNone, 0, infer_squeeze, nullptr,
       create<NhwcSqueeze>},  // X's mean, then W, B and an activation twice: squeeze_activation, activation
      {"forebay", "NhwcScale", 1, kAll, kOpNone, 0, infer_scale, nullptr, create<NhwcScale>},  // times one number a channel of each image
      {"forebay", "NhwcFromNchw", 1, kAll, kOpNone, 0, infer_from, nullptr, create<NhwcFromNchw>},  // `channels` at least, zeros behind
  };
  return specs;
}

}  // namespace forebay::ops
