// Where: moves data only, so one kernel for each element size.
#include <memory>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"

namespace forebay::ops {
namespace {

Status infer_where(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 3, 3));
  FB_TRY(need_input(ctx, 0, kBool));
  FB_TRY(need_input(ctx, 1, kNumbers | kBool));
  FB_TRY(same_dtype(ctx, 1, 2));
  const DType dtype = ctx.input(1).dtype;
  if (!ctx.input(0).has_rank || !ctx.input(1).has_rank || !ctx.input(2).has_rank) {
    ctx.set_output_unranked(0, dtype);
    return {};
  }
  FB_ASSIGN(std::vector<std::int64_t> dims, broadcast_dims(ctx.node(), ctx.input(1).dims, ctx.input(2).dims));
  FB_ASSIGN(dims, broadcast_dims(ctx.node(), ctx.input(0).dims, dims));
  ctx.set_output(0, dtype, std::move(dims));
  return {};
}

template <typename T>
void choose(const std::uint8_t* c, std::int64_t cs, const T* x, std::int64_t xs, const T* y, std::int64_t ys, T* out, std::int64_t n) {
  if (cs == 1 && xs == 1 && ys == 1) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) out[i] = c[i] != 0 ? x[i] : y[i];
  } else if (cs == 1 && xs == 1) {
    const T other = *y;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) out[i] = c[i] != 0 ? x[i] : other;
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      const T a = x[i * xs], b = y[i * ys];
      out[i] = c[i * cs] != 0 ? a : b;
    }
  }
}

class WhereKernel final : public NamedKernel {
 public:
  explicit WhereKernel(int bytes) : NamedKernel("cpu.Where." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const std::span<const std::int64_t> dims[] = {context.inputs[0].dims, context.inputs[1].dims, context.inputs[2].dims};
    plan_.plan(context.outputs[0].dims, dims);
    return {};
  }
  Status run(const KernelCall& call) override {
    const auto* condition = reinterpret_cast<const std::uint8_t*>(call.inputs[0].data);
    const auto last = static_cast<std::size_t>(plan_.rank - 1);
    dispatch_bytes(bytes_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = reinterpret_cast<const T*>(call.inputs[1].data);
      const T* y = reinterpret_cast<const T*>(call.inputs[2].data);
      T* out = reinterpret_cast<T*>(call.outputs[0].data);
      call.pool->parallel_for(plan_.total, 16384, [&](std::int64_t begin, std::int64_t end) {
        plan_.walk(begin, end, [&](std::int64_t position, const auto& offset, std::int64_t n) {
          choose<T>(condition + offset[0], plan_.strides[0][last], x + offset[1], plan_.strides[1][last], y + offset[2],
                    plan_.strides[2][last], out + position, n);
        });
      });
    });
    return {};
  }

 private:
  int bytes_;
  BroadcastPlan plan_;
};

Result<std::unique_ptr<Kernel>> create_where(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<WhereKernel>(element_bytes(inputs[1].dtype)));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Where", .since = 9, .flags = kOpElementwise, .infer = infer_where, .create = create_where},
};

}  // namespace

std::span<const OpSpec> where_ops() { return kSpecs; }

}  // namespace forebay::ops
