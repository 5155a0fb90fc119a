#include "runtime/ops/conv_kernel.h"

#include <algorithm>
#include <atomic>
#include <string>

#include "base/check.h"
#include "runtime/cpu/conv_depthwise.h"
#include "runtime/cpu/conv_panels.h"
#include "runtime/cpu/dnnl_conv.h"
#include "runtime/cpu/gemm_blocked.h"
#include "runtime/cpu/gemv.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/epilogue.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

struct ConvSizes {
  Window window;
  std::int64_t batch = 0, channels = 0, filters = 0, groups = 1;
  std::int64_t group_channels() const { return channels / groups; }
  std::int64_t group_filters() const { return filters / groups; }
};

Result<ConvSizes> conv_sizes(const PrepareContext& context) {
  const auto& x = context.inputs[0].dims;
  const auto& w = context.inputs[1].dims;
  FB_ASSIGN(const WindowSpec spec, window_spec(context.node, x.size() - 2, std::span(w).subspan(2)));
  ConvSizes sizes;
  FB_ASSIGN(sizes.window, resolve_window(context.node, spec, std::span(x).subspan(2)));
  sizes.batch = x[0];
  sizes.channels = x[1];
  sizes.filters = w[0];
  sizes.groups = context.node.integer("group", 1);
  return sizes;
}

class FloatConv final : public FloatKernel {
 public:
  std::string_view id() const override {
    switch (path_) {
      case Path::depthwise: return "cpu.conv.depthwise";
      case Path::dot: return "cpu.conv.dot";
      case Path::library: return "cpu.dnnl.conv";
      case Path::gemm: break;
    }
    return "cpu.conv.gemm";
  }

 protected:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(sizes_, conv_sizes(context));
    FB_ASSIGN(epilogue_, epilogue_of(context.node));
    const Window& w = sizes_.window;
    sliced_ = context.sliced_input != plan::kNone;
    std::int64_t filters = sizes_.group_filters();
    slab_most_ = 0;
    for (const std::int64_t rows : context.slab_rows) slab_most_ = std::max(slab_most_, rows);
    if (sliced_ && sizes_.groups == 1) filters = slab_most_;
    const int threads = context.pool->threads();
    const bool one_patch = w.out_size() == 1 && w.taps() == w.in_size() && sizes_.groups == 1 && w.pad == std::array<std::int64_t, 3>{0, 0, 0};
    if (sizes_.group_channels() == 1 && sizes_.groups > 1 && w.taps() <= cpu::kMostDepthwiseTaps) {
      path_ = Path::depthwise;
      plane_ = {w.in, w.out, w.kernel, w.stride, w.dilation, w.pad};
      scratch_each_ = cpu::depthwise_scratch_floats(plane_);
      set_scratch(float_bytes(scratch_each_ * threads));
    } else if (one_patch && sizes_.batch <= cpu::kGemvRows) {
      path_ = Path::dot;
    } else {
      path_ = Path::gemm;
      const std::int64_t k = sizes_.group_channels() * w.taps();
      const bool many = sizes_.batch * sizes_.groups >= threads;
      grid_ = cpu::gemm_grid(set_, filters, w.out_size(), k, many ? 1 : threads);
      scratch_each_ = cpu::gemm_scratch_floats(set_, filters, w.out_size(), k);
      const std::int64_t packed = cpu::gemm_packed_floats(set_, w.out_size(), k);
      shared_ = sliced_ && context.slab_rows.size() > 1 && sizes_.groups == 1 && packed * sizes_.batch <= kMostShared;
      packed_each_ = shared_ ? packed : 0;
      set_scratch(float_bytes(packed_each_ * sizes_.batch + scratch_each_ * (many ? threads : grid_.parts())));
      if (!shared_ || w.out_size() >= kManyPositions * threads) use_library(context);
    }
    return {};
  }

  Status compute(const KernelCall& call) override {
    const std::int64_t first = sliced_ ? call.row_begin : 0, filters = sliced_ ? call.inputs[1].shape[0] : sizes_.filters;
    switch (path_) {
      case Path::depthwise: run_depthwise(call, first, filters); break;
      case Path::dot: run_dot(call, first, filters); break;
      case Path::library: FB_TRY(run_library(call, first, filters)); break;
      case Path::gemm: run_gemm(call, first, filters); break;
    }
    const bool sums = in(call, 3) != nullptr;
    if (sums) add(call, first, filters);
    if (epilogue_.loop != nullptr && (sums || path_ == Path::dot || path_ == Path::library)) activate(call, first, filters);
    return {};
  }

 private:
  // Floats of patches that the slabs of a weight share: made for the first one and kept, as long as they are no more than the caches hold.
  static constexpr std::int64_t kMostShared = 2 << 20;
  // Outputs of a channel for each thread from which reordering slabs for the library costs less than it saves.
  static constexpr std::int64_t kManyPositions = 256;
  enum class Path : std::uint8_t { depthwise, dot, gemm, library };

  // Rows [row, row + rows) of the output, as a convolution of its own.
  struct Part {
    std::int64_t x_offset, y_offset;
    std::unique_ptr<cpu::DnnlConv> conv;
  };
  struct Library {
    std::int64_t filters;
    std::vector<Part> parts;
  };

  // oneDNN for images and true windows: on its own layouts it beats packing patches. Elsewhere our product is as fast and needs no reorder.
  void use_library(const PrepareContext& context) {
    library_.clear();
    const Window& w = sizes_.window;
    const double work = static_cast<double>(w.out_size()) * static_cast<double>(sizes_.filters * sizes_.channels * w.taps());
    if (sizes_.groups != 1 || w.spatial != 2 || w.taps() == 1 || work < 1e6 || set_ == cpu::InstructionSet::baseline) return;
    for (const std::int64_t pad : {w.pad[1], w.pad[2], w.pad_end[1], w.pad_end[2]}) {
      if (pad < 0) return;
    }
    std::vector<std::int64_t> sizes(context.slab_rows.begin(), context.slab_rows.end());
    if (!sliced_) sizes.assign(1, sizes_.filters);
    const bool bias = context.inputs.size() > 2 && context.inputs[2].present();
    const std::int64_t parts = std::min<std::int64_t>(context.pool->threads(), w.out[1]);
    library_scratch_ = 0;
    for (const std::int64_t filters : sizes) {
      if (find_library(filters) != nullptr) continue;
      Library library{filters, {}};
      for (std::int64_t part = 0; part < parts; ++part) {
        library.parts.push_back(make_part(filters, bias, w.out[1] * part / parts, w.out[1] * (part + 1) / parts));
        if (library.parts.back().conv == nullptr) return library_.clear();
        library_scratch_ = std::max(library_scratch_, padded_bytes(library.parts.back().conv->scratch_bytes()));
      }
      library_.push_back(std::move(library));
    }
    path_ = Path::library;
    set_scratch(library_scratch_ * static_cast<std::uint64_t>(parts));
  }
  Part make_part(std::int64_t filters, bool bias, std::int64_t begin, std::int64_t end) const {
    const Window& w = sizes_.window;
    const std::int64_t top = begin * w.stride[1] - w.pad[1], bottom = (end - 1) * w.stride[1] - w.pad[1] + (w.kernel[1] - 1) * w.dilation[1] + 1;
    const std::int64_t first = std::clamp<std::int64_t>(top, 0, w.in[1]), last = std::clamp<std::int64_t>(bottom, first, w.in[1]);
    if (last == first) return {0, 0, nullptr};
    cpu::DnnlConvShape shape;
    shape.batch = sizes_.batch;
    shape.channels = sizes_.channels;
    shape.filters = filters;
    shape.in = {last - first, w.in[2]};
    shape.out = {end - begin, w.out[2]};
    shape.kernel = {w.kernel[1], w.kernel[2]};
    shape.stride = {w.stride[1], w.stride[2]};
    shape.dilation = {w.dilation[1], w.dilation[2]};
    shape.pad_begin = {first - top, w.pad[2]};
    // What the last window needs beyond the input, not the declared padding: oneDNN checks that sizes agree.
    shape.pad_end = {bottom - last, (w.out[2] - 1) * w.stride[2] - w.pad[2] + (w.kernel[2] - 1) * w.dilation[2] + 1 - w.in[2]};
    shape.bias = bias;
    shape.x_image = sizes_.channels * w.in_size();
    shape.x_channel = w.in_size();
    shape.y_image = sizes_.filters * w.out_size();
    shape.y_channel = w.out_size();
    return {first * w.in[2], begin * w.out[2], cpu::DnnlConv::create(shape)};
  }
  const Library* find_library(std::int64_t filters) const {
    for (const Library& one : library_) {
      if (one.filters == filters) return &one;
    }
    return nullptr;
  }
  Status run_library(const KernelCall& call, std::int64_t first, std::int64_t filters) const {
    const Library* library = find_library(filters);
    if (library == nullptr) return Status(Code::internal, "a slab of a size that was not prepared");
    const float* bias = in(call, 2);
    std::atomic<bool> failed = false;
    call.pool->parallel_for(static_cast<std::int64_t>(library->parts.size()), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Part& part = library->parts[static_cast<std::size_t>(i)];
        const Status status = part.conv->run(in(call, 0) + part.x_offset, in(call, 1), bias != nullptr ? bias + first : nullptr,
                                             out(call) + first * sizes_.window.out_size() + part.y_offset,
                                             call.workspace + library_scratch_ * static_cast<std::uint64_t>(i));
        if (!status.ok()) failed = true;
      }
    });
    return failed ? Status(Code::internal, "oneDNN failed to execute a convolution") : Status();
  }

  // The finished planes of this slab.
  void activate(const KernelCall& call, std::int64_t first, std::int64_t filters) const {
    const std::int64_t plane = sizes_.window.out_size(), count = filters * plane;
    for (std::int64_t batch = 0; batch < sizes_.batch; ++batch) {
      float* y = out(call) + (batch * sizes_.filters + first) * plane;
      call.pool->parallel_for(count, 16384, [&](std::int64_t begin, std::int64_t end) { epilogue_.apply(y + begin, end - begin); });
    }
  }

  void add(const KernelCall& call, std::int64_t first, std::int64_t filters) const {
    const std::int64_t plane = sizes_.window.out_size(), count = filters * plane;
    for (std::int64_t batch = 0; batch < sizes_.batch; ++batch) {
      const std::int64_t at = (batch * sizes_.filters + first) * plane;
      const float* sum = in(call, 3) + at;
      float* y = out(call) + at;
      call.pool->parallel_for(count, 16384, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) y[i] += sum[i];
      });
    }
  }

  static float* out(const KernelCall& call) { return reinterpret_cast<float*>(call.outputs[0].data); }

  void run_depthwise(const KernelCall& call, std::int64_t first, std::int64_t filters) const {
    const float* bias = in(call, 2);
    auto* scratch = reinterpret_cast<float*>(call.workspace);
    const std::int64_t planes = sizes_.batch * filters, threads = call.pool->threads(), taps = sizes_.window.taps();
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        for (std::int64_t i = planes * part / threads; i < planes * (part + 1) / threads; ++i) {
          const std::int64_t batch = i / filters, row = i % filters, filter = first + row;
          const std::int64_t channel = filter / sizes_.group_filters();
          float* y = out(call) + (batch * sizes_.filters + filter) * sizes_.window.out_size();
          cpu::depthwise_plane(set_, plane_, in(call, 0) + (batch * sizes_.channels + channel) * sizes_.window.in_size(), in(call, 1) + row * taps,
                               bias != nullptr ? bias[filter] : 0.0f, y, scratch + part * scratch_each_);
          if (in(call, 3) == nullptr) epilogue_.apply(y, sizes_.window.out_size());
        }
      }
    });
  }

  void run_dot(const KernelCall& call, std::int64_t first, std::int64_t filters) const {
    cpu::GemvTask task;
    task.weights = call.inputs[1].data;
    task.n = filters;
    task.k = sizes_.channels * sizes_.window.taps();
    task.x = in(call, 0);
    task.x_stride = task.k;
    task.m = sizes_.batch;
    task.y = out(call) + first;
    task.y_stride = sizes_.filters;
    const float* bias = in(call, 2);
    const std::int64_t grain = std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(1, task.k));
    call.pool->parallel_for(filters, grain, [&](std::int64_t begin, std::int64_t end) {
      cpu::gemv_row_dot(set_, task, begin, end);
      if (bias == nullptr) return;
      for (std::int64_t m = 0; m < task.m; ++m) {
        for (std::int64_t n = begin; n < end; ++n) task.y[m * task.y_stride + n] += bias[first + n];
      }
    });
  }

  // The product of one image and one group; `panels` is filled and must live as long as the task.
  cpu::GemmTask gemm_task(const KernelCall& call, std::int64_t first, std::int64_t filters, std::int64_t item, cpu::ConvPanels& panels) const {
    const Window& w = sizes_.window;
    const std::int64_t batch = item / sizes_.groups, group = item % sizes_.groups;
    const std::int64_t rows = sizes_.groups == 1 ? filters : sizes_.group_filters();
    cpu::GemmTask task;
    task.m = rows;
    task.n = w.out_size();
    task.k = sizes_.group_channels() * w.taps();
    const float* image = in(call, 0) + (batch * sizes_.channels + group * sizes_.group_channels()) * w.in_size();
    task.a = {call.inputs[1].data + group * rows * task.k * 4, DType::f32, task.k, 1};
    const bool plain = w.taps() == 1 && w.stride == std::array<std::int64_t, 3>{1, 1, 1} && w.in == w.out && w.pad == std::array<std::int64_t, 3>{0, 0, 0};
    if (plain) {
      task.b = {reinterpret_cast<const std::byte*>(image), DType::f32, task.n, 1};
    } else {
      panels.in = image;
      panels.in_dims = w.in;
      panels.out_dims = w.out;
      panels.kernel = w.kernel;
      panels.stride = w.stride;
      panels.dilation = w.dilation;
      panels.pad = w.pad;
      task.panels = &panels;
    }
    task.c = out(call) + (batch * sizes_.filters + group * rows + first) * task.n;
    task.c_stride = task.n;
    const float* bias = in(call, 2);
    task.row_bias = bias != nullptr ? bias + group * rows + first : nullptr;
    return task;
  }

  void run_gemm(const KernelCall& call, std::int64_t first, std::int64_t filters) const {
    auto* packed = reinterpret_cast<float*>(call.workspace);
    auto* scratch = packed + packed_each_ * sizes_.batch;
    const std::int64_t items = sizes_.batch * sizes_.groups, threads = call.pool->threads();
    if (shared_ && call.slab == 0) {
      for (std::int64_t item = 0; item < items; ++item) {
        cpu::ConvPanels panels;
        cpu::gemm_pack(set_, gemm_task(call, first, filters, item, panels), *call.pool, packed + item * packed_each_);
      }
    }
    const auto multiply = [&](std::int64_t item, cpu::GemmGrid grid, std::int64_t part, float* own) {
      cpu::ConvPanels panels;
      cpu::GemmTask task = gemm_task(call, first, filters, item, panels);
      if (shared_) task.packed = packed + item * packed_each_;
      const cpu::GemmRange range = cpu::gemm_range_of(set_, task, grid, part);
      cpu::gemm_range(set_, task, range.m0, range.m1, range.n0, range.n1, own);
      if (in(call, 3) != nullptr) return;  // the activation comes behind the sum
      for (std::int64_t m = range.m0; m < range.m1; ++m) epilogue_.apply(task.c + m * task.c_stride + range.n0, range.n1 - range.n0);
    };
    if (items < threads) {
      for (std::int64_t item = 0; item < items; ++item) {
        call.pool->parallel_for(grid_.parts(), 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t part = begin; part < end; ++part) multiply(item, grid_, part, scratch + part * scratch_each_);
        });
      }
      return;
    }
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        for (std::int64_t item = items * part / threads; item < items * (part + 1) / threads; ++item) multiply(item, {1, 1}, 0, scratch + part * scratch_each_);
      }
    });
  }

  cpu::InstructionSet set_ = cpu::cpu_instruction_set();
  ConvSizes sizes_;
  Epilogue epilogue_;
  Path path_ = Path::gemm;
  cpu::DepthwisePlane plane_{};
  cpu::GemmGrid grid_;
  bool sliced_ = false, shared_ = false;
  std::int64_t slab_most_ = 0, scratch_each_ = 0, packed_each_ = 0;
  std::vector<Library> library_;
  std::uint64_t library_scratch_ = 0;
};

class DoubleConv final : public Kernel {
 public:
  Status prepare(const PrepareContext& context) override {
    FB_ASSIGN(sizes_, conv_sizes(context));
    return {};
  }
  Status run(const KernelCall& call) override {
    call.pool->parallel_for(sizes_.batch * sizes_.filters, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) run_plane(call, i / sizes_.filters, i % sizes_.filters);
    });
    return {};
  }
  std::string_view id() const override { return "cpu.conv.f64"; }

 private:
  void run_plane(const KernelCall& call, std::int64_t batch, std::int64_t filter) const {
    const Window& w = sizes_.window;
    const std::int64_t group = filter / sizes_.group_filters();
    const auto* x = reinterpret_cast<const double*>(call.inputs[0].data) + (batch * sizes_.channels + group * sizes_.group_channels()) * w.in_size();
    const auto* weights = reinterpret_cast<const double*>(call.inputs[1].data) + filter * sizes_.group_channels() * w.taps();
    const bool has_bias = call.inputs.size() > 2 && call.inputs[2].present();
    const double bias = has_bias ? reinterpret_cast<const double*>(call.inputs[2].data)[filter] : 0.0;
    double* y = reinterpret_cast<double*>(call.outputs[0].data) + (batch * sizes_.filters + filter) * w.out_size();
    for (std::int64_t i = 0; i < w.out_size(); ++i) {
      const std::int64_t at[3] = {i / (w.out[1] * w.out[2]), i / w.out[2] % w.out[1], i % w.out[2]};
      double sum = 0;
      for (std::int64_t c = 0; c < sizes_.group_channels(); ++c) sum += patch(x + c * w.in_size(), weights + c * w.taps(), at);
      y[i] = sum + bias;
    }
  }
  double patch(const double* x, const double* weights, const std::int64_t* at) const {
    const Window& w = sizes_.window;
    double sum = 0;
    for (std::int64_t t = 0; t < w.taps(); ++t) {
      const std::int64_t d = at[0] * w.stride[0] + t / (w.kernel[1] * w.kernel[2]) * w.dilation[0] - w.pad[0];
      const std::int64_t h = at[1] * w.stride[1] + t / w.kernel[2] % w.kernel[1] * w.dilation[1] - w.pad[1];
      const std::int64_t v = at[2] * w.stride[2] + t % w.kernel[2] * w.dilation[2] - w.pad[2];
      if (d < 0 || d >= w.in[0] || h < 0 || h >= w.in[1] || v < 0 || v >= w.in[2]) continue;
      sum += weights[t] * x[(d * w.in[1] + h) * w.in[2] + v];
    }
    return sum;
  }
  ConvSizes sizes_;
};

}  // namespace

std::unique_ptr<Kernel> create_conv_kernel(DType dtype) {
  if (dtype == DType::f64) return std::make_unique<DoubleConv>();
  return std::make_unique<FloatConv>();
}

}  // namespace forebay::ops
