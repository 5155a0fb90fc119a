// GridSample (16, 20, 22) and AffineGrid (20): values of a volume at given places, and the places of an affine map. One to three spatial
// axes.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

constexpr std::size_t kMostAxes = 3;

enum class Mode : std::uint8_t { nearest, linear, cubic };
enum class Padding : std::uint8_t { zeros, border, reflection };

struct SampleSpec {
  Mode mode = Mode::linear;
  Padding padding = Padding::zeros;
  bool align = false;
};

Result<SampleSpec> sample_spec(const NodeView& node) {
  SampleSpec spec;
  const std::string_view mode = node.text("mode", "linear"), padding = node.text("padding_mode", "zeros");
  if (mode == "nearest") {
    spec.mode = Mode::nearest;
  } else if (mode == "cubic" || mode == "bicubic") {
    spec.mode = Mode::cubic;
  } else if (mode != "linear" && mode != "bilinear") {  // the names of opset 16 and of 20
    return node.invalid("mode '" + std::string(mode) + "' is none of linear, nearest and cubic");
  }
  if (padding == "border") {
    spec.padding = Padding::border;
  } else if (padding == "reflection") {
    spec.padding = Padding::reflection;
  } else if (padding != "zeros") {
    return node.invalid("padding_mode '" + std::string(padding) + "' is none of zeros, border and reflection");
  }
  spec.align = node.integer("align_corners", 0) != 0;
  return spec;
}

// Where one axis is read, and with which weights. A place below 0 counts as zero.
template <typename T>
struct Taps {
  int count = 0;
  std::array<std::int64_t, 4> at{};
  std::array<T, 4> weight{};
};

template <typename T>
T reflect(T x, T low, T high) {
  const T range = high - low;
  if (!(range > T(0))) return low;
  const T beyond = x < low ? low - x : x - high;
  const T turns = std::floor(beyond / range), rest = beyond - turns * range;
  const bool even = std::fmod(turns, T(2)) == T(0);
  return (x < low) == even ? low + rest : high - rest;
}

template <typename T>
std::int64_t place(const SampleSpec& spec, std::int64_t i, std::int64_t size) {
  if (i >= 0 && i < size) return i;
  if (spec.padding == Padding::zeros) return -1;
  if (spec.padding == Padding::border) return std::clamp<std::int64_t>(i, 0, size - 1);
  const T edge = spec.align ? T(0) : T(-0.5);
  const T met = reflect(static_cast<T>(i), edge, static_cast<T>(size - 1) - edge);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(met), 0, size - 1);
}

template <typename T>
void cubic_weights(T x, std::array<T, 4>& w) {
  constexpr T kA = T(-0.75);
  const T far = x + T(1), near = T(1) - x, last = T(2) - x;
  w[0] = ((kA * far - 5 * kA) * far + 8 * kA) * far - 4 * kA;
  w[1] = ((kA + 2) * x - (kA + 3)) * x * x + 1;
  w[2] = ((kA + 2) * near - (kA + 3)) * near * near + 1;
  w[3] = ((kA * last - 5 * kA) * last + 8 * kA) * last - 4 * kA;
}

template <typename T>
Taps<T> taps_of(const SampleSpec& spec, T position, std::int64_t size) {
  const T length = static_cast<T>(size);
  T x = spec.align ? (position + T(1)) / T(2) * (length - T(1)) : ((position + T(1)) * length - T(1)) / T(2);
  if (spec.mode == Mode::nearest) x = std::nearbyint(x);  // halves to even
  const T low = spec.align ? T(0) : T(-0.5), high = length - T(1) - low;
  if (spec.padding == Padding::border && (x < low || x > high)) x = std::clamp(x, T(0), length - T(1));
  if (spec.padding == Padding::reflection && (x < low || x > high)) x = reflect(x, low, high);
  Taps<T> taps;
  if (!(x >= T(-4) && x <= length + T(4))) {  // far outside, or not a number: nothing is met
    taps.count = 1;
    taps.at[0] = spec.padding == Padding::zeros ? -1 : 0;
    taps.weight[0] = T(1);
    return taps;
  }
  const T floor = std::floor(x);
  std::int64_t first = static_cast<std::int64_t>(floor);
  taps.count = spec.mode == Mode::nearest ? 1 : spec.mode == Mode::linear ? 2 : 4;
  if (spec.mode == Mode::nearest) taps.weight[0] = T(1);
  if (spec.mode == Mode::linear) taps.weight = {T(1) - (x - floor), x - floor, T(0), T(0)};
  if (spec.mode == Mode::cubic) {
    cubic_weights(x - floor, taps.weight);
    --first;
  }
  for (int i = 0; i < taps.count; ++i) taps.at[static_cast<std::size_t>(i)] = place<T>(spec, first + i, size);
  return taps;
}

Status infer_grid_sample(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  const TypeShape& grid = context.input(1);
  if (!x.present() || !grid.present()) return node.invalid("an input and a grid are needed");
  FB_TRY(require_float(node, x.dtype, "the input"));
  FB_TRY(require_float(node, grid.dtype, "the grid"));
  if ((x.dtype == DType::f64) != (grid.dtype == DType::f64)) return node.unsupported("f64 mixed with narrower types");
  FB_ASSIGN([[maybe_unused]] const SampleSpec spec, sample_spec(node));
  if (!x.has_rank || !grid.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  const std::size_t rank = x.dims.size();
  if (rank < 3 || rank > 2 + kMostAxes) return node.unsupported("an input " + dims_text(x.dims) + "; one to three spatial axes are served");
  const auto axes = static_cast<std::int64_t>(rank) - 2;
  const bool fits = grid.dims.size() == rank && (grid.dims.back() < 0 || grid.dims.back() == axes) &&
                    (x.dims[0] < 0 || grid.dims[0] < 0 || x.dims[0] == grid.dims[0]);
  if (!fits) return node.invalid("a grid " + dims_text(grid.dims) + " does not fit the input " + dims_text(x.dims));
  std::vector<std::int64_t> dims{std::max(x.dims[0], grid.dims[0]), x.dims[1]};
  dims.insert(dims.end(), grid.dims.begin() + 1, grid.dims.end() - 1);
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

class GridSample final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.grid_sample"; }

 protected:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(spec_, sample_spec(context.node));
    const auto &x = context.inputs[0].dims, &y = context.outputs[0].dims;
    axes_ = x.size() - 2;
    batch_ = x[0];
    channels_ = x[1];
    size_ = points_ = 1;
    for (std::size_t i = 0; i < axes_; ++i) {
      extent_[i] = x[i + 2];
      size_ *= x[i + 2];
      points_ *= y[i + 2];
    }
    if (size_ == 0 && points_ * batch_ * channels_ > 0) return context.node.invalid("there is nothing to sample in " + dims_text(x));
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const auto* x = reinterpret_cast<const T*>(call.inputs[0].data);
    const auto* grid = reinterpret_cast<const T*>(call.inputs[1].data);
    auto* y = reinterpret_cast<T*>(call.outputs[0].data);
    call.pool->parallel_for(batch_ * points_, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        point(x + i / points_ * channels_ * size_, grid + i * static_cast<std::int64_t>(axes_),
              y + i / points_ * channels_ * points_ + i % points_);
      }
    });
  }

  // One place, all channels: the products of the axes' weights are the same for each of them.
  template <typename T>
  void point(const T* x, const T* grid, T* y) const {
    std::array<std::int64_t, 64> at;
    std::array<T, 64> weight;
    std::size_t count = 1;
    at[0] = 0;
    weight[0] = T(1);
    for (std::size_t axis = 0; axis < axes_; ++axis) {
      const Taps<T> taps = taps_of(spec_, grid[axes_ - 1 - axis], extent_[axis]);  // the grid names the innermost axis first
      std::array<std::int64_t, 64> next_at;
      std::array<T, 64> next_weight;
      std::size_t made = 0;
      for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t t = 0; t < static_cast<std::size_t>(taps.count); ++t) {
          if (taps.at[t] < 0) continue;
          next_at[made] = at[i] * extent_[axis] + taps.at[t];
          next_weight[made++] = weight[i] * taps.weight[t];
        }
      }
      at = next_at;
      weight = next_weight;
      count = made;
    }
    for (std::int64_t c = 0; c < channels_; ++c) {
      T sum = T(0);
      for (std::size_t i = 0; i < count; ++i) sum += weight[i] * x[c * size_ + at[i]];
      y[c * points_] = sum;
    }
  }

  SampleSpec spec_;
  std::size_t axes_ = 2;
  std::int64_t batch_ = 0, channels_ = 0, size_ = 0, points_ = 0;
  std::array<std::int64_t, kMostAxes> extent_{};
};

// ---- AffineGrid -----------------------------------------------------------------------------------------------------------------

Status infer_affine_grid(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& theta = context.input(0);
  if (!theta.present() || !context.input(1).present()) return node.invalid("theta and size are needed");
  FB_TRY(require_float(node, theta.dtype, "theta"));
  bool known = false;
  const std::vector<std::int64_t> size = context.integers(1, &known);
  if (!known) {
    context.set_output_unranked(0, theta.dtype);
    return {};
  }
  if (size.size() != 4 && size.size() != 5) return node.invalid("size " + dims_text(size) + " must have 4 or 5 entries");
  const auto axes = static_cast<std::int64_t>(size.size()) - 2;
  if (std::any_of(size.begin(), size.end(), [](std::int64_t dim) { return dim < 0; })) return node.invalid("size " + dims_text(size));
  const std::int64_t want[] = {size[0], axes, axes + 1};
  for (std::size_t i = 0; theta.has_rank && i < 3; ++i) {
    if (theta.dims.size() == 3 && (theta.dims[i] < 0 || theta.dims[i] == want[i])) continue;
    return node.invalid("theta " + dims_text(theta.dims) + " does not fit size " + dims_text(size));
  }
  std::vector<std::int64_t> dims{size[0]};
  dims.insert(dims.end(), size.begin() + 2, size.end());
  dims.push_back(axes);
  context.set_output(0, theta.dtype, std::move(dims));
  return {};
}

class AffineGrid final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.affine_grid"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const auto& y = context.outputs[0].dims;
    axes_ = y.size() - 2;
    batch_ = y[0];
    points_ = 1;
    for (std::size_t i = 0; i < axes_; ++i) {
      extent_[i] = y[i + 1];
      points_ *= y[i + 1];
    }
    align_ = context.node.integer("align_corners", 0) != 0;
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  T position(std::size_t axis, std::int64_t i) const {
    const T size = static_cast<T>(extent_[axis]);
    if (!align_) return (T(2) * static_cast<T>(i) + T(1)) / size - T(1);
    return extent_[axis] == 1 ? T(0) : T(2) * static_cast<T>(i) / (size - T(1)) - T(1);
  }
  template <typename T>
  void go(const KernelCall& call) const {
    const auto axes = static_cast<std::int64_t>(axes_);
    call.pool->parallel_for(batch_ * points_, 1024, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T* theta = reinterpret_cast<const T*>(call.inputs[0].data) + i / points_ * axes * (axes + 1);
        T* y = reinterpret_cast<T*>(call.outputs[0].data) + i * axes;
        std::array<T, kMostAxes> from{};  // x first
        std::int64_t rest = i % points_;
        for (std::size_t axis = axes_; axis-- > 0; rest /= extent_[axis]) from[axes_ - 1 - axis] = position<T>(axis, rest % extent_[axis]);
        for (std::int64_t row = 0; row < axes; ++row, theta += axes + 1) {
          T sum = theta[axes];
          for (std::size_t k = 0; k < axes_; ++k) sum += theta[k] * from[k];
          y[row] = sum;
        }
      }
    });
  }
  std::size_t axes_ = 2;
  bool align_ = false;
  std::int64_t batch_ = 0, points_ = 0;
  std::array<std::int64_t, kMostAxes> extent_{};
};

template <typename K>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>());
}

constexpr OpSpec kSpecs[] = {
    {.name = "GridSample", .since = 16, .infer = infer_grid_sample, .create = create<GridSample>},
    {.name = "AffineGrid", .since = 20, .host_inputs = 1u << 1, .infer = infer_affine_grid, .create = create<AffineGrid>},
};

}  // namespace

std::span<const OpSpec> grid_sample_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
