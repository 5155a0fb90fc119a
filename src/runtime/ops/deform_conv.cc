// DeformConv (19, 22): convolution of an image read at places that an input moves. And Col2Im (18): the sum of overlapping blocks.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/window.h"

namespace forebay::ops {
namespace {

// Inputs of DeformConv: X, W, offset, B, mask.
constexpr std::size_t kOffset = 2, kBias = 3, kMask = 4;

bool has(std::span<const TypeShape> inputs, std::size_t i) {
  return i < inputs.size() && inputs[i].present();
}

Status infer_deform_conv(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape &x = context.input(0), &w = context.input(1);
  FB_TRY(need_arity(context, 3, 5));
  for (std::size_t i = 0; i < context.input_count(); ++i) {
    if (!context.input(i).present()) {
      if (i <= kOffset) return node.invalid("input " + std::to_string(i) + " is missing");
      continue;
    }
    FB_TRY(require_float(node, context.input(i).dtype, "an input"));
    FB_TRY(same_dtype(context, 0, i));
  }
  if (!x.has_rank || !w.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  if (x.dims.size() != 4 || w.dims.size() != 4)
    return node.unsupported("an input " + dims_text(x.dims) + "; images of two axes are served");
  FB_ASSIGN(const WindowSpec spec, window_spec(node, 2, std::span(w.dims).subspan(2)));
  context.set_output(0, x.dtype, {x.dims[0], w.dims[0], window_output(spec, 0, x.dims[2]), window_output(spec, 1, x.dims[3])});
  return {};
}

class DeformConv final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.deform_conv"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const auto &x = context.inputs[0].dims, &w = context.inputs[1].dims;
    FB_ASSIGN(const WindowSpec spec, window_spec(node, 2, std::span(w).subspan(2)));
    FB_ASSIGN(window_, resolve_window(node, spec, std::span(x).subspan(2)));
    batch_ = x[0];
    channels_ = x[1];
    outputs_ = w[0];
    groups_ = node.integer("group", 1);
    offset_groups_ = node.integer("offset_group", 1);
    if (groups_ < 1 || offset_groups_ < 1 || channels_ % groups_ != 0 || outputs_ % groups_ != 0 || w[1] != channels_ / groups_ ||
        channels_ % offset_groups_ != 0) {
      return node.invalid("group or offset_group do not divide the channels of " + dims_text(x) + " and " + dims_text(w));
    }
    const std::int64_t places = offset_groups_ * window_.taps();
    const auto dims_are = [&](std::size_t i, std::vector<std::int64_t> dims) {
      return !has(context.inputs, i) || context.inputs[i].dims == dims;
    };
    if (!dims_are(kOffset, {batch_, places * 2, window_.out[1], window_.out[2]}) ||
        !dims_are(kMask, {batch_, places, window_.out[1], window_.out[2]}) || !dims_are(kBias, {outputs_})) {
      return node.invalid("offset, bias or mask do not fit the input " + dims_text(x) + " and the weight " + dims_text(w));
    }
    column_ = float_bytes(channels_ * window_.taps(), 8);
    set_scratch(column_ * static_cast<std::uint64_t>(context.pool->threads()));
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  // Between pixels; what lies outside is zero.
  template <typename T>
  T value_at(const T* plane, T y, T x) const {
    const std::int64_t height = window_.in[1], width = window_.in[2];
    if (!(y > T(-1) && x > T(-1) && y < static_cast<T>(height) && x < static_cast<T>(width))) return T(0);
    const T top = std::floor(y), left = std::floor(x), down = y - top, along = x - left;
    const auto row = static_cast<std::int64_t>(top), column = static_cast<std::int64_t>(left);
    const auto pixel = [&](std::int64_t i, std::int64_t j) {
      return i >= 0 && j >= 0 && i < height && j < width ? plane[i * width + j] : T(0);
    };
    return (1 - down) * ((1 - along) * pixel(row, column) + along * pixel(row, column + 1)) +
           down * ((1 - along) * pixel(row + 1, column) + along * pixel(row + 1, column + 1));
  }

  // Everything that one output place reads, [channels, taps].
  template <typename T>
  void gather(const KernelCall& call, std::int64_t n, std::int64_t place, T* column) const {
    const std::int64_t taps = window_.taps(), out = window_.out_size(), per_group = channels_ / offset_groups_;
    const T* offset = reinterpret_cast<const T*>(call.inputs[kOffset].data) + n * offset_groups_ * taps * 2 * out + place;
    const bool masked = call.inputs.size() > kMask && call.inputs[kMask].present();
    const T* mask = masked ? reinterpret_cast<const T*>(call.inputs[kMask].data) + n * offset_groups_ * taps * out + place : nullptr;
    const std::int64_t row = place / window_.out[2] * window_.stride[1] - window_.pad[1],
                       start = place % window_.out[2] * window_.stride[2] - window_.pad[2];
    for (std::int64_t group = 0; group < offset_groups_; ++group) {
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        const std::int64_t at = group * taps + tap;
        const T y = static_cast<T>(row + tap / window_.kernel[2] * window_.dilation[1]) + offset[at * 2 * out];
        const T x = static_cast<T>(start + tap % window_.kernel[2] * window_.dilation[2]) + offset[(at * 2 + 1) * out];
        const T factor = masked ? mask[at * out] : T(1);
        for (std::int64_t c = group * per_group; c < (group + 1) * per_group; ++c) {
          const T* plane = reinterpret_cast<const T*>(call.inputs[0].data) + (n * channels_ + c) * window_.in_size();
          column[c * taps + tap] = factor * value_at(plane, y, x);
        }
      }
    }
  }

  template <typename T>
  void go(const KernelCall& call) const {
    const std::int64_t out = window_.out_size(), total = batch_ * out, threads = call.pool->threads();
    const std::int64_t depth = channels_ / groups_ * window_.taps();
    const auto* weight = reinterpret_cast<const T*>(call.inputs[1].data);
    const bool biased = call.inputs.size() > kBias && call.inputs[kBias].present();
    const T* bias = biased ? reinterpret_cast<const T*>(call.inputs[kBias].data) : nullptr;
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        T* column = reinterpret_cast<T*>(call.workspace + static_cast<std::uint64_t>(part) * column_);
        for (std::int64_t i = total * part / threads; i < total * (part + 1) / threads; ++i) {
          const std::int64_t n = i / out, place = i % out;
          gather(call, n, place, column);
          for (std::int64_t o = 0; o < outputs_; ++o) {
            const T *a = weight + o * depth, *b = column + o / (outputs_ / groups_) * depth;
            const T sum = lane_sum<T>(depth, [a, b](std::int64_t k) { return a[k] * b[k]; });
            reinterpret_cast<T*>(call.outputs[0].data)[(n * outputs_ + o) * out + place] = sum + (biased ? bias[o] : T(0));
          }
        }
      }
    });
  }

  Window window_;
  std::int64_t batch_ = 0, channels_ = 0, outputs_ = 0, groups_ = 1, offset_groups_ = 1;
  std::uint64_t column_ = 0;
};

// ---- Col2Im ---------------------------------------------------------------------------------------------------------------------

Status infer_col2im(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  FB_TRY(need_arity(context, 3, 3));
  if (!x.present()) return node.invalid("an input is needed");
  FB_TRY(require_float(node, x.dtype, "the input"));
  bool image_known = false, block_known = false;
  const std::vector<std::int64_t> image = context.integers(1, &image_known), block = context.integers(2, &block_known);
  if (!image_known || !block_known || !x.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  if (x.dims.size() != 3) return node.invalid("the input " + dims_text(x.dims) + " must have 3 dimensions");
  if (image.empty() || image.size() != block.size())
    return node.invalid("image_shape " + dims_text(image) + " and block_shape " + dims_text(block));
  std::int64_t taps = 1;
  for (std::size_t i = 0; i < block.size(); ++i) {
    if (block[i] < 1 || block[i] > (std::int64_t{1} << 20) || image[i] < 0)
      return node.invalid("image_shape " + dims_text(image) + " and block_shape " + dims_text(block));
    FB_ASSIGN(taps, element_count(node, std::vector<std::int64_t>{taps, block[i]}));
  }
  if (x.dims[1] >= 0 && x.dims[1] % taps != 0)
    return node.invalid("the blocks " + dims_text(block) + " do not divide " + dims_text(x.dims));
  std::vector<std::int64_t> dims{x.dims[0], x.dims[1] < 0 ? -1 : x.dims[1] / taps};
  dims.insert(dims.end(), image.begin(), image.end());
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

class Col2Im final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.col2im"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const std::vector<std::int64_t> image = host_integers(*context.values[1]), block = host_integers(*context.values[2]);
    FB_ASSIGN(const WindowSpec spec, window_spec(context.node, block.size(), block));
    FB_ASSIGN(window_, resolve_window(context.node, spec, image));
    planes_ = context.outputs[0].dims[0] * context.outputs[0].dims[1];
    if (context.inputs[0].dims[2] != window_.out_size()) {
      return context.node.invalid("the input " + dims_text(context.inputs[0].dims) + " holds other than " +
                                  std::to_string(window_.out_size()) + " blocks");
    }
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const std::int64_t taps = window_.taps(), blocks = window_.out_size(), size = window_.in_size();
    call.pool->parallel_for(planes_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t plane = begin; plane < end; ++plane) {
        T* image = reinterpret_cast<T*>(call.outputs[0].data) + plane * size;
        std::fill(image, image + size, T(0));
        for (std::int64_t tap = 0; tap < taps; ++tap)
          add_tap(reinterpret_cast<const T*>(call.inputs[0].data) + (plane * taps + tap) * blocks, tap, image);
      }
    });
  }
  template <typename T>
  void add_tap(const T* values, std::int64_t tap, T* image) const {
    std::array<std::int64_t, 3> from;  // of this tap in the first block
    for (std::size_t i = 3; i-- > 0; tap /= window_.kernel[i]) from[i] = tap % window_.kernel[i] * window_.dilation[i] - window_.pad[i];
    for (std::int64_t a = 0; a < window_.out[0]; ++a) {
      for (std::int64_t b = 0; b < window_.out[1]; ++b) {
        for (std::int64_t c = 0; c < window_.out[2]; ++c, ++values) {
          const std::int64_t z = from[0] + a * window_.stride[0], y = from[1] + b * window_.stride[1], x = from[2] + c * window_.stride[2];
          if (z < 0 || y < 0 || x < 0 || z >= window_.in[0] || y >= window_.in[1] || x >= window_.in[2]) continue;
          image[(z * window_.in[1] + y) * window_.in[2] + x] += *values;
        }
      }
    }
  }
  Window window_;
  std::int64_t planes_ = 0;
};

template <typename K>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>());
}

constexpr OpSpec kSpecs[] = {
    {.name = "DeformConv", .since = 19, .infer = infer_deform_conv, .create = create<DeformConv>},
    {.name = "Col2Im", .since = 18, .host_inputs = (1u << 1) | (1u << 2), .infer = infer_col2im, .create = create<Col2Im>},
};

}  // namespace

std::span<const OpSpec> deform_conv_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
