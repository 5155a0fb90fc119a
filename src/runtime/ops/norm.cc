// Normalisation over channels or images: BatchNormalization, InstanceNormalization, GroupNormalization, LpNormalization, LRN,
// MeanVarianceNormalization. Row-wise ones (layer and RMS) are in layer_norm.cc.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/families.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/layer_norm.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

class BatchNorm final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.batch_norm"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape();
    images_ = x.rank() > 0 ? x[0] : 1;
    channels_ = x.rank() > 1 ? x[1] : 1;
    size_ = x.rank() > 2 ? x.elements(2, x.rank()) : 1;
    if (context.node.version() < 9 && context.node.integer("spatial", 1) == 0) {  // one set of values an activation
      channels_ *= size_;
      size_ = 1;
    }
    epsilon_ = context.node.real("epsilon", 1e-5f);
    momentum_ = context.node.real("momentum", 0.9f);
    training_ = context.node.integer("training_mode", 0) != 0;
    for (std::size_t i = 1; i < 5; ++i) {
      if (context.inputs[i].shape().elements() != channels_) return context.node.invalid("input " + std::to_string(i) + " does not have one value a channel");
    }
    const DType x_type = context.inputs[0].dtype;
    for (std::size_t i = 1; i < 5; ++i) {
      if ((context.inputs[i].dtype == DType::f64) != (x_type == DType::f64)) return context.node.unsupported("f64 mixed with narrower types");
    }
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const T *x = in<T>(call, 0), *scale = in<T>(call, 1), *bias = in<T>(call, 2), *mean = in<T>(call, 3), *variance = in<T>(call, 4);
    T *y = out<T>(call, 0), *new_mean = out<T>(call, 1), *new_variance = out<T>(call, 2);
    const std::int64_t work = std::max<std::int64_t>(1, images_ * size_);
    call.pool->parallel_for(channels_, std::max<std::int64_t>(1, 16384 / work), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) {
        T m = mean[c], v = variance[c];
        if (training_) {
          batch_moments(x, c, m, v);
          const T keep = static_cast<T>(momentum_);
          if (new_mean != nullptr) new_mean[c] = mean[c] * keep + m * (T(1) - keep);
          if (new_variance != nullptr) new_variance[c] = variance[c] * keep + v * (T(1) - keep);
        }
        const T factor = scale[c] / std::sqrt(v + static_cast<T>(epsilon_));
        for (std::int64_t n = 0; n < images_; ++n) {
          const T* from = x + (n * channels_ + c) * size_;
          T* to = y + (n * channels_ + c) * size_;
          for (std::int64_t i = 0; i < size_; ++i) to[i] = (from[i] - m) * factor + bias[c];
        }
      }
    });
  }
  template <typename T>
  void batch_moments(const T* x, std::int64_t c, T& mean, T& variance) const {
    double sum = 0, squares = 0;
    const double count = static_cast<double>(images_) * static_cast<double>(size_);
    for (std::int64_t n = 0; n < images_; ++n) {
      const T* from = x + (n * channels_ + c) * size_;
      sum += lane_sum<double>(size_, [from](std::int64_t i) { return static_cast<double>(from[i]); });
    }
    const double centre = sum / count;
    for (std::int64_t n = 0; n < images_; ++n) {
      const T* from = x + (n * channels_ + c) * size_;
      squares += lane_sum<double>(size_, [from, centre](std::int64_t i) { return (from[i] - centre) * (from[i] - centre); });
    }
    mean = static_cast<T>(centre);
    variance = static_cast<T>(squares / count);
  }
  std::int64_t images_ = 1, channels_ = 1, size_ = 1;
  float epsilon_ = 1e-5f, momentum_ = 0.9f;
  bool training_ = false;
};

// InstanceNormalization is a group a channel.
class GroupNorm final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.group_norm"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape();
    if (x.rank() < 2) return context.node.invalid("the input needs a batch and channels");
    images_ = x[0];
    channels_ = x[1];
    size_ = x.elements(2, x.rank());
    groups_ = context.node.op() == "InstanceNormalization" ? channels_ : context.node.integer("num_groups", 1);
    if (groups_ < 1 || channels_ % groups_ != 0) return context.node.invalid(std::to_string(channels_) + " channels in " + std::to_string(groups_) + " groups");
    parameters_ = context.inputs[1].shape().elements();
    if (parameters_ != context.inputs[2].shape().elements() || (parameters_ != channels_ && parameters_ != groups_)) {
      return context.node.invalid("scale and bias must have one value a channel");
    }
    epsilon_ = context.node.real("epsilon", 1e-5f);
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const std::int64_t each = channels_ / groups_, count = each * size_;
    call.pool->parallel_for(images_ * groups_, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, count)), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t g = begin; g < end; ++g) {
        const T* x = in<T>(call, 0) + g * count;
        T* y = out<T>(call, 0) + g * count;
        const double mean = lane_sum<double>(count, [x](std::int64_t i) { return static_cast<double>(x[i]); }) / static_cast<double>(count);
        const double variance = lane_sum<double>(count, [x, mean](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / static_cast<double>(count);
        const double inverse = 1.0 / std::sqrt(variance + static_cast<double>(epsilon_));
        for (std::int64_t c = 0; c < each; ++c) {
          const std::int64_t channel = g % groups_ * each + c;
          const std::int64_t at = parameters_ == channels_ ? channel : channel / each;
          const T factor = static_cast<T>(static_cast<double>(in<T>(call, 1)[at]) * inverse), shift = in<T>(call, 2)[at], centre = static_cast<T>(mean);
          for (std::int64_t i = c * size_; i < (c + 1) * size_; ++i) y[i] = (x[i] - centre) * factor + shift;
        }
      }
    });
  }
  std::int64_t images_ = 1, channels_ = 1, size_ = 1, groups_ = 1, parameters_ = 1;
  float epsilon_ = 1e-5f;
};

class LpNorm final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.lp_norm"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape();
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", -1), x.rank()));
    outer_ = x.elements(0, axis);
    axis_ = x[axis];
    inner_ = x.elements(axis + 1, x.rank());
    p_ = context.node.integer("p", 2);
    if (p_ != 1 && p_ != 2) return context.node.invalid("p is " + std::to_string(p_) + "; it must be 1 or 2");
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const T* x = in<T>(call, 0);
    T* y = out<T>(call, 0);
    call.pool->parallel_for(outer_ * inner_, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, axis_)), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t at = i / inner_ * axis_ * inner_ + i % inner_;
        double sum = 0;
        for (std::int64_t a = 0; a < axis_; ++a) {
          const double value = static_cast<double>(x[at + a * inner_]);
          sum += p_ == 1 ? std::abs(value) : value * value;
        }
        const double norm = p_ == 1 ? sum : std::sqrt(sum);
        for (std::int64_t a = 0; a < axis_; ++a) {
          y[at + a * inner_] = norm == 0 ? T(0) : static_cast<T>(static_cast<double>(x[at + a * inner_]) / norm);
        }
      }
    });
  }
  std::int64_t outer_ = 1, axis_ = 1, inner_ = 1, p_ = 2;
};

class Lrn final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.lrn"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape();
    if (x.rank() < 2) return context.node.invalid("the input needs a batch and channels");
    images_ = x[0];
    channels_ = x[1];
    size_ = x.elements(2, x.rank());
    window_ = context.node.integer("size", 0);
    if (window_ < 1) return context.node.invalid("size is " + std::to_string(window_));
    alpha_ = static_cast<double>(context.node.real("alpha", 1e-4f)) / static_cast<double>(window_);
    beta_ = static_cast<double>(context.node.real("beta", 0.75f));
    bias_ = static_cast<double>(context.node.real("bias", 1.0f));
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const T* x = in<T>(call, 0);
    T* y = out<T>(call, 0);
    call.pool->parallel_for(images_ * channels_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t c = p % channels_, image = p - c;
        const std::int64_t first = std::max<std::int64_t>(0, c - (window_ - 1) / 2), last = std::min(channels_ - 1, c + window_ / 2);
        for (std::int64_t i = 0; i < size_; ++i) {
          double sum = 0;
          for (std::int64_t k = first; k <= last; ++k) {
            const double value = static_cast<double>(x[(image + k) * size_ + i]);
            sum += value * value;
          }
          y[p * size_ + i] = static_cast<T>(static_cast<double>(x[p * size_ + i]) / std::pow(bias_ + alpha_ * sum, beta_));
        }
      }
    });
  }
  std::int64_t images_ = 1, channels_ = 1, size_ = 1, window_ = 1;
  double alpha_ = 0, beta_ = 0, bias_ = 1;
};

// (x - mean) / sqrt(variance) over `axes` (default 0, 2, 3), as the operator's function body has it.
class MeanVariance final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.mvn"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape();
    static constexpr std::int64_t kUsual[] = {0, 2, 3};
    auto axes = context.node.integers("axes");
    if (axes.empty()) axes = kUsual;
    bool reduced[kMaxRank] = {};
    for (const std::int64_t asked : axes) {
      FB_ASSIGN(const int axis, normalize_axis(context.node, asked, x.rank()));
      reduced[axis] = true;
    }
    kept_ = {};
    strides_kept_ = {};
    summed_ = {};
    strides_summed_ = {};
    std::int64_t stride = 1;
    for (int axis = x.rank() - 1; axis >= 0; --axis) {
      (reduced[axis] ? summed_ : kept_).push_back(x[axis]);
      (reduced[axis] ? strides_summed_ : strides_kept_).push_back(stride);
      stride *= x[axis];
    }
    return {};
  }
  Status compute(const KernelCall& call) override {
    return with_float_type(call, [&]<typename T>(T) { go<T>(call); });
  }

 private:
  static std::int64_t offset(std::int64_t index, const Shape& dims, const Shape& strides) {
    std::int64_t at = 0;
    for (int i = 0; i < dims.rank(); ++i) {
      at += index % dims[i] * strides[i];
      index /= dims[i];
    }
    return at;
  }
  template <typename T>
  void go(const KernelCall& call) const {
    const T* x = in<T>(call, 0);
    T* y = out<T>(call, 0);
    const std::int64_t count = summed_.elements();
    call.pool->parallel_for(kept_.elements(), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t base = offset(i, kept_, strides_kept_);
        double sum = 0, squares = 0;
        for (std::int64_t j = 0; j < count; ++j) sum += static_cast<double>(x[base + offset(j, summed_, strides_summed_)]);
        const double mean = sum / static_cast<double>(count);
        for (std::int64_t j = 0; j < count; ++j) {
          const double value = static_cast<double>(x[base + offset(j, summed_, strides_summed_)]) - mean;
          squares += value * value;
        }
        const double deviation = std::sqrt(squares / static_cast<double>(count)) + 1e-9;
        for (std::int64_t j = 0; j < count; ++j) {
          const std::int64_t at = base + offset(j, summed_, strides_summed_);
          y[at] = static_cast<T>((static_cast<double>(x[at]) - mean) / deviation);
        }
      }
    });
  }
  Shape kept_, strides_kept_, summed_, strides_summed_;
};

Status infer_norm(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  if (!x.present()) return node.invalid("an input is needed");
  FB_TRY(require_float(node, x.dtype, "the input"));
  same_as_input(context, 0, 0);
  return {};
}

Status infer_scaled_norm(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(infer_norm(context));
  for (std::size_t i = 1; i < 3; ++i) {
    if (!context.input(i).present()) return node.invalid("scale and bias are needed");
    if (context.input(i).dtype != context.input(0).dtype) return node.invalid("scale or bias has another type than the input");
  }
  return {};
}

Status infer_batch_norm(InferContext& context) {
  const NodeView& node = context.node();
  FB_TRY(infer_norm(context));
  const TypeShape& x = context.input(0);
  for (std::size_t i = 1; i < 5; ++i) {
    const TypeShape& values = context.input(i);
    if (!values.present()) return node.invalid("scale, bias, mean and variance are needed");
    FB_TRY(require_float(node, values.dtype, "a parameter"));
    if (values.known() && values.dims.size() == 1 && x.has_rank && x.dims.size() > 1 && x.dims[1] >= 0 && values.dims[0] != x.dims[1]) {
      return node.invalid("input " + std::to_string(i) + " has " + std::to_string(values.dims[0]) + " values for " + std::to_string(x.dims[1]) + " channels");
    }
  }
  const bool training = node.integer("training_mode", 0) != 0;
  for (std::size_t i = 1; i < context.output_count(); ++i) {
    if (!training && context.output(i).present()) return node.unsupported("training outputs before opset 14");
    if (training && i < 3) same_as_input(context, i, i + 2);
  }
  if (!training && node.version() < 14 && context.output_count() > 1) {
    // The builder leaves unwanted outputs out; a node that wants its running mean trains.
    return node.unsupported("a training form of BatchNormalization");
  }
  return {};
}

template <typename K>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>());
}

}  // namespace

std::span<const OpSpec> norm_ops() {
  constexpr std::int32_t kAll = 0x7fffffff;
  static const OpSpec specs[] = {
      {"", "BatchNormalization", 6, kAll, kOpNone, 0, infer_batch_norm, nullptr, create<BatchNorm>},
      {"", "InstanceNormalization", 6, kAll, kOpNone, 0, infer_scaled_norm, nullptr, create<GroupNorm>},
      {"", "GroupNormalization", 18, kAll, kOpNone, 0, infer_scaled_norm, nullptr, create<GroupNorm>},
      {"", "LpNormalization", 1, kAll, kOpNone, 0, infer_norm, nullptr, create<LpNorm>},
      {"", "LRN", 1, kAll, kOpNone, 0, infer_norm, nullptr, create<Lrn>},
      {"", "MeanVarianceNormalization", 9, kAll, kOpNone, 0, infer_norm, nullptr, create<MeanVariance>},
      {"", "LayerNormalization", 1, kAll, kOpNone, 0, infer_layer_norm, nullptr, create_layer_norm},
      {"", "RMSNormalization", 23, kAll, kOpNone, 0, infer_layer_norm, nullptr, create_layer_norm},
      {"", "SimplifiedLayerNormalization", 1, kAll, kOpNone, 0, infer_layer_norm, nullptr, create_layer_norm},
      {"com.microsoft", "SimplifiedLayerNormalization", 1, kAll, kOpNone, 0, infer_layer_norm, nullptr, create_layer_norm},
      {"com.microsoft", "SkipLayerNormalization", 1, kAll, kOpNone, 0, infer_layer_norm, nullptr, create_layer_norm},
      {"com.microsoft", "SkipSimplifiedLayerNormalization", 1, kAll, kOpNone, 0, infer_layer_norm, nullptr, create_layer_norm},
  };
  return specs;
}

}  // namespace forebay::ops
