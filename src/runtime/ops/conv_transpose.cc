#include "runtime/ops/conv_transpose.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/cpu/gemm_blocked.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/window.h"

namespace forebay::ops {
namespace {

struct Transposed {
  WindowSpec spec;
  std::vector<std::int64_t> output;  // spatial sizes, -1 unknown
};

// Sizes and the pads that belong to them (auto_pad and output_shape give the pads from the sizes).
Result<Transposed> transposed_window(const NodeView& node, std::span<const std::int64_t> x, std::span<const std::int64_t> w) {
  const std::size_t spatial = x.size() - 2;
  Transposed t;
  FB_ASSIGN(t.spec, window_spec(node, spatial, w.subspan(2)));
  const auto extra = node.integers("output_padding"), wanted = node.integers("output_shape");
  if (!extra.empty() && extra.size() != spatial) return node.invalid("output_padding has " + std::to_string(extra.size()) + " entries");
  if (!wanted.empty() && wanted.size() != spatial && wanted.size() != spatial + 2) {
    return node.invalid("output_shape has " + std::to_string(wanted.size()) + " entries");
  }
  for (std::size_t i = 0; i < spatial; ++i) {
    const std::int64_t more = extra.empty() ? 0 : extra[i], stride = t.spec.strides[i];
    if (x[i + 2] < 0 || t.spec.kernel[i] < 0) {
      t.output.push_back(-1);
      continue;
    }
    const std::int64_t whole = stride * (x[i + 2] - 1) + more + (t.spec.kernel[i] - 1) * t.spec.dilations[i] + 1;
    const bool same = t.spec.auto_pad == AutoPad::same_upper || t.spec.auto_pad == AutoPad::same_lower;
    if (wanted.empty() && !same) {
      t.output.push_back(std::max<std::int64_t>(0, whole - t.spec.pads_begin[i] - t.spec.pads_end[i]));
      continue;
    }
    const std::int64_t size = wanted.empty() ? x[i + 2] * stride : wanted[wanted.size() - spatial + i];
    if (size < 0) return node.invalid("output_shape holds " + std::to_string(size));
    const std::int64_t total = std::max<std::int64_t>(0, whole - size);
    // SAME_UPPER puts the odd one at the end; any other mode (output_shape alone) at the beginning, as the operator's text has it.
    t.spec.pads_begin[i] = t.spec.auto_pad == AutoPad::same_upper ? total / 2 : total - total / 2;
    t.spec.pads_end[i] = total - t.spec.pads_begin[i];
    t.output.push_back(size);
  }
  return t;
}

class ConvTranspose final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.conv_transpose"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    const auto& w = context.inputs[1].dims;
    FB_ASSIGN(window_, conv_transpose_window(context.node, x, w));
    batch_ = x[0];
    channels_ = x[1];
    groups_ = context.node.integer("group", 1);
    group_filters_ = w[1];
    block_ = std::clamp<std::int64_t>(kMostRows / std::max<std::int64_t>(1, window_.taps()), 1, std::max<std::int64_t>(1, group_filters_));
    chunk_ = std::min(kChunk, std::max<std::int64_t>(1, window_.in_size()));
    gemm_floats_ = cpu::gemm_scratch_floats(set_, block_ * window_.taps(), chunk_, channels_ / groups_);
    each_ = gemm_floats_ + block_ * window_.taps() * chunk_;
    set_scratch(float_bytes(each_ * context.pool->threads()));
    return {};
  }

  Status compute(const KernelCall& call) override {
    const std::int64_t blocks = (group_filters_ + block_ - 1) / block_, items = batch_ * groups_ * blocks, threads = call.pool->threads();
    auto* scratch = reinterpret_cast<float*>(call.workspace);
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        for (std::int64_t item = items * part / threads; item < items * (part + 1) / threads; ++item) {
          run_block(call, item / blocks / groups_, item / blocks % groups_, item % blocks * block_, scratch + part * each_);
        }
      }
    });
    return {};
  }

 private:
  static constexpr std::int64_t kMostRows = 240, kChunk = 480;

  void run_block(const KernelCall& call, std::int64_t batch, std::int64_t group, std::int64_t first, float* scratch) const {
    const Window& w = window_;
    const std::int64_t filters = std::min(block_, group_filters_ - first), inner = channels_ / groups_;
    float* y = reinterpret_cast<float*>(call.outputs[0].data) + ((batch * groups_ + group) * group_filters_ + first) * w.out_size();
    const float* bias = in(call, 2);
    for (std::int64_t f = 0; f < filters; ++f) {
      std::fill(y + f * w.out_size(), y + (f + 1) * w.out_size(), bias != nullptr ? bias[group * group_filters_ + first + f] : 0.0f);
    }
    float* columns = scratch + gemm_floats_;
    cpu::GemmTask task;
    task.m = filters * w.taps();
    task.k = inner;
    const std::int64_t filter_floats = group_filters_ * w.taps();
    task.a = {call.inputs[1].data + (group * inner * filter_floats + first * w.taps()) * 4, DType::f32, 1, filter_floats};
    const std::byte* x = call.inputs[0].data + (batch * channels_ + group * inner) * w.in_size() * 4;
    task.c = columns;
    task.c_stride = chunk_;
    for (std::int64_t at = 0; at < w.in_size(); at += chunk_) {
      task.n = std::min(chunk_, w.in_size() - at);
      task.b = {x + at * 4, DType::f32, w.in_size(), 1};
      cpu::gemm_range(set_, task, 0, task.m, 0, task.n, scratch);
      for (std::int64_t row = 0; row < task.m; ++row) {
        add_row(columns + row * chunk_, at, task.n, row % w.taps(), y + row / w.taps() * w.out_size());
      }
    }
  }

  // Products of one tap for input positions [at, at + count).
  void add_row(const float* from, std::int64_t at, std::int64_t count, std::int64_t tap, float* y) const {
    const Window& w = window_;
    const std::int64_t shift_d = tap / (w.kernel[1] * w.kernel[2]) * w.dilation[0] - w.pad[0];
    const std::int64_t shift_h = tap / w.kernel[2] % w.kernel[1] * w.dilation[1] - w.pad[1];
    const std::int64_t shift_w = tap % w.kernel[2] * w.dilation[2] - w.pad[2];
    for (std::int64_t done = 0; done < count;) {
      const std::int64_t position = at + done, iw = position % w.in[2], ih = position / w.in[2] % w.in[1], id = position / (w.in[2] * w.in[1]);
      const std::int64_t run = std::min(count - done, w.in[2] - iw);
      const std::int64_t od = id * w.stride[0] + shift_d, oh = ih * w.stride[1] + shift_h;
      if (od >= 0 && od < w.out[0] && oh >= 0 && oh < w.out[1]) {
        float* row = y + (od * w.out[1] + oh) * w.out[2];
        for (std::int64_t i = 0; i < run; ++i) {
          const std::int64_t ow = (iw + i) * w.stride[2] + shift_w;
          if (ow >= 0 && ow < w.out[2]) row[ow] += from[done + i];
        }
      }
      done += run;
    }
  }

  cpu::InstructionSet set_ = cpu::cpu_instruction_set();
  Window window_;
  std::int64_t batch_ = 0, channels_ = 0, groups_ = 1, group_filters_ = 0, block_ = 1, chunk_ = 1, gemm_floats_ = 0, each_ = 0;
};

}  // namespace

Result<Window> conv_transpose_window(const NodeView& node, std::span<const std::int64_t> x, std::span<const std::int64_t> w) {
  FB_ASSIGN(const Transposed t, transposed_window(node, x, w));
  const std::size_t spatial = x.size() - 2;
  if (spatial > kMostSpatial) return node.unsupported(std::to_string(spatial) + " spatial axes; up to 3 are served");
  Window window;
  for (std::size_t i = 0; i < spatial; ++i) {
    const std::size_t at = i + kMostSpatial - spatial;
    window.in[at] = x[i + 2];
    window.out[at] = t.output[i];
    window.kernel[at] = t.spec.kernel[i];
    window.stride[at] = t.spec.strides[i];
    window.dilation[at] = t.spec.dilations[i];
    window.pad[at] = t.spec.pads_begin[i];
  }
  return window;
}

Status infer_conv_transpose(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  const TypeShape& w = context.input(1);
  if (!x.present() || !w.present()) return node.invalid("inputs X and W are needed");
  FB_TRY(require_float(node, x.dtype, "X"));
  if (x.dtype != w.dtype) return node.invalid("X and W have different types");
  const std::int64_t group = node.integer("group", 1);
  if (group < 1) return node.invalid("group is " + std::to_string(group));
  if (!x.has_rank || !w.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  if (x.dims.size() < 3 || x.dims.size() != w.dims.size()) {
    return node.invalid("X " + dims_text(x.dims) + " and W " + dims_text(w.dims) + " must have the same rank of at least 3");
  }
  if (x.dims[1] >= 0 && w.dims[0] >= 0 && (x.dims[1] != w.dims[0] || x.dims[1] % group != 0)) {
    return node.invalid("X " + dims_text(x.dims) + " does not fit W " + dims_text(w.dims) + " with group " + std::to_string(group));
  }
  const TypeShape& bias = context.input(2);
  if (bias.present() && bias.known() && w.dims[1] >= 0 && (bias.dims.size() != 1 || bias.dims[0] != w.dims[1] * group)) {
    return node.invalid("B " + dims_text(bias.dims) + " does not have one value a filter");
  }
  FB_ASSIGN(const Transposed t, transposed_window(node, x.dims, w.dims));
  std::vector<std::int64_t> dims = {x.dims[0], w.dims[1] < 0 ? -1 : w.dims[1] * group};
  dims.insert(dims.end(), t.output.begin(), t.output.end());
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

Result<std::unique_ptr<Kernel>> create_conv_transpose(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  if (!narrow_float(inputs[0].dtype)) return node.unsupported("ConvTranspose of " + std::string(dtype_name(inputs[0].dtype)));
  return std::unique_ptr<Kernel>(std::make_unique<ConvTranspose>());
}

}  // namespace forebay::ops
