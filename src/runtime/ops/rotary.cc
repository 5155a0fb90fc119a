#include "runtime/ops/rotary.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

RotaryDims form_of(const NodeView& node) {
  RotaryDims form;
  if (node.domain().empty()) return form;
  form.cos = 2;
  form.sin = 3;
  form.ids = 1;
  form.vendor = true;
  return form;
}

class Rotary final : public FloatKernel {
 public:
  std::string_view id() const override { return "cpu.rotary"; }

 protected:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(d_, rotary_dims(context));
    name_ = std::string(context.node.name());
    return {};
  }
  Status compute(const KernelCall& call) override {
    if (d_.with_ids) {
      const auto* ids = reinterpret_cast<const std::int64_t*>(call.inputs[d_.ids].data);
      for (std::int64_t i = 0; i < d_.batch * d_.sequence; ++i) {
        const std::int64_t at = position(ids, i);
        if (at < 0 || at >= d_.positions || (d_.offset && ids[0] >= d_.positions)) {
          return Status(Code::invalid_argument, "RotaryEmbedding '" + name_ + "': position " + std::to_string(at) +
                                                    " is outside of the cache of " + std::to_string(d_.positions));
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
  std::int64_t position(const std::int64_t* ids, std::int64_t i) const { return d_.offset ? ids[0] + i % d_.sequence : ids[i]; }

  template <typename T>
  void go(const KernelCall& call) const {
    const auto* ids = d_.with_ids ? reinterpret_cast<const std::int64_t*>(call.inputs[d_.ids].data) : nullptr;
    call.pool->parallel_for(d_.batch * d_.heads * d_.sequence, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t s = d_.packed ? i / d_.heads % d_.sequence : i % d_.sequence, b = i / (d_.heads * d_.sequence);
        const std::int64_t at = ids != nullptr ? position(ids, b * d_.sequence + s) : b * d_.sequence + s, half = d_.rotated / 2;
        const T* x = reinterpret_cast<const T*>(call.inputs[0].data) + i * d_.head;
        const T* cos = reinterpret_cast<const T*>(call.inputs[d_.cos].data) + at * half;
        const T* sin = reinterpret_cast<const T*>(call.inputs[d_.sin].data) + at * half;
        T* y = reinterpret_cast<T*>(call.outputs[0].data) + i * d_.head;
        rotate_head(x, cos, sin, y, half, d_.interleaved);
        for (std::int64_t j = d_.rotated; j < d_.head; ++j) y[j] = x[j];
      }
    });
  }
  RotaryDims d_;
  std::string name_;
};

}  // namespace

Result<RotaryDims> rotary_dims(const PrepareContext& context) {
  const NodeView& node = context.node;
  RotaryDims d = form_of(node);
  const auto& x = context.inputs[0].dims;
  const Shape cache = context.inputs[d.cos].shape();
  d.packed = x.size() == 3;
  if (!d.packed && x.size() != 4) return node.invalid("the input " + dims_text(x) + " must have 3 or 4 dimensions");
  d.rotated = node.integer("rotary_embedding_dim", 0);
  d.batch = x[0];
  d.heads = d.packed ? node.integer("num_heads", 0) : x[1];
  // The vendor's form may leave the heads to be told from the cache.
  if (d.packed && d.vendor && d.heads == 0 && cache.rank() == 2 && cache[1] > 0) d.heads = x[2] / (2 * cache[1]);
  d.sequence = d.packed ? x[1] : x[2];
  if (d.packed && (d.heads < 1 || x[2] % d.heads != 0)) return node.invalid("num_heads does not divide the last axis of " + dims_text(x));
  d.head = d.packed ? x[2] / d.heads : x[3];
  if (d.rotated == 0) d.rotated = d.vendor && cache.rank() == 2 ? std::min(d.head, 2 * cache[1]) : d.head;
  d.interleaved = node.integer("interleaved", 0) != 0;
  if (d.rotated < 0 || d.rotated > d.head || d.rotated % 2 != 0) return node.invalid("rotary_embedding_dim " + std::to_string(d.rotated));
  d.with_ids = context.inputs.size() > d.ids && context.inputs[d.ids].present();
  const bool fits = d.with_ids ? cache.rank() == 2 && cache[1] == d.rotated / 2 : cache == Shape{d.batch, d.sequence, d.rotated / 2};
  if (!fits || !(context.inputs[d.sin].shape() == cache))
    return node.invalid("a cache " + cache.to_string() + " does not fit the input " + dims_text(x));
  if (d.with_ids) {
    const TypeShape& ids = context.inputs[d.ids];
    const std::int64_t count = ids.shape().elements();
    d.offset = d.vendor && count == 1 && ids.dims.size() == 1;
    if (ids.dtype != DType::i64 || (!d.offset && count != d.batch * d.sequence))
      return node.invalid("position_ids must be i64, one for each position");
  }
  d.positions = cache[0];
  return d;
}

Status infer_rotary(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& x = context.input(0);
  const RotaryDims form = form_of(node);
  const bool whole = x.present() && context.input(form.cos).present() && context.input(form.sin).present();
  if (!whole) return node.invalid("an input and both caches are needed");
  if (form.vendor && !context.input(form.ids).present()) return node.invalid("position_ids are needed");
  if (node.real("scale", 1.0f) != 1.0f || node.integer("is_packed_batching", 0) != 0)
    return node.unsupported("scale and is_packed_batching");
  FB_TRY(require_float(node, x.dtype, "the input"));
  if (context.input(form.cos).dtype != x.dtype || context.input(form.sin).dtype != x.dtype)
    return node.invalid("the caches have another type than the input");
  same_as_input(context, 0, 0);
  return {};
}

Result<std::unique_ptr<Kernel>> create_rotary(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<Rotary>());
}

}  // namespace forebay::ops
