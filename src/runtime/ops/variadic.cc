// Sum, Mean, Min, Max over any number of inputs. Blocks of the output are folded in input order, wider than f16 and bf16 until the end.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/ops/binary_loops.h"
#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"

namespace forebay::ops {
namespace {

Status infer_variadic(InferContext& ctx, DTypeSet set) {
  FB_TRY(need_arity(ctx, 1, 1u << 20));
  FB_TRY(need_input(ctx, 0, set));
  std::vector<std::int64_t> dims = ctx.input(0).dims;
  bool ranked = ctx.input(0).has_rank;
  for (std::size_t i = 1; i < ctx.input_count(); ++i) {
    FB_TRY(need_input(ctx, i, set));
    FB_TRY(same_dtype(ctx, 0, i));
    ranked = ranked && ctx.input(i).has_rank;
    if (ranked) {
      FB_ASSIGN(dims, broadcast_dims(ctx.node(), dims, ctx.input(i).dims));
    }
  }
  if (ranked) {
    ctx.set_output(0, ctx.input(0).dtype, std::move(dims));
  } else {
    ctx.set_output_unranked(0, ctx.input(0).dtype);
  }
  return {};
}
Status infer_floats(InferContext& ctx) { return infer_variadic(ctx, kFloats); }
Status infer_numbers(InferContext& ctx) { return infer_variadic(ctx, kNumbers); }

template <typename T>
void copy_run(const std::byte* from, std::int64_t step, std::byte* to, std::int64_t n) {
  const T* in = reinterpret_cast<const T*>(from);
  T* out = reinterpret_cast<T*>(to);
  if (step == 0) {
    std::fill_n(out, n, *in);
  } else {
    std::memcpy(out, in, static_cast<std::size_t>(n) * sizeof(T));
  }
}

class VariadicKernel final : public NamedKernel {
 public:
  VariadicKernel(std::string id, FloatBinary op, bool mean, DType dtype)
      : NamedKernel(std::move(id)), dtype_(dtype), fold_{arithmetic_loops(op, loop_dtype(dtype))}, mean_(mean) {}

  Status prepare(const PrepareContext& context) override {
    plans_.assign(context.inputs.size(), {});
    for (std::size_t i = 0; i < plans_.size(); ++i) {
      const std::span<const std::int64_t> dims[] = {context.inputs[i].dims};
      plans_[i].plan(context.outputs[0].dims, dims);
    }
    return {};
  }

  Status run(const KernelCall& call) override {
    call.pool->parallel_for(plans_[0].total, 8192, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t at = begin; at < end; at += kBlock) fold_block(call, at, std::min(kBlock, end - at));
    });
    return {};
  }

 private:
  // Input `i` at output positions [at, at + n), broadcast, in the loops' dtype.
  void load(const KernelCall& call, std::size_t i, std::int64_t at, std::int64_t n, std::byte* to) const {
    const BroadcastPlan& plan = plans_[i];
    const std::int64_t step = plan.strides[0][static_cast<std::size_t>(plan.rank - 1)];
    const int bytes = element_bytes(dtype_);
    alignas(64) std::uint16_t raw[kBlock];
    std::byte* target = is_half(dtype_) ? reinterpret_cast<std::byte*>(raw) : to;
    plan.walk(at, at + n, [&](std::int64_t position, const auto& offset, std::int64_t m) {
      dispatch_bytes(bytes, [&](auto tag) {
        copy_run<typename decltype(tag)::type>(call.inputs[i].data + offset[0] * bytes, step, target + (position - at) * bytes, m);
      });
    });
    if (is_half(dtype_)) load_half(dtype_, raw, reinterpret_cast<float*>(to), n);
  }

  void fold_block(const KernelCall& call, std::int64_t at, std::int64_t n) const {
    alignas(64) std::byte sum[kBlock * 8], next[kBlock * 8];
    load(call, 0, at, n, sum);
    for (std::size_t i = 1; i < plans_.size(); ++i) {
      load(call, i, at, n, next);
      fold_.vv(sum, next, sum, n, {});
    }
    if (mean_) divide(sum, n);
    const int bytes = element_bytes(dtype_);
    std::byte* out = call.outputs[0].data + at * bytes;
    if (is_half(dtype_)) {
      store_half(dtype_, reinterpret_cast<const float*>(sum), out, n);
    } else {
      std::memcpy(out, sum, static_cast<std::size_t>(n * bytes));
    }
  }

  void divide(std::byte* sum, std::int64_t n) const {
    const bool wide = dtype_ == DType::f64;
    const double count64 = static_cast<double>(plans_.size());
    const float count32 = static_cast<float>(plans_.size());
    vector_loops().binary(FloatBinary::div, wide).vs(sum, wide ? static_cast<const void*>(&count64) : &count32, sum, n, {});
  }

  DType dtype_;
  BinaryLoops fold_;
  bool mean_;
  std::vector<BroadcastPlan> plans_;
};

template <FloatBinary kOp, bool kMean>
Result<std::unique_ptr<Kernel>> create_variadic(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  const DType dtype = inputs[0].dtype;
  const BinaryLoops loops = arithmetic_loops(kOp, loop_dtype(dtype));
  if (loops.vv == nullptr) return node.unsupported("no kernel for dtype " + std::string(dtype_name(dtype)));
  std::string id = "cpu." + std::string(node.op()) + "." + std::string(dtype_name(dtype));
  if (inputs.size() == 2 && !kMean && node.version() >= 7) return make_binary_kernel(std::move(id), {loops, dtype, dtype, dtype, {}});
  return std::unique_ptr<Kernel>(std::make_unique<VariadicKernel>(std::move(id), kOp, kMean, dtype));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Sum", .since = 6, .flags = kOpElementwise, .infer = infer_floats, .create = create_variadic<FloatBinary::add, false>},
    {.name = "Mean", .since = 6, .flags = kOpElementwise, .infer = infer_floats, .create = create_variadic<FloatBinary::add, true>},
    {.name = "Min", .since = 6, .flags = kOpElementwise, .infer = infer_numbers, .create = create_variadic<FloatBinary::min, false>},
    {.name = "Max", .since = 6, .flags = kOpElementwise, .infer = infer_numbers, .create = create_variadic<FloatBinary::max, false>},
};

}  // namespace

std::span<const OpSpec> variadic_ops() { return kSpecs; }

}  // namespace forebay::ops
