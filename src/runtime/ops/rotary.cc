#include "runtime/ops/rotary.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

// Inputs: X, cos_cache, sin_cache, position_ids. Without ids the caches are [batch, sequence, rotated / 2].
// com.microsoft: X, position_ids, cos_cache, sin_cache. One id alone is the position of the first row of every sequence.
struct Form {
  std::size_t cos = 1, sin = 2, ids = 3;
  bool vendor = false;
};
Form form_of(const NodeView& node) { return node.domain().empty() ? Form{} : Form{2, 3, 1, true}; }

class Rotary final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.rotary"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    form_ = form_of(node);
    const auto& x = context.inputs[0].dims;
    const Shape cache = context.inputs[form_.cos].shape();
    packed_ = x.size() == 3;
    if (!packed_ && x.size() != 4) return node.invalid("the input " + dims_text(x) + " must have 3 or 4 dimensions");
    rotated_ = node.integer("rotary_embedding_dim", 0);
    batch_ = x[0];
    heads_ = packed_ ? node.integer("num_heads", 0) : x[1];
    // The vendor's form may leave the heads to be told from the cache.
    if (packed_ && form_.vendor && heads_ == 0 && cache.rank() == 2 && cache[1] > 0) heads_ = x[2] / (2 * cache[1]);
    sequence_ = packed_ ? x[1] : x[2];
    if (packed_ && (heads_ < 1 || x[2] % heads_ != 0)) return node.invalid("num_heads does not divide the last axis of " + dims_text(x));
    head_ = packed_ ? x[2] / heads_ : x[3];
    if (rotated_ == 0) rotated_ = form_.vendor && cache.rank() == 2 ? std::min(head_, 2 * cache[1]) : head_;
    interleaved_ = node.integer("interleaved", 0) != 0;
    if (rotated_ < 0 || rotated_ > head_ || rotated_ % 2 != 0) return node.invalid("rotary_embedding_dim " + std::to_string(rotated_));
    with_ids_ = context.inputs.size() > form_.ids && context.inputs[form_.ids].present();
    const bool fits = with_ids_ ? cache.rank() == 2 && cache[1] == rotated_ / 2
                                : cache == Shape{batch_, sequence_, rotated_ / 2};
    if (!fits || !(context.inputs[form_.sin].shape() == cache)) return node.invalid("a cache " + cache.to_string() + " does not fit the input " + dims_text(x));
    if (with_ids_) {
      const TypeShape& ids = context.inputs[form_.ids];
      const std::int64_t count = ids.shape().elements();
      offset_ = form_.vendor && count == 1 && ids.dims.size() == 1;
      if (ids.dtype != DType::i64 || (!offset_ && count != batch_ * sequence_)) return node.invalid("position_ids must be i64, one for each position");
    }
    positions_ = cache[0];
    name_ = std::string(node.name());
    return {};
  }
  Status compute(const KernelCall& call) override {
    if (with_ids_) {
      const auto* ids = reinterpret_cast<const std::int64_t*>(call.inputs[form_.ids].data);
      for (std::int64_t i = 0; i < batch_ * sequence_; ++i) {
        const std::int64_t at = position(ids, i);
        if (at < 0 || at >= positions_ || (offset_ && ids[0] >= positions_)) {
          return Status(Code::invalid_argument, "RotaryEmbedding '" + name_ + "': position " + std::to_string(at) + " is outside of the cache of " +
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
  // Of row i of all sequences.
  std::int64_t position(const std::int64_t* ids, std::int64_t i) const { return offset_ ? ids[0] + i % sequence_ : ids[i]; }

  template <typename T>
  void go(const KernelCall& call) const {
    const auto* ids = with_ids_ ? reinterpret_cast<const std::int64_t*>(call.inputs[form_.ids].data) : nullptr;
    call.pool->parallel_for(batch_ * heads_ * sequence_, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t s = packed_ ? i / heads_ % sequence_ : i % sequence_, b = i / (heads_ * sequence_);
        const std::int64_t at = ids != nullptr ? position(ids, b * sequence_ + s) : b * sequence_ + s, half = rotated_ / 2;
        const T* x = reinterpret_cast<const T*>(call.inputs[0].data) + i * head_;
        const T* cos = reinterpret_cast<const T*>(call.inputs[form_.cos].data) + at * half;
        const T* sin = reinterpret_cast<const T*>(call.inputs[form_.sin].data) + at * half;
        T* y = reinterpret_cast<T*>(call.outputs[0].data) + i * head_;
        rotate_head(x, cos, sin, y, half, interleaved_);
        for (std::int64_t j = rotated_; j < head_; ++j) y[j] = x[j];
      }
    });
  }
  std::int64_t batch_ = 0, heads_ = 1, sequence_ = 0, head_ = 0, rotated_ = 0, positions_ = 0;
  bool packed_ = false, interleaved_ = false, with_ids_ = false, offset_ = false;
  Form form_;
  std::string name_;
};

}  // namespace

Status infer_rotary(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  const Form form = form_of(node);
  const bool whole = x.present() && context.input(form.cos).present() && context.input(form.sin).present();
  if (!whole) return node.invalid("an input and both caches are needed");
  if (form.vendor && !context.input(form.ids).present()) return node.invalid("position_ids are needed");
  if (node.real("scale", 1.0f) != 1.0f || node.integer("is_packed_batching", 0) != 0) return node.unsupported("scale and is_packed_batching");
  FB_TRY(require_float(node, x.dtype, "the input"));
  if (context.input(form.cos).dtype != x.dtype || context.input(form.sin).dtype != x.dtype) return node.invalid("the caches have another type than the input");
  same_as_input(context, 0, 0);
  return {};
}

Result<std::unique_ptr<Kernel>> create_rotary(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<Rotary>());
}

}  // namespace forebay::ops
