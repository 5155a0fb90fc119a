// RoiAlign (10, 16, 22) and MaxRoiPool: a grid of values for each box of an image.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

struct PoolSize {
  std::int64_t height = 1, width = 1;
};

Result<PoolSize> pool_size(const NodeView& node) {
  PoolSize size{node.integer("output_height", 1), node.integer("output_width", 1)};
  if (node.op() == "MaxRoiPool") {
    const auto shape = node.integers("pooled_shape");
    if (shape.size() != 2) return node.invalid("pooled_shape must be height and width");
    size = {shape[0], shape[1]};
  }
  if (size.height < 1 || size.width < 1)
    return node.invalid("an output of " + std::to_string(size.height) + " by " + std::to_string(size.width));
  return size;
}

Status infer_roi(InferContext& context) {
  const NodeView& node = context.node();
  const bool align = node.op() == "RoiAlign";
  const TypeShape& x = context.input(0);
  const TypeShape& rois = context.input(1);
  if (!x.present() || !rois.present() || (align && !context.input(2).present()))
    return node.invalid("an image, boxes and their images are needed");
  FB_TRY(require_float(node, x.dtype, "the image"));
  if (rois.dtype != x.dtype) return node.invalid("the boxes have another type than the image");
  if (align && context.input(2).dtype != DType::i64) return node.invalid("batch_indices must be i64");
  FB_ASSIGN(const PoolSize size, pool_size(node));
  if (x.has_rank && x.dims.size() != 4) return node.invalid("an image " + dims_text(x.dims) + " must have 4 dimensions");
  const std::int64_t columns = align ? 4 : 5;
  if (rois.has_rank && (rois.dims.size() != 2 || (rois.dims[1] >= 0 && rois.dims[1] != columns)))
    return node.invalid("boxes " + dims_text(rois.dims));
  const TypeShape& images = context.input(2);
  std::int64_t count = rois.has_rank ? rois.dims[0] : -1;
  if (align && images.has_rank) {
    if (images.dims.size() != 1 || (count >= 0 && images.dims[0] >= 0 && images.dims[0] != count)) {
      return node.invalid("batch_indices " + dims_text(images.dims) + " are not one for each box of " + dims_text(rois.dims));
    }
    count = std::max(count, images.dims[0]);
  }
  context.set_output(0, x.dtype, {count, x.has_rank ? x.dims[1] : -1, size.height, size.width});
  return {};
}

// What both share: sizes, and the image that a box lies in.
class RoiKernel : public FloatKernel {
 protected:
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    batch_ = x[0];
    channels_ = x[1];
    height_ = x[2];
    width_ = x[3];
    boxes_ = context.inputs[1].dims[0];
    scale_ = context.node.real("spatial_scale", 1.0f);
    name_ = std::string(context.node.op()) + " '" + std::string(context.node.name()) + "': ";
    FB_ASSIGN(pool_, pool_size(context.node));
    if (boxes_ > 0 && height_ * width_ == 0) return context.node.invalid("an image " + dims_text(x) + " without pixels");
    return {};
  }
  Status bad_image(std::int64_t box, double image) const {
    return Status(Code::invalid_argument,
                  name_ + "box " + std::to_string(box) + " is of image " + std::to_string(image) + " of " + std::to_string(batch_));
  }

  std::int64_t batch_ = 0, channels_ = 0, height_ = 0, width_ = 0, boxes_ = 0;
  float scale_ = 1;
  PoolSize pool_;
  std::string name_;
};

// One sample between pixels: its four corners.
template <typename T>
struct Sample {
  std::array<std::int64_t, 4> at{};
  std::array<T, 4> weight{};
};

template <typename T>
Sample<T> sample_of(T y, T x, std::int64_t height, std::int64_t width) {
  Sample<T> sample;
  if (!(y >= T(-1) && y <= static_cast<T>(height) && x >= T(-1) && x <= static_cast<T>(width))) return sample;  // outside: zero
  y = std::max(y, T(0));
  x = std::max(x, T(0));
  std::int64_t top = std::min(static_cast<std::int64_t>(y), height - 1), left = std::min(static_cast<std::int64_t>(x), width - 1);
  const std::int64_t bottom = std::min(top + 1, height - 1), right = std::min(left + 1, width - 1);
  const T down = top == height - 1 ? T(0) : y - static_cast<T>(top), along = left == width - 1 ? T(0) : x - static_cast<T>(left);
  sample.at = {top * width + left, top * width + right, bottom * width + left, bottom * width + right};
  sample.weight = {(1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along};
  return sample;
}

class RoiAlign final : public RoiKernel {
 public:
  std::string_view id() const override { return "cpu.roi_align"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    FB_TRY(RoiKernel::setup(context));
    const std::string_view mode = node.text("mode", "avg"), place = node.text("coordinate_transformation_mode", "half_pixel");
    if (mode != "avg" && mode != "max") return node.invalid("mode '" + std::string(mode) + "' is neither avg nor max");
    if (place != "half_pixel" && place != "output_half_pixel")
      return node.invalid("coordinate_transformation_mode '" + std::string(place) + "'");
    most_ = mode == "max";
    half_ = node.version() >= 16 && place == "half_pixel";
    ratio_ = node.integer("sampling_ratio", 0);
    if (ratio_ < 0 || ratio_ > kMostSamples) return node.invalid("sampling_ratio " + std::to_string(ratio_));
    return {};
  }
  Status compute(const KernelCall& call) override { return call.inputs[0].dtype == DType::f64 ? go<double>(call) : go<float>(call); }

 private:
  static constexpr std::int64_t kMostSamples = 4096;  // along one side of a bin: a box without sense must not keep us for ever

  template <typename T>
  struct Box {
    T top = 0, left = 0, bin_height = 0, bin_width = 0;
    std::int64_t rows = 0, columns = 0;  // samples in a bin
  };

  template <typename T>
  bool read_box(const T* roi, Box<T>& box) const {
    const T offset = half_ ? T(0.5) : T(0), scale = static_cast<T>(scale_);
    box.left = roi[0] * scale - offset;
    box.top = roi[1] * scale - offset;
    T width = roi[2] * scale - offset - box.left, height = roi[3] * scale - offset - box.top;
    if (!half_) {
      width = std::max(width, T(1));
      height = std::max(height, T(1));
    }
    box.bin_height = height / static_cast<T>(pool_.height);
    box.bin_width = width / static_cast<T>(pool_.width);
    const T rows = ratio_ > 0 ? static_cast<T>(ratio_) : std::ceil(box.bin_height),
            columns = ratio_ > 0 ? static_cast<T>(ratio_) : std::ceil(box.bin_width);
    const auto sound = [](T count) { return count > static_cast<T>(-1e15) && count <= static_cast<T>(kMostSamples); };
    if (!sound(rows) || !sound(columns) || !std::isfinite(box.left) || !std::isfinite(box.top)) return false;
    box.rows = std::max<std::int64_t>(0, static_cast<std::int64_t>(rows));
    box.columns = std::max<std::int64_t>(0, static_cast<std::int64_t>(columns));
    return true;
  }

  template <typename T>
  Status go(const KernelCall& call) const {
    const auto* rois = reinterpret_cast<const T*>(call.inputs[1].data);
    const auto* images = reinterpret_cast<const std::int64_t*>(call.inputs[2].data);
    for (std::int64_t n = 0; n < boxes_; ++n) {
      Box<T> box;
      if (images[n] < 0 || images[n] >= batch_) return bad_image(n, static_cast<double>(images[n]));
      if (!read_box(rois + n * 4, box)) {
        return Status(Code::invalid_argument, name_ + "box " + std::to_string(n) + " is not finite, or larger than " +
                                                  std::to_string(kMostSamples) + " samples in a bin");
      }
    }
    const std::int64_t bins = pool_.height * pool_.width;
    call.pool->parallel_for(boxes_ * bins, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t n = i / bins, bin = i % bins;
        Box<T> box;
        read_box(rois + n * 4, box);
        one_bin(reinterpret_cast<const T*>(call.inputs[0].data) + images[n] * channels_ * height_ * width_, box, bin / pool_.width,
                bin % pool_.width, reinterpret_cast<T*>(call.outputs[0].data) + n * channels_ * bins + bin, bins);
      }
    });
    return {};
  }

  template <typename T>
  void one_bin(const T* image, const Box<T>& box, std::int64_t row, std::int64_t column, T* out, std::int64_t stride) const {
    const std::int64_t count = box.rows * box.columns;
    for (std::int64_t c = 0; c < channels_; ++c) out[c * stride] = T(0);
    for (std::int64_t s = 0; s < count; ++s) {
      const T y = box.top + static_cast<T>(row) * box.bin_height +
                  (static_cast<T>(s / box.columns) + T(0.5)) * box.bin_height / static_cast<T>(box.rows);
      const T x = box.left + static_cast<T>(column) * box.bin_width +
                  (static_cast<T>(s % box.columns) + T(0.5)) * box.bin_width / static_cast<T>(box.columns);
      const Sample<T> sample = sample_of(y, x, height_, width_);
      for (std::int64_t c = 0; c < channels_; ++c) {
        const T* plane = image + c * height_ * width_;
        std::array<T, 4> part;
        for (std::size_t k = 0; k < 4; ++k) part[k] = sample.weight[k] * plane[sample.at[k]];
        T& to = out[c * stride];
        // The specification's maximum is over the weighted corners.
        const T most = std::max(std::max(part[0], part[1]), std::max(part[2], part[3]));
        to = !most_ ? to + (part[0] + part[1] + part[2] + part[3]) : s == 0 ? most : std::max(to, most);
      }
    }
    for (std::int64_t c = 0; !most_ && c < channels_; ++c) out[c * stride] /= static_cast<T>(std::max<std::int64_t>(count, 1));
  }

  bool most_ = false, half_ = true;
  std::int64_t ratio_ = 0;
};

class MaxRoiPool final : public RoiKernel {
 public:
  std::string_view id() const override { return "cpu.max_roi_pool"; }

 protected:
  Status compute(const KernelCall& call) override { return call.inputs[0].dtype == DType::f64 ? go<double>(call) : go<float>(call); }

 private:
  // Where bin i of a box from `first` to `last` lies on an axis: [begin, end), within the image.
  struct Range {
    std::int64_t begin = 0, end = 0;
  };
  static Range range(std::int64_t i, std::int64_t bins, double first, double last, std::int64_t size) {
    const double bin = std::max(last - first + 1, 1.0) / static_cast<double>(bins), limit = static_cast<double>(size);
    const double begin = std::floor(static_cast<double>(i) * bin) + first, end = std::ceil(static_cast<double>(i + 1) * bin) + first;
    return {static_cast<std::int64_t>(std::clamp(begin, 0.0, limit)), static_cast<std::int64_t>(std::clamp(end, 0.0, limit))};
  }

  template <typename T>
  Status go(const KernelCall& call) const {
    const auto* rois = reinterpret_cast<const T*>(call.inputs[1].data);
    for (std::int64_t n = 0; n < boxes_; ++n) {
      const auto image = static_cast<double>(rois[n * 5]);
      if (!(image >= 0 && image < static_cast<double>(batch_))) return bad_image(n, image);
      for (int k = 1; k < 5; ++k) {
        if (!std::isfinite(rois[n * 5 + k])) return Status(Code::invalid_argument, name_ + "box " + std::to_string(n) + " is not finite");
      }
    }
    const std::int64_t bins = pool_.height * pool_.width;
    call.pool->parallel_for(boxes_ * channels_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T* roi = rois + i / channels_ * 5;
        const auto edge = [&](int k) { return std::round(static_cast<double>(roi[k] * static_cast<T>(scale_))); };
        const T* plane = reinterpret_cast<const T*>(call.inputs[0].data) +
                         (static_cast<std::int64_t>(roi[0]) * channels_ + i % channels_) * height_ * width_;
        T* out = reinterpret_cast<T*>(call.outputs[0].data) + i * bins;
        for (std::int64_t b = 0; b < bins; ++b) {
          const Range rows = range(b / pool_.width, pool_.height, edge(2), edge(4), height_),
                      columns = range(b % pool_.width, pool_.width, edge(1), edge(3), width_);
          bool any = false;
          out[b] = T(0);
          for (std::int64_t y = rows.begin; y < rows.end; ++y) {
            for (std::int64_t x = columns.begin; x < columns.end; ++x, any = true)
              out[b] = any ? std::max(out[b], plane[y * width_ + x]) : plane[y * width_ + x];
          }
        }
      }
    });
    return {};
  }
};

template <typename K>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>());
}

constexpr OpSpec kSpecs[] = {
    {.name = "RoiAlign", .since = 10, .infer = infer_roi, .create = create<RoiAlign>},
    {.name = "MaxRoiPool", .since = 1, .infer = infer_roi, .create = create<MaxRoiPool>},
};

}  // namespace

std::span<const OpSpec> roi_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
