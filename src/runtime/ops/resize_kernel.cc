// Nearest: an index table an axis, rows copied. Linear and cubic: one pass an axis, from the outermost in, so that rows stay vectors.
#include "runtime/ops/resize_kernel.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

Result<std::vector<AxisTaps>> prepare_taps(const PrepareContext& context, ResizeRules* rules, std::vector<ResizeAxis>* axes) {
  FB_ASSIGN(*rules, resize_rules(context.node));
  bool known = false;
  FB_ASSIGN(*axes, resize_geometry(context.node, context.inputs[0], context.values, &known));
  if (!known) return context.node.invalid("the sizes are not known");
  std::vector<AxisTaps> taps;
  for (const ResizeAxis& axis : *axes) {
    if (axis.in == 0 && axis.out > 0) return context.node.invalid("an empty axis cannot grow");
    taps.push_back(axis_taps(*rules, axis));
  }
  return taps;
}

class ResizeNearest final : public Kernel {
 public:
  std::string_view id() const override { return "cpu.resize.nearest"; }
  Status prepare(const PrepareContext& context) override {
    FB_ASSIGN(taps_, prepare_taps(context, &rules_, &axes_));
    size_ = dtype_bits(context.inputs[0].dtype) / 8;
    extrapolation_ = HostTensor(context.inputs[0].dtype, Shape{1});
    crops_ = false;
    for (const AxisTaps& taps : taps_) crops_ = crops_ || std::find(taps.outside.begin(), taps.outside.end(), 1) != taps.outside.end();
    if (crops_) {
      if (context.inputs[0].dtype != DType::f32) return context.node.unsupported("tf_crop_and_resize of another type than f32");
      extrapolation_.as<float>()[0] = static_cast<float>(rules_.extrapolation);
    }
    return {};
  }
  Status run(const KernelCall& call) override {
    if (axes_.empty()) {
      std::memcpy(call.outputs[0].data, call.inputs[0].data, static_cast<std::size_t>(size_));
      return {};
    }
    const std::int64_t width = axes_.back().out;
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < axes_.size(); ++i) rows *= axes_[i].out;
    if (width == 0 || rows == 0) return {};
    call.pool->parallel_for(rows, std::max<std::int64_t>(1, 8192 / width), [&](std::int64_t begin, std::int64_t end) {
      std::int64_t previous = -1;
      for (std::int64_t row = begin; row < end; ++row) {
        std::int64_t rest = row, from = 0, stride = axes_.back().in;
        bool outside = false;
        for (std::size_t axis = axes_.size() - 1; axis-- > 0;) {
          const auto at = static_cast<std::size_t>(rest % axes_[axis].out);
          rest /= axes_[axis].out;
          from += taps_[axis].index[at] * stride;
          stride *= axes_[axis].in;
          outside = outside || (!taps_[axis].outside.empty() && taps_[axis].outside[at] != 0);
        }
        std::byte* to = call.outputs[0].data + row * width * size_;
        if (from == previous && !crops_) {
          std::memcpy(to, to - width * size_, static_cast<std::size_t>(width * size_));
        } else {
          copy_row(call.inputs[0].data + from * size_, outside, to);
        }
        previous = from;
      }
    });
    return {};
  }

 private:
  template <typename T>
  void copy_typed(const std::byte* from, std::byte* to) const {
    const auto& index = taps_.back().index;
    for (std::size_t i = 0; i < index.size(); ++i) reinterpret_cast<T*>(to)[i] = reinterpret_cast<const T*>(from)[index[i]];
  }
  void copy_row(const std::byte* from, bool outside, std::byte* to) const {
    switch (size_) {
      case 1: copy_typed<std::uint8_t>(from, to); break;
      case 2: copy_typed<std::uint16_t>(from, to); break;
      case 4: copy_typed<std::uint32_t>(from, to); break;
      default: copy_typed<std::uint64_t>(from, to); break;
    }
    if (!crops_) return;
    const auto& columns = taps_.back().outside;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      if (outside || columns[i] != 0) std::memcpy(to + static_cast<std::int64_t>(i) * size_, extrapolation_.data(), static_cast<std::size_t>(size_));
    }
  }
  ResizeRules rules_;
  std::vector<ResizeAxis> axes_;
  std::vector<AxisTaps> taps_;
  HostTensor extrapolation_;
  std::int64_t size_ = 4;
  bool crops_ = false;
};

class ResizeInterpolated final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.resize.interpolated"; }

 protected:
  Status setup(const PrepareContext& context) override {
    ResizeRules rules;
    FB_ASSIGN(taps_, prepare_taps(context, &rules, &axes_));
    extrapolation_ = rules.extrapolation;
    passes_.clear();
    weights_.assign(axes_.size(), {});
    for (std::size_t i = 0; i < axes_.size(); ++i) {
      weights_[i].assign(taps_[i].weight.begin(), taps_[i].weight.end());
      const bool same = axes_[i].in == axes_[i].out && axes_[i].scale == 1.0 && rules.coordinates != Coordinates::tf_crop_and_resize;
      if (!same) passes_.push_back(i);
    }
    // Intermediate results alternate between two buffers; the last pass writes the output.
    most_ = 0;
    for (std::size_t p = 0; p + 1 < passes_.size(); ++p) most_ = std::max(most_, elements_after(p + 1));
    const std::uint64_t size = context.inputs[0].dtype == DType::f64 ? 8 : 4;
    set_scratch((passes_.size() > 2 ? 2 : 1) * float_bytes(most_, size));
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  std::int64_t elements_after(std::size_t passes) const {
    std::int64_t count = 1;
    for (std::size_t i = 0; i < axes_.size(); ++i) {
      const bool done = std::find(passes_.begin(), passes_.begin() + static_cast<std::ptrdiff_t>(passes), i) != passes_.begin() + static_cast<std::ptrdiff_t>(passes);
      count *= done ? axes_[i].out : axes_[i].in;
    }
    return count;
  }
  template <typename T>
  void go(const KernelCall& call) const {
    const T* from = reinterpret_cast<const T*>(call.inputs[0].data);
    T* result = reinterpret_cast<T*>(call.outputs[0].data);
    if (passes_.empty()) {
      std::copy(from, from + call.outputs[0].shape.elements(), result);
      return;
    }
    for (std::size_t p = 0; p < passes_.size(); ++p) {
      T* to = p + 1 == passes_.size() ? result : reinterpret_cast<T*>(call.workspace + (p % 2) * float_bytes(most_, sizeof(T)));
      std::int64_t outer = 1, inner = 1;
      for (std::size_t i = 0; i < axes_.size(); ++i) {
        if (i < passes_[p]) outer *= axes_[i].out;  // an axis without a pass has out == in
        if (i > passes_[p]) inner *= axes_[i].in;
      }
      run_pass(call, passes_[p], outer, inner, from, to);
      from = to;
    }
  }
  template <typename T>
  void run_pass(const KernelCall& call, std::size_t axis, std::int64_t outer, std::int64_t inner, const T* from, T* to) const {
    const AxisTaps& taps = taps_[axis];
    const std::int64_t in = axes_[axis].in, out = axes_[axis].out, width = taps.width;
    if (out == 0 || inner == 0) return;
    const std::int64_t grain = std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(1, inner * width));
    call.pool->parallel_for(outer * out, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T* block = from + i / out * in * inner;
        const auto at = static_cast<std::size_t>(i % out);
        T* row = to + i * inner;
        if (!taps.outside.empty() && taps.outside[at] != 0) {
          std::fill(row, row + inner, static_cast<T>(extrapolation_));
          continue;
        }
        const std::int64_t* index = taps.index.data() + at * static_cast<std::size_t>(width);
        const double* weight = weights_[axis].data() + at * static_cast<std::size_t>(width);
        const T first = static_cast<T>(weight[0]);
        for (std::int64_t j = 0; j < inner; ++j) row[j] = first * block[index[0] * inner + j];
        for (std::int64_t t = 1; t < width; ++t) {
          const T factor = static_cast<T>(weight[t]);
          if (factor == T(0)) continue;
          const T* source = block + index[t] * inner;
          for (std::int64_t j = 0; j < inner; ++j) row[j] += factor * source[j];
        }
      }
    });
  }
  std::vector<ResizeAxis> axes_;
  std::vector<AxisTaps> taps_;
  std::vector<std::vector<double>> weights_;
  std::vector<std::size_t> passes_;
  std::int64_t most_ = 0;
  double extrapolation_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> create_resize_nearest() { return std::make_unique<ResizeNearest>(); }
std::unique_ptr<Kernel> create_resize_interpolated() { return std::make_unique<ResizeInterpolated>(); }

}  // namespace forebay::ops
