#include "runtime/ops/rotary.h"

#include <string>

#include "base/check.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

// Inputs: X, cos_cache, sin_cache, position_ids. Without ids the caches are [batch, sequence, rotated / 2].
class Rotary final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.rotary"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const auto& x = context.inputs[0].dims;
    packed_ = x.size() == 3;
    if (!packed_ && x.size() != 4) return node.invalid("the input " + dims_text(x) + " must have 3 or 4 dimensions");
    batch_ = x[0];
    heads_ = packed_ ? node.integer("num_heads", 0) : x[1];
    sequence_ = packed_ ? x[1] : x[2];
    if (packed_ && (heads_ < 1 || x[2] % heads_ != 0)) return node.invalid("num_heads does not divide the last axis of " + dims_text(x));
    head_ = packed_ ? x[2] / heads_ : x[3];
    rotated_ = node.integer("rotary_embedding_dim", 0);
    if (rotated_ == 0) rotated_ = head_;
    interleaved_ = node.integer("interleaved", 0) != 0;
    if (rotated_ < 0 || rotated_ > head_ || rotated_ % 2 != 0) return node.invalid("rotary_embedding_dim " + std::to_string(rotated_));
    with_ids_ = context.inputs.size() > 3 && context.inputs[3].present();
    const Shape cache = context.inputs[1].shape();
    const bool fits = with_ids_ ? cache.rank() == 2 && cache[1] == rotated_ / 2
                                : cache == Shape{batch_, sequence_, rotated_ / 2};
    if (!fits || !(context.inputs[2].shape() == cache)) return node.invalid("a cache " + cache.to_string() + " does not fit the input " + dims_text(x));
    if (with_ids_ && (context.inputs[3].dtype != DType::i64 || context.inputs[3].shape().elements() != batch_ * sequence_)) {
      return node.invalid("position_ids must be i64, one for each position");
    }
    positions_ = cache[0];
    name_ = std::string(node.name());
    return {};
  }
  Status compute(const KernelCall& call) override {
    if (with_ids_) {
      const auto* ids = reinterpret_cast<const std::int64_t*>(call.inputs[3].data);
      for (std::int64_t i = 0; i < batch_ * sequence_; ++i) {
        if (ids[i] < 0 || ids[i] >= positions_) {
          return Status(Code::invalid_argument, "RotaryEmbedding '" + name_ + "': position " + std::to_string(ids[i]) + " is outside of the cache of " +
                                                    std::to_string(positions_));
        }
      }
    }
    if (call.inputs[0].dtype == DType::f64) {
      go<double>(call);
    } else {
      go<float>(call);
    }
    return {};
  }

 private:
  template <typename T>
  void go(const KernelCall& call) const {
    const auto* ids = with_ids_ ? reinterpret_cast<const std::int64_t*>(call.inputs[3].data) : nullptr;
    call.pool->parallel_for(batch_ * heads_ * sequence_, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t s = packed_ ? i / heads_ % sequence_ : i % sequence_, b = i / (heads_ * sequence_);
        const std::int64_t position = ids != nullptr ? ids[b * sequence_ + s] : b * sequence_ + s, half = rotated_ / 2;
        const T* x = reinterpret_cast<const T*>(call.inputs[0].data) + i * head_;
        const T* cos = reinterpret_cast<const T*>(call.inputs[1].data) + position * half;
        const T* sin = reinterpret_cast<const T*>(call.inputs[2].data) + position * half;
        T* y = reinterpret_cast<T*>(call.outputs[0].data) + i * head_;
        for (std::int64_t j = 0; j < half; ++j) {
          const std::int64_t first = interleaved_ ? 2 * j : j, second = interleaved_ ? 2 * j + 1 : j + half;
          const T a = x[first], c = x[second];
          y[first] = cos[j] * a - sin[j] * c;
          y[second] = sin[j] * a + cos[j] * c;
        }
        for (std::int64_t j = rotated_; j < head_; ++j) y[j] = x[j];
      }
    });
  }
  std::int64_t batch_ = 0, heads_ = 1, sequence_ = 0, head_ = 0, rotated_ = 0, positions_ = 0;
  bool packed_ = false, interleaved_ = false, with_ids_ = false;
  std::string name_;
};

}  // namespace

Status infer_rotary(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  if (!x.present() || !context.input(1).present() || !context.input(2).present()) return node.invalid("an input and both caches are needed");
  FB_TRY(require_float(node, x.dtype, "the input"));
  if (context.input(1).dtype != x.dtype || context.input(2).dtype != x.dtype) return node.invalid("the caches have another type than the input");
  same_as_input(context, 0, 0);
  return {};
}

Result<std::unique_ptr<Kernel>> create_rotary(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<Rotary>());
}

}  // namespace forebay::ops
