#include "runtime/ops/elementwise.h"

#include <algorithm>

#include "runtime/ops/dispatch.h"

namespace forebay::ops {

void BroadcastPlan::plan(std::span<const std::int64_t> out, std::span<const std::span<const std::int64_t>> inputs) {
  FB_CHECK(inputs.size() <= kMaxInputs && out.size() <= static_cast<std::size_t>(kMaxRank));
  *this = BroadcastPlan();
  total = 1;
  for (const std::int64_t dim : out) total *= dim;
  // Strides of every axis first, from the innermost; 0 where the input has size 1.
  std::array<std::array<std::int64_t, kMaxRank>, kMaxInputs> full{};
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    std::int64_t stride = 1;
    for (std::size_t back = 1; back <= inputs[k].size(); ++back) {
      const std::int64_t dim = inputs[k][inputs[k].size() - back];
      full[k][out.size() - back] = dim == 1 ? 0 : stride;
      stride *= dim;
    }
  }
  int made = 0;
  for (std::size_t axis = 0; axis < out.size(); ++axis) {
    if (out[axis] == 1) continue;
    bool merges = made > 0;
    for (std::size_t k = 0; k < inputs.size() && merges; ++k) {
      merges = strides[k][static_cast<std::size_t>(made - 1)] == full[k][axis] * out[axis];
    }
    if (!merges) ++made;
    const auto at = static_cast<std::size_t>(made - 1);
    dims[at] = merges ? dims[at] * out[axis] : out[axis];
    for (std::size_t k = 0; k < inputs.size(); ++k) strides[k][at] = full[k][axis];
  }
  rank = std::max(made, 1);
  if (made == 0) dims[0] = 1;
}

void load_half(DType dtype, const void* in, float* out, std::int64_t n) {
  const VectorLoops& loops = vector_loops();
  (dtype == DType::f16 ? loops.f16_to_f32 : loops.bf16_to_f32)(static_cast<const std::uint16_t*>(in), out, n);
}
void store_half(DType dtype, const float* in, void* out, std::int64_t n) {
  const VectorLoops& loops = vector_loops();
  (dtype == DType::f16 ? loops.f32_to_f16 : loops.f32_to_bf16)(in, static_cast<std::uint16_t*>(out), n);
}

namespace {

constexpr std::int64_t kGrain = 16384;

LoopFn pick(const BinaryLoops& loops, std::int64_t a_step, std::int64_t b_step, std::int64_t n) {
  if (n == 1 || (a_step == 1 && b_step == 1)) return loops.vv;
  return a_step == 1 ? loops.vs : loops.sv;
}

// Both inputs are one element: one result, copied.
void fill_same(const BinaryFunction& function, std::byte* out, std::int64_t n) {
  const auto size = static_cast<std::size_t>(element_bytes(function.out));
  for (std::int64_t i = 1; i < n; ++i) std::copy_n(out, size, out + static_cast<std::size_t>(i) * size);
}

}  // namespace

void apply_binary(const BinaryFunction& function, const std::byte* a, std::int64_t a_step, const std::byte* b, std::int64_t b_step,
                  std::byte* out, std::int64_t n) {
  if (n > 1 && a_step == 0 && b_step == 0) {
    apply_binary(function, a, 1, b, 1, out, 1);
    fill_same(function, out, n);
    return;
  }
  const LoopFn loop = pick(function.loops, a_step, b_step, n);
  const bool half_a = is_half(function.a), half_b = is_half(function.b), half_out = is_half(function.out);
  if (!half_a && !half_b && !half_out) {
    loop(a, b, out, n, function.params);
    return;
  }
  alignas(64) float block_a[kBlock], block_b[kBlock], block_out[kBlock];
  const int a_bytes = element_bytes(function.a), b_bytes = element_bytes(function.b), out_bytes = element_bytes(function.out);
  if (half_a && a_step == 0) load_half(function.a, a, block_a, 1);
  if (half_b && b_step == 0) load_half(function.b, b, block_b, 1);
  for (std::int64_t done = 0; done < n; done += kBlock) {
    const std::int64_t m = std::min(kBlock, n - done);
    const std::byte* a_at = a + done * a_step * a_bytes;
    const std::byte* b_at = b + done * b_step * b_bytes;
    std::byte* out_at = out + done * out_bytes;
    if (half_a && a_step == 1) load_half(function.a, a_at, block_a, m);
    if (half_b && b_step == 1) load_half(function.b, b_at, block_b, m);
    loop(half_a ? static_cast<const void*>(block_a) : a_at, half_b ? static_cast<const void*>(block_b) : b_at,
         half_out ? static_cast<void*>(block_out) : out_at, m, function.params);
    if (half_out) store_half(function.out, block_out, out_at, m);
  }
}

namespace {

class BinaryKernel final : public NamedKernel {
 public:
  BinaryKernel(std::string id, const BinaryFunction& function) : NamedKernel(std::move(id)), function_(function) {}

  Status prepare(const PrepareContext& context) override {
    const auto& a = context.inputs[0].dims;
    const std::vector<std::int64_t> b = aligned_second_dims(context.node, a, context.inputs[1].dims);
    const std::span<const std::int64_t> dims[] = {a, b};
    plan_.plan(context.outputs[0].dims, dims);
    sliced_ = context.sliced_input;
    const auto& out = context.outputs[0].dims;
    row_elements_ = out.empty() || out[0] == 0 ? 1 : plan_.total / out[0];
    return {};
  }

  Status run(const KernelCall& call) override {
    const std::byte* data[2] = {call.inputs[0].data, call.inputs[1].data};
    std::int64_t begin = 0, end = plan_.total;
    std::int64_t skip[2] = {0, 0};
    if (sliced_ < 2) {  // rows of the slab are rows of the output
      begin = call.row_begin * row_elements_;
      end = begin + call.inputs[sliced_].shape.elements();
      skip[sliced_] = begin;
    }
    const int a_bytes = element_bytes(function_.a), b_bytes = element_bytes(function_.b), out_bytes = element_bytes(function_.out);
    std::byte* out = call.outputs[0].data;
    const auto last = static_cast<std::size_t>(plan_.rank - 1);
    const std::int64_t a_step = plan_.strides[0][last], b_step = plan_.strides[1][last];
    call.pool->parallel_for(end - begin, kGrain, [&](std::int64_t from, std::int64_t to) {
      plan_.walk(begin + from, begin + to, [&](std::int64_t position, const auto& offset, std::int64_t n) {
        apply_binary(function_, data[0] + (offset[0] - skip[0]) * a_bytes, a_step, data[1] + (offset[1] - skip[1]) * b_bytes, b_step,
                     out + position * out_bytes, n);
      });
    });
    return {};
  }

 private:
  BinaryFunction function_;
  BroadcastPlan plan_;
  std::uint32_t sliced_ = plan::kNone;
  std::int64_t row_elements_ = 1;
};

class UnaryKernel final : public NamedKernel {
 public:
  UnaryKernel(std::string id, const UnaryFunction& function) : NamedKernel(std::move(id)), function_(function) {}
  Status run(const KernelCall& call) override {
    const int in_bytes = element_bytes(function_.in), out_bytes = element_bytes(function_.out);
    const std::byte* in = call.inputs[0].data;
    std::byte* out = call.outputs[0].data;
    call.pool->parallel_for(call.inputs[0].shape.elements(), kGrain / 2, [&](std::int64_t from, std::int64_t to) {
      apply(in + from * in_bytes, out + from * out_bytes, to - from);
    });
    return {};
  }

 private:
  void apply(const std::byte* in, std::byte* out, std::int64_t n) const {
    const bool half_in = is_half(function_.in), half_out = is_half(function_.out);
    if (!half_in && !half_out) {
      function_.loop(in, nullptr, out, n, function_.params);
      return;
    }
    alignas(64) float block_in[kBlock], block_out[kBlock];
    for (std::int64_t done = 0; done < n; done += kBlock) {
      const std::int64_t m = std::min(kBlock, n - done);
      const std::byte* in_at = in + done * element_bytes(function_.in);
      std::byte* out_at = out + done * element_bytes(function_.out);
      if (half_in) load_half(function_.in, in_at, block_in, m);
      function_.loop(half_in ? static_cast<const void*>(block_in) : in_at, nullptr, half_out ? static_cast<void*>(block_out) : out_at, m,
                     function_.params);
      if (half_out) store_half(function_.out, block_out, out_at, m);
    }
  }
  UnaryFunction function_;
};

}  // namespace

std::unique_ptr<Kernel> make_binary_kernel(std::string id, const BinaryFunction& function) {
  return std::make_unique<BinaryKernel>(std::move(id), function);
}
std::unique_ptr<Kernel> make_unary_kernel(std::string id, const UnaryFunction& function) {
  return std::make_unique<UnaryKernel>(std::move(id), function);
}

std::vector<std::int64_t> aligned_second_dims(const NodeView& node, std::span<const std::int64_t> first,
                                              std::span<const std::int64_t> second) {
  std::vector<std::int64_t> dims(second.begin(), second.end());
  if (node.version() >= 7 || node.integer("broadcast", 0) == 0 || !node.has("axis")) return dims;
  std::int64_t axis = node.integer("axis", 0);
  if (axis < 0) axis += static_cast<std::int64_t>(first.size());
  const std::int64_t missing = static_cast<std::int64_t>(first.size()) - axis - static_cast<std::int64_t>(dims.size());
  for (std::int64_t i = 0; i < missing; ++i) dims.push_back(1);
  return dims;
}

Status infer_broadcast_pair(InferContext& ctx, DType dtype) {
  const TypeShape& a = ctx.input(0);
  const TypeShape& b = ctx.input(1);
  if (!a.has_rank || !b.has_rank) {
    ctx.set_output_unranked(0, dtype);
    return {};
  }
  FB_ASSIGN(std::vector<std::int64_t> dims, broadcast_dims(ctx.node(), a.dims, aligned_second_dims(ctx.node(), a.dims, b.dims)));
  ctx.set_output(0, dtype, std::move(dims));
  return {};
}

plan::Consumption consume_elementwise(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs) {
  if (input >= inputs.size() || inputs.size() != 2 || node.version() < 7) return plan::Consumption::whole;
  const std::vector<std::int64_t>& mine = inputs[input].dims;
  const TypeShape& other = inputs[1 - input];
  if (mine.empty() || !other.has_rank || other.dims.size() > mine.size()) return plan::Consumption::whole;
  for (std::size_t back = 1; back <= other.dims.size(); ++back) {
    const std::int64_t theirs = other.dims[other.dims.size() - back];
    if (theirs != 1 && theirs != mine[mine.size() - back]) return plan::Consumption::whole;
  }
  return plan::Consumption::elementwise;
}

}  // namespace forebay::ops
