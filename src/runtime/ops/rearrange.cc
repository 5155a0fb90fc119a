// Trilu, ReverseSequence, OneHot.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/indices.h"
#include "runtime/ops/infer.h"

namespace forebay::ops {
namespace {

// ---- Trilu ----------------------------------------------------------------------------------------------------------------------

Status infer_trilu(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 2));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(allow_input(ctx, 1, dtypes(DType::i64)));
  const TypeShape& data = ctx.input(0);
  if (data.has_rank && data.dims.size() < 2) return ctx.node().invalid("the input is not a matrix");
  if (ctx.input(1).known()) {
    FB_ASSIGN(const std::int64_t count, element_count(ctx.node(), ctx.input(1).dims));
    if (count != 1) return ctx.node().invalid("k is not a scalar");
  }
  set_like(ctx, 0, 0, data.dtype);
  return {};
}

class TriluKernel final : public NamedKernel {
 public:
  explicit TriluKernel(int bytes) : NamedKernel("cpu.Trilu." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    rows_ = dims[dims.size() - 2];
    cols_ = dims.back();
    all_rows_ = 1;
    for (std::size_t d = 0; d + 1 < dims.size(); ++d) all_rows_ *= dims[d];
    upper_ = context.node.integer("upper", 1) != 0;
    const bool has_k = context.values.size() > 1 && context.values[1] != nullptr;
    k_ = has_k ? std::clamp(host_integers(*context.values[1])[0], -rows_, cols_) : 0;
    return {};
  }
  Status run(const KernelCall& call) override {
    if (cols_ == 0) return {};
    call.pool->parallel_for(all_rows_, std::max<std::int64_t>(1, 16384 / cols_), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        // Upper keeps [first, cols), lower keeps [0, first).
        const std::int64_t edge = row % rows_ + k_ + (upper_ ? 0 : 1);
        const std::int64_t first = std::clamp<std::int64_t>(edge, 0, cols_);
        const std::int64_t keep_from = upper_ ? first : 0, keep_to = upper_ ? cols_ : first;
        std::byte* to = call.outputs[0].data + row * cols_ * bytes_;
        const std::byte* from = call.inputs[0].data + row * cols_ * bytes_;
        if (to != from) std::memcpy(to + keep_from * bytes_, from + keep_from * bytes_, bytes(keep_to - keep_from));
        std::memset(upper_ ? to : to + first * bytes_, 0, bytes(upper_ ? first : cols_ - first));
      }
    });
    return {};
  }

 private:
  std::size_t bytes(std::int64_t elements) const { return static_cast<std::size_t>(elements * bytes_); }
  int bytes_;
  bool upper_ = true;
  std::int64_t rows_ = 0, cols_ = 0, all_rows_ = 0, k_ = 0;
};

// ---- ReverseSequence ------------------------------------------------------------------------------------------------------------

Status infer_reverse(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(need_input(ctx, 1, dtypes(DType::i64)));
  const std::int64_t batch = ctx.node().integer("batch_axis", 1), time = ctx.node().integer("time_axis", 0);
  if (batch + time != 1 || (batch != 0 && batch != 1)) return ctx.node().invalid("batch_axis and time_axis are not 0 and 1");
  const TypeShape& data = ctx.input(0);
  if (data.has_rank && data.dims.size() < 2) return ctx.node().invalid("the input has fewer than two axes");
  const TypeShape& lengths = ctx.input(1);
  if (data.known() && lengths.known() && (lengths.dims.size() != 1 || lengths.dims[0] != data.dims[static_cast<std::size_t>(batch)])) {
    return ctx.node().invalid("sequence_lens are not one for each batch");
  }
  set_like(ctx, 0, 0, data.dtype);
  return {};
}

class ReverseKernel final : public NamedKernel {
 public:
  explicit ReverseKernel(int bytes) : NamedKernel("cpu.ReverseSequence." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    time_first_ = context.node.integer("time_axis", 0) == 0;
    time_ = dims[time_first_ ? 0 : 1];
    batch_ = dims[time_first_ ? 1 : 0];
    inner_bytes_ = bytes_;
    for (std::size_t d = 2; d < dims.size(); ++d) inner_bytes_ *= dims[d];
    label_ = node_label(context.node);
    return {};
  }
  Status run(const KernelCall& call) override {
    const IndexReader lengths(call.inputs[1]);
    for (std::int64_t b = 0; b < batch_; ++b) {
      if (lengths[b] < 0 || lengths[b] > time_) return index_error(label_, b, lengths[b], time_);
    }
    if (inner_bytes_ == 0) return {};
    for (std::int64_t t = 0; t < time_; ++t) {
      for (std::int64_t b = 0; b < batch_; ++b) {
        const std::int64_t from = t < lengths[b] ? lengths[b] - 1 - t : t;
        std::memcpy(call.outputs[0].data + place(t, b), call.inputs[0].data + place(from, b), static_cast<std::size_t>(inner_bytes_));
      }
    }
    return {};
  }

 private:
  std::int64_t place(std::int64_t t, std::int64_t b) const { return (time_first_ ? t * batch_ + b : b * time_ + t) * inner_bytes_; }
  int bytes_;
  bool time_first_ = true;
  std::int64_t time_ = 0, batch_ = 0, inner_bytes_ = 0;
  std::string label_;
};

// ---- OneHot ---------------------------------------------------------------------------------------------------------------------

// A number of any dtype as an integer (indices and depth may be floats).
std::int64_t integer_at(const std::byte* data, DType dtype, std::int64_t i) {
  std::int64_t value = 0;
  if (is_half(dtype)) {
    float wide = 0;
    load_half(dtype, data + i * 2, &wide, 1);
    return static_cast<std::int64_t>(wide);
  }
  dispatch_number(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T x = reinterpret_cast<const T*>(data)[i];
    if constexpr (std::is_floating_point_v<T>) {
      value = x >= T(-0x1p62) && x <= T(0x1p62) ? static_cast<std::int64_t>(x) : INT64_MIN;  // NaN and the like: no class
    } else {
      value = static_cast<std::int64_t>(x);
    }
  });
  return value;
}

Status infer_one_hot(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 3, 3));
  FB_TRY(need_input(ctx, 0, kNumbers));
  FB_TRY(need_input(ctx, 1, kNumbers));
  FB_TRY(need_input(ctx, 2, kNumbers | kBool));
  if (ctx.input(2).known() && ctx.input(2).dims != std::vector<std::int64_t>{2}) return ctx.node().invalid("values are not two");
  const TypeShape& indices = ctx.input(0);
  if (!indices.has_rank) {
    ctx.set_output_unranked(0, ctx.input(2).dtype);
    return {};
  }
  std::int64_t depth = -1;
  if (const HostTensor* value = ctx.value(1); value != nullptr) {
    if (value->shape().elements() != 1) return ctx.node().invalid("depth is not a scalar");
    depth = integer_at(value->data(), value->dtype(), 0);
    if (depth < 0) return ctx.node().invalid("depth is negative");
  }
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", -1), static_cast<int>(indices.dims.size()) + 1));
  std::vector<std::int64_t> dims = indices.dims;
  dims.insert(dims.begin() + axis, depth);
  ctx.set_output(0, ctx.input(2).dtype, std::move(dims));
  return {};
}

class OneHotKernel final : public NamedKernel {
 public:
  explicit OneHotKernel(int bytes) : NamedKernel("cpu.OneHot." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.outputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", -1), static_cast<int>(dims.size())));
    depth_ = dims[static_cast<std::size_t>(axis)];
    inner_ = 1;
    for (std::size_t d = static_cast<std::size_t>(axis) + 1; d < dims.size(); ++d) inner_ *= dims[d];
    return {};
  }
  Status run(const KernelCall& call) override {
    const std::int64_t total = call.outputs[0].shape.elements();
    dispatch_bytes(bytes_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T off = reinterpret_cast<const T*>(call.inputs[2].data)[0], on = reinterpret_cast<const T*>(call.inputs[2].data)[1];
      T* out = reinterpret_cast<T*>(call.outputs[0].data);
      call.pool->parallel_for(total, 65536, [&](std::int64_t begin, std::int64_t end) { std::fill(out + begin, out + end, off); });
      const std::int64_t count = call.inputs[0].shape.elements();
      for (std::int64_t i = 0; i < count; ++i) {
        std::int64_t hot = integer_at(call.inputs[0].data, call.inputs[0].dtype, i);
        if (hot < 0) hot += depth_;
        if (hot >= 0 && hot < depth_) out[((i / inner_) * depth_ + hot) * inner_ + i % inner_] = on;
      }
    });
    return {};
  }

 private:
  int bytes_;
  std::int64_t depth_ = 0, inner_ = 1;
};

template <typename K, int kInput>
Result<std::unique_ptr<Kernel>> create(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>(element_bytes(inputs[kInput].dtype)));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Trilu", .since = 14, .host_inputs = 1u << 1, .infer = infer_trilu, .create = create<TriluKernel, 0>},
    {.name = "ReverseSequence", .since = 10, .infer = infer_reverse, .create = create<ReverseKernel, 0>},
    {.name = "OneHot", .since = 9, .host_inputs = 1u << 1, .infer = infer_one_hot, .create = create<OneHotKernel, 2>},
};

}  // namespace

std::span<const OpSpec> rearrange_ops() { return kSpecs; }

}  // namespace forebay::ops
