// Operators whose output shape depends on data: Compress, NonZero, Unique. The data that decides is a host input, so infer knows the
// shape before the kernel runs; while it is unknown (in the builder) the size is -1.
#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "base/half.h"
#include "runtime/ops/dispatch.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"

namespace forebay::ops {
namespace {

// ---- Compress -------------------------------------------------------------------------------------------------------------------

Status infer_compress(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  FB_TRY(need_input(ctx, 1, kBool));
  const TypeShape& data = ctx.input(0);
  if (ctx.input(1).has_rank && ctx.input(1).dims.size() != 1) return ctx.node().invalid("condition is not a vector");
  const bool flat = !ctx.node().has("axis");
  if (!flat && !data.has_rank) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  std::vector<std::int64_t> dims = flat ? std::vector<std::int64_t>{-1} : data.dims;
  int axis = 0;
  if (!flat) {
    FB_ASSIGN(axis, normalize_axis(ctx.node(), ctx.node().integer("axis", 0), static_cast<int>(dims.size())));
  }
  std::int64_t limit = -1;
  if (flat && data.known()) {
    FB_ASSIGN(limit, element_count(ctx.node(), data.dims));
  } else if (!flat) {
    limit = data.dims[static_cast<std::size_t>(axis)];
  }
  std::int64_t kept = -1;
  if (const HostTensor* condition = ctx.value(1); condition != nullptr) {
    const auto bits = condition->as<std::uint8_t>();
    if (limit >= 0 && static_cast<std::int64_t>(bits.size()) > limit) return ctx.node().invalid("condition is longer than the axis");
    kept = static_cast<std::int64_t>(bits.size()) - std::count(bits.begin(), bits.end(), 0);
  }
  dims[static_cast<std::size_t>(axis)] = kept;
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

class CompressKernel final : public NamedKernel {
 public:
  explicit CompressKernel(int bytes) : NamedKernel("cpu.Compress." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    outer_ = inner_ = 1;
    dim_ = 1;
    for (const std::int64_t dim : dims) dim_ *= dim;
    if (!context.node.has("axis")) return {};
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 0), static_cast<int>(dims.size())));
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (static_cast<int>(d) < axis) outer_ *= dims[d];
      if (static_cast<int>(d) > axis) inner_ *= dims[d];
    }
    dim_ = dims[static_cast<std::size_t>(axis)];
    return {};
  }
  Status run(const KernelCall& call) override {
    const auto* condition = reinterpret_cast<const std::uint8_t*>(call.inputs[1].data);
    const std::int64_t length = std::min(call.inputs[1].shape.elements(), dim_);
    const std::int64_t row = inner_ * bytes_;
    std::byte* to = call.outputs[0].data;
    if (row == 0) return {};
    for (std::int64_t o = 0; o < outer_; ++o) {
      for (std::int64_t i = 0; i < length; ++i) {
        if (condition[i] == 0) continue;
        std::memcpy(to, call.inputs[0].data + (o * dim_ + i) * row, static_cast<std::size_t>(row));
        to += row;
      }
    }
    return {};
  }

 private:
  int bytes_;
  std::int64_t outer_ = 1, dim_ = 0, inner_ = 1;
};

// ---- NonZero --------------------------------------------------------------------------------------------------------------------

template <typename F>
void each_nonzero(const std::byte* data, DType dtype, std::int64_t count, F&& f) {
  if (is_half(dtype)) {
    const auto* bits = reinterpret_cast<const std::uint16_t*>(data);
    for (std::int64_t i = 0; i < count; ++i) {
      if ((bits[i] & 0x7fffu) != 0) f(i);  // -0 is zero
    }
    return;
  }
  const auto scan = [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* values = reinterpret_cast<const T*>(data);
    for (std::int64_t i = 0; i < count; ++i) {
      if (values[i] != T{}) f(i);
    }
  };
  if (dtype == DType::boolean) {
    scan(Tag<std::uint8_t>{});
  } else {
    dispatch_number(dtype, scan);
  }
}

Status infer_nonzero(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  const TypeShape& data = ctx.input(0);
  std::int64_t found = -1;
  if (const HostTensor* value = ctx.value(0); value != nullptr) {
    found = 0;
    each_nonzero(value->data(), value->dtype(), value->shape().elements(), [&](std::int64_t) { ++found; });
  }
  ctx.set_output(0, DType::i64, {data.has_rank ? static_cast<std::int64_t>(data.dims.size()) : -1, found});
  return {};
}

class NonZeroKernel final : public NamedKernel {
 public:
  NonZeroKernel() : NamedKernel("cpu.NonZero") {}
  Status run(const KernelCall& call) override {
    const Shape& shape = call.inputs[0].shape;
    const std::int64_t found = call.outputs[0].shape[1];
    auto* out = reinterpret_cast<std::int64_t*>(call.outputs[0].data);
    std::int64_t next = 0;
    each_nonzero(call.inputs[0].data, call.inputs[0].dtype, shape.elements(), [&](std::int64_t i) {
      if (next >= found) return;
      for (int d = shape.rank() - 1; d >= 0; --d) {
        out[d * found + next] = i % shape[d];
        i /= shape[d];
      }
      ++next;
    });
    if (next != found) return Status(Code::internal, "NonZero: the input changed between shape inference and the kernel");
    return {};
  }
};

// ---- Unique ---------------------------------------------------------------------------------------------------------------------

// Rows (slices along the axis, or elements) compared by value; NaN is equal to NaN and sorts last.
struct UniqueRows {
  std::int64_t outer = 1, dim = 0, inner = 1;
  std::vector<std::int64_t> order;    // first occurrences, in output order
  std::vector<std::int64_t> inverse;  // of each row
  std::vector<std::int64_t> counts;
};

template <typename T>
int compare(T a, T b) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan || b_nan) return int{a_nan} - int{b_nan};
  return a < b ? -1 : int{b < a};
}

template <typename T, typename Load>
void find_unique(const T* data, bool sorted, UniqueRows& rows, Load&& load) {
  const auto order_of = [&](std::int64_t a, std::int64_t b) {
    for (std::int64_t o = 0; o < rows.outer; ++o) {
      for (std::int64_t i = 0; i < rows.inner; ++i) {
        const int c = compare(load(data[(o * rows.dim + a) * rows.inner + i]), load(data[(o * rows.dim + b) * rows.inner + i]));
        if (c != 0) return c;
      }
    }
    return 0;
  };
  std::vector<std::int64_t> by_value(static_cast<std::size_t>(rows.dim));
  std::iota(by_value.begin(), by_value.end(), 0);
  std::stable_sort(by_value.begin(), by_value.end(), [&](std::int64_t a, std::int64_t b) { return order_of(a, b) < 0; });
  rows.inverse.assign(by_value.size(), 0);
  for (std::size_t i = 0; i < by_value.size(); ++i) {
    if (i == 0 || order_of(by_value[i - 1], by_value[i]) != 0) {
      rows.order.push_back(by_value[i]);  // stable: the first occurrence
      rows.counts.push_back(0);
    }
    rows.inverse[static_cast<std::size_t>(by_value[i])] = static_cast<std::int64_t>(rows.order.size()) - 1;
    ++rows.counts.back();
  }
  if (sorted) return;
  std::vector<std::int64_t> position(rows.order.size()), rank(rows.order.size());
  std::iota(position.begin(), position.end(), 0);
  std::sort(position.begin(), position.end(), [&](std::int64_t a, std::int64_t b) {
    return rows.order[static_cast<std::size_t>(a)] < rows.order[static_cast<std::size_t>(b)];
  });
  std::vector<std::int64_t> order, counts;
  for (std::size_t i = 0; i < position.size(); ++i) {
    const auto from = static_cast<std::size_t>(position[i]);
    order.push_back(rows.order[from]);
    counts.push_back(rows.counts[from]);
    rank[from] = static_cast<std::int64_t>(i);
  }
  for (std::int64_t& index : rows.inverse) index = rank[static_cast<std::size_t>(index)];
  rows.order = std::move(order);
  rows.counts = std::move(counts);
}

Result<UniqueRows> unique_rows(const NodeView& node, const HostTensor& data) {
  UniqueRows rows;
  rows.dim = data.shape().elements();
  if (node.has("axis")) {
    FB_ASSIGN(const int axis, normalize_axis(node, node.integer("axis", 0), data.shape().rank()));
    rows.outer = data.shape().elements(0, axis);
    rows.dim = data.shape()[axis];
    rows.inner = data.shape().elements(axis + 1, data.shape().rank());
  }
  const bool sorted = node.integer("sorted", 1) != 0;
  if (data.dtype() == DType::f16) {
    find_unique(reinterpret_cast<const std::uint16_t*>(data.data()), sorted, rows, [](std::uint16_t x) { return f16_to_f32(x); });
  } else if (data.dtype() == DType::bf16) {
    find_unique(reinterpret_cast<const std::uint16_t*>(data.data()), sorted, rows, [](std::uint16_t x) { return bf16_to_f32(x); });
  } else if (data.dtype() == DType::boolean) {
    find_unique(reinterpret_cast<const std::uint8_t*>(data.data()), sorted, rows, [](std::uint8_t x) { return x; });
  } else {
    dispatch_number(data.dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      find_unique(reinterpret_cast<const T*>(data.data()), sorted, rows, [](T x) { return x; });
    });
  }
  return rows;
}

Status infer_unique(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kNumbers | kBool));
  const TypeShape& data = ctx.input(0);
  std::int64_t found = -1, length = -1;
  const bool flat = !ctx.node().has("axis");
  if (const HostTensor* value = ctx.value(0); value != nullptr) {
    FB_ASSIGN(const UniqueRows rows, unique_rows(ctx.node(), *value));
    found = static_cast<std::int64_t>(rows.order.size());
    length = rows.dim;
  }
  if (flat) {
    ctx.set_output(0, data.dtype, {found});
  } else if (data.has_rank) {
    FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", 0), static_cast<int>(data.dims.size())));
    std::vector<std::int64_t> dims = data.dims;
    dims[static_cast<std::size_t>(axis)] = found;
    ctx.set_output(0, data.dtype, std::move(dims));
  } else {
    ctx.set_output_unranked(0, data.dtype);
  }
  ctx.set_output(1, DType::i64, {found});
  ctx.set_output(2, DType::i64, {length});
  ctx.set_output(3, DType::i64, {found});
  return {};
}

class UniqueKernel final : public NamedKernel {
 public:
  UniqueKernel() : NamedKernel("cpu.Unique") {}
  Status prepare(const PrepareContext& context) override {
    FB_ASSIGN(rows_, unique_rows(context.node, *context.values[0]));
    row_bytes_ = rows_.inner * element_bytes(context.inputs[0].dtype);
    return {};
  }
  Status run(const KernelCall& call) override {
    const auto found = static_cast<std::int64_t>(rows_.order.size());
    for (std::int64_t o = 0; o < rows_.outer && row_bytes_ > 0; ++o) {
      for (std::int64_t i = 0; i < found; ++i) {
        std::memcpy(call.outputs[0].data + (o * found + i) * row_bytes_,
                    call.inputs[0].data + (o * rows_.dim + rows_.order[static_cast<std::size_t>(i)]) * row_bytes_,
                    static_cast<std::size_t>(row_bytes_));
      }
    }
    write(call, 1, rows_.order);
    write(call, 2, rows_.inverse);
    write(call, 3, rows_.counts);
    return {};
  }

 private:
  static void write(const KernelCall& call, std::size_t i, const std::vector<std::int64_t>& values) {
    if (i >= call.outputs.size() || call.outputs[i].data == nullptr || values.empty()) return;
    std::memcpy(call.outputs[i].data, values.data(), values.size() * sizeof(std::int64_t));
  }
  UniqueRows rows_;
  std::int64_t row_bytes_ = 0;
};

using Types = std::span<const TypeShape>;
using Made = Result<std::unique_ptr<Kernel>>;
Made create_compress(const NodeView&, Types in, Types) {
  return std::unique_ptr<Kernel>(std::make_unique<CompressKernel>(element_bytes(in[0].dtype)));
}
Made create_nonzero(const NodeView&, Types, Types) { return std::unique_ptr<Kernel>(std::make_unique<NonZeroKernel>()); }
Made create_unique(const NodeView&, Types, Types) { return std::unique_ptr<Kernel>(std::make_unique<UniqueKernel>()); }

constexpr OpSpec kSpecs[] = {
    {.name = "Compress", .since = 9, .host_inputs = 1u << 1, .infer = infer_compress, .create = create_compress},
    {.name = "NonZero", .since = 9, .host_inputs = 1u << 0, .infer = infer_nonzero, .create = create_nonzero},
    {.name = "Unique", .since = 11, .host_inputs = 1u << 0, .infer = infer_unique, .create = create_unique},
};

}  // namespace

std::span<const OpSpec> select_ops() { return kSpecs; }

}  // namespace forebay::ops
