// Reductions. Each output is reduced by one thread in an order that depends on shapes alone, so thread counts change no bit.
// Floats add up in 16 lanes over blocks of 4096 elements, blocks in double; along an outer axis in double from the start.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"

namespace forebay::ops {
namespace {

enum class Reduction : std::uint8_t { sum, mean, max, min, prod, l1, l2, log_sum, log_sum_exp, sum_square };

// ---- axes and shapes ------------------------------------------------------------------------------------------------------------

constexpr std::int32_t axes_input_since(Reduction op) { return op == Reduction::sum ? 13 : 18; }

// Which axes are reduced. `known` false: an axes input that is not known yet.
Result<std::vector<bool>> reduced_axes(const NodeView& node, Reduction op, bool has_input, const HostTensor* value, std::size_t rank,
                                       bool* known) {
  std::vector<std::int64_t> axes;
  *known = true;
  if (node.version() < axes_input_since(op)) {
    const auto attribute = node.integers("axes");
    axes.assign(attribute.begin(), attribute.end());
  } else if (has_input) {
    *known = value != nullptr;
    if (value != nullptr) axes = host_integers(*value);
  }
  std::vector<bool> mask(rank, false);
  if (!*known) return mask;
  if (axes.empty()) {
    const bool nothing = node.version() >= axes_input_since(op) && node.integer("noop_with_empty_axes", 0) != 0;
    mask.assign(rank, !nothing);
    return mask;
  }
  for (const std::int64_t axis : axes) {
    FB_ASSIGN(const int normal, normalize_axis(node, axis, static_cast<int>(rank)));
    mask[static_cast<std::size_t>(normal)] = true;
  }
  return mask;
}

template <Reduction kOp, DTypeSet kTypes>
Status infer_reduce(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 2));
  FB_TRY(need_input(ctx, 0, kTypes));
  FB_TRY(allow_input(ctx, 1, kIndices));
  const TypeShape& data = ctx.input(0);
  const bool keep = ctx.node().integer("keepdims", 1) != 0;
  if (!data.has_rank) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  bool known = false;
  FB_ASSIGN(const std::vector<bool> mask,
            reduced_axes(ctx.node(), kOp, ctx.input(1).present(), ctx.value(1), data.dims.size(), &known));
  if (!known) {
    if (keep) {
      ctx.set_output(0, data.dtype, std::vector<std::int64_t>(data.dims.size(), -1));
    } else {
      ctx.set_output_unranked(0, data.dtype);
    }
    return {};
  }
  std::vector<std::int64_t> dims;
  for (std::size_t d = 0; d < data.dims.size(); ++d) {
    if (!mask[d]) dims.push_back(data.dims[d]);
    if (mask[d] && keep) dims.push_back(1);
  }
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------------------

// What sums accumulate in: double for floats, wrapping 64 bits for integers.
template <typename T>
using Sum = std::conditional_t<std::is_floating_point_v<T>, double, std::uint64_t>;

template <Reduction kOp>
constexpr bool kAdds = kOp != Reduction::max && kOp != Reduction::min && kOp != Reduction::prod;

// What one element adds. In the type itself for floats; the shift is LogSumExp's maximum.
template <Reduction kOp, typename T>
auto term(T x, T shift) {
  if constexpr (kOp == Reduction::log_sum_exp) {
    if constexpr (std::is_floating_point_v<T>) {
      return x == shift ? T{1} : std::exp(x - shift);  // also where both are infinite
    } else {
      return std::exp(static_cast<double>(x) - static_cast<double>(shift));
    }
  } else if constexpr (kOp == Reduction::l1) {
    if constexpr (std::is_unsigned_v<T>) {
      return x;
    } else if constexpr (std::is_integral_v<T>) {
      const auto wide = static_cast<std::uint64_t>(static_cast<std::int64_t>(x));
      return x < 0 ? std::uint64_t{0} - wide : wide;
    } else {
      return std::fabs(x);
    }
  } else if constexpr (kOp == Reduction::l2 || kOp == Reduction::sum_square) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<std::uint64_t>(x) * static_cast<std::uint64_t>(x);
    } else {
      return x * x;
    }
  } else {
    (void)shift;
    return x;
  }
}

template <typename T>
T smaller(T a, T b) {
  return a < b || a != a ? a : b;
}
template <typename T>
T larger(T a, T b) {
  return a > b || a != a ? a : b;
}

// Accumulator of one output for the reductions that do not add.
template <Reduction kOp, typename T>
T fold_start() {
  if constexpr (kOp == Reduction::prod) return T{1};
  constexpr bool kFloat = std::is_floating_point_v<T>;
  if constexpr (kOp == Reduction::max) return kFloat ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::lowest();
  return kFloat ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();
}
template <Reduction kOp, typename T>
T fold(T a, T b) {
  if constexpr (kOp == Reduction::max) return larger(a, b);
  if constexpr (kOp == Reduction::min) return smaller(a, b);
  if constexpr (std::is_floating_point_v<T>) {
    return a * b;
  } else {
    return static_cast<T>(static_cast<Wrapping<T>>(a) * static_cast<Wrapping<T>>(b));
  }
}

constexpr std::int64_t kLanes = 16;

// Sum of the terms of a contiguous run of at most a block, in lanes.
template <Reduction kOp, typename T>
auto sum_run(const T* x, std::int64_t n, T shift) {
  using Term = decltype(term<kOp>(T{}, T{}));
  if constexpr (std::is_floating_point_v<Term>) {
    Term lanes[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (std::int64_t l = 0; l < kLanes; ++l) lanes[l] += term<kOp>(x[i + l], shift);
    }
    for (std::int64_t l = 0; i + l < n; ++l) lanes[l] += term<kOp>(x[i + l], shift);
    for (std::int64_t width = kLanes / 2; width > 0; width /= 2) {
      for (std::int64_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    }
    return static_cast<double>(lanes[0]);
  } else {
    std::uint64_t sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += static_cast<std::uint64_t>(term<kOp>(x[i], shift));
    return sum;
  }
}

template <Reduction kOp, typename T>
T fold_run(const T* x, std::int64_t n, T start) {
  T lanes[kLanes];
  std::fill_n(lanes, kLanes, fold_start<kOp, T>());
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) lanes[l] = fold<kOp>(lanes[l], x[i + l]);
  }
  for (std::int64_t l = 0; i + l < n; ++l) lanes[l] = fold<kOp>(lanes[l], x[i + l]);
  T result = start;
  for (std::int64_t l = 0; l < kLanes; ++l) result = fold<kOp>(result, lanes[l]);
  return result;
}

// From the sum of terms to the result.
template <Reduction kOp, typename T, typename S>
T finish(S sum, std::int64_t count, T shift) {
  const auto real = [&] {
    if constexpr (std::is_same_v<S, double>) return sum;
    else if constexpr (std::is_signed_v<T>) return static_cast<double>(static_cast<std::int64_t>(sum));
    else return static_cast<double>(sum);
  };
  if constexpr (kOp == Reduction::mean) {
    if constexpr (std::is_floating_point_v<T>) return static_cast<T>(sum / static_cast<double>(count));
    else if constexpr (std::is_signed_v<T>) return count == 0 ? T{0} : static_cast<T>(static_cast<std::int64_t>(sum) / count);
    else return count == 0 ? T{0} : static_cast<T>(sum / static_cast<std::uint64_t>(count));
  } else if constexpr (kOp == Reduction::l2) {
    return static_cast<T>(std::sqrt(real()));
  } else if constexpr (kOp == Reduction::log_sum || kOp == Reduction::log_sum_exp) {
    const double value = std::log(real()) + (kOp == Reduction::log_sum_exp ? static_cast<double>(shift) : 0.0);
    if constexpr (std::is_integral_v<T>) {
      if (!(value > -9e18 && value < 9e18)) return std::numeric_limits<T>::lowest();
    }
    return static_cast<T>(value);
  } else {
    return static_cast<T>(sum);
  }
}

// ---- the walk -------------------------------------------------------------------------------------------------------------------

constexpr std::int64_t kRun = 4096;      // elements of a contiguous run taken at a time
constexpr std::int64_t kColumns = 256;   // outputs side by side when the innermost axis is kept

struct Axes {
  int rank = 0;
  std::array<std::int64_t, kMaxRank> dims{}, strides{};
  std::int64_t total = 1;
  void add(std::int64_t dim, std::int64_t stride) {
    dims[static_cast<std::size_t>(rank)] = dim;
    strides[static_cast<std::size_t>(rank++)] = stride;
    total *= dim;
  }
  std::int64_t offset(std::int64_t index) const {
    std::int64_t at = 0;
    for (int d = rank - 1; d >= 0; --d) {
      const auto i = static_cast<std::size_t>(d);
      at += (index % dims[i]) * strides[i];
      index /= dims[i];
    }
    return at;
  }
};

struct ReducePlan {
  bool inner_reduced = false;
  std::int64_t inner = 1;   // length of the innermost merged axis
  Axes kept, reduced;       // the other axes
  std::int64_t outputs = 1, count = 1;  // elements of the output; elements behind each of them
};

ReducePlan make_plan(std::span<const std::int64_t> dims, const std::vector<bool>& mask) {
  ReducePlan plan;
  std::vector<std::int64_t> sizes, strides;
  std::vector<bool> flags;
  std::int64_t stride = 1;
  for (std::size_t d = dims.size(); d-- > 0;) {  // innermost first
    (mask[d] ? plan.count : plan.outputs) *= dims[d];
    if (dims[d] == 1) continue;
    if (!sizes.empty() && flags.back() == mask[d]) {
      sizes.back() *= dims[d];
    } else {
      sizes.push_back(dims[d]);
      strides.push_back(stride);
      flags.push_back(mask[d]);
    }
    stride *= dims[d];
  }
  if (sizes.empty()) return plan;
  plan.inner = sizes[0];
  plan.inner_reduced = flags[0];
  for (std::size_t i = sizes.size(); i-- > 1;) (flags[i] ? plan.reduced : plan.kept).add(sizes[i], strides[i]);
  return plan;
}

// Elements as the reductions see them: f16 and bf16 by way of a block of float.
template <typename T>
class Loader {
 public:
  Loader(DType dtype, const std::byte* data) : dtype_(dtype), data_(data), half_(is_half(dtype)) {}
  const T* load(std::int64_t offset, std::int64_t n, T* block) const {
    if constexpr (std::is_same_v<T, float>) {
      if (half_) {
        load_half(dtype_, data_ + offset * 2, block, n);
        return block;
      }
    }
    (void)block;
    return reinterpret_cast<const T*>(data_) + offset;
  }

 private:
  DType dtype_;
  const std::byte* data_;
  bool half_;
};

template <typename T>
void store(DType dtype, std::byte* out, std::int64_t at, const T* values, std::int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    if (is_half(dtype)) {
      store_half(dtype, values, out + at * 2, n);
      return;
    }
  }
  std::copy_n(values, n, reinterpret_cast<T*>(out) + at);
}

// The innermost axis is reduced: one output at a time, run by run.
template <Reduction kOp, typename T>
T reduce_one(const ReducePlan& plan, const Loader<T>& loader, std::int64_t base) {
  alignas(64) T block[kRun];
  const auto runs = [&](auto&& f) {
    for (std::int64_t r = 0; r < plan.reduced.total; ++r) {
      const std::int64_t at = base + plan.reduced.offset(r);
      for (std::int64_t i = 0; i < plan.inner; i += kRun) {
        const std::int64_t n = std::min(kRun, plan.inner - i);
        f(loader.load(at + i, n, block), n);
      }
    }
  };
  if constexpr (kAdds<kOp>) {
    T shift{};
    if constexpr (kOp == Reduction::log_sum_exp) {
      shift = fold_start<Reduction::max, T>();
      runs([&](const T* x, std::int64_t n) { shift = fold_run<Reduction::max>(x, n, shift); });
    }
    decltype(sum_run<kOp>(block, 0, shift)) sum{};
    runs([&](const T* x, std::int64_t n) { sum += sum_run<kOp>(x, n, shift); });
    return finish<kOp, T>(sum, plan.count, shift);
  } else {
    T result = fold_start<kOp, T>();
    runs([&](const T* x, std::int64_t n) { result = fold_run<kOp>(x, n, result); });
    return result;
  }
}

// The innermost axis is kept: up to kColumns outputs side by side, row by row.
template <Reduction kOp, typename T>
void reduce_columns(const ReducePlan& plan, const Loader<T>& loader, std::int64_t base, std::int64_t n, T* out) {
  alignas(64) T block[kColumns];
  const auto rows = [&](auto&& f) {
    for (std::int64_t r = 0; r < plan.reduced.total; ++r) f(loader.load(base + plan.reduced.offset(r), n, block));
  };
  if constexpr (kAdds<kOp>) {
    alignas(64) T shift[kColumns] = {};
    if constexpr (kOp == Reduction::log_sum_exp) {
      std::fill_n(shift, n, fold_start<Reduction::max, T>());
      rows([&](const T* x) {
        for (std::int64_t i = 0; i < n; ++i) shift[i] = larger(shift[i], x[i]);
      });
    }
    using S = decltype(sum_run<kOp>(block, 0, T{}));
    alignas(64) S sum[kColumns] = {};
    rows([&](const T* x) {
      for (std::int64_t i = 0; i < n; ++i) sum[i] += static_cast<S>(term<kOp>(x[i], shift[i]));
    });
    for (std::int64_t i = 0; i < n; ++i) out[i] = finish<kOp, T>(sum[i], plan.count, shift[i]);
  } else {
    std::fill_n(out, n, fold_start<kOp, T>());
    rows([&](const T* x) {
      for (std::int64_t i = 0; i < n; ++i) out[i] = fold<kOp>(out[i], x[i]);
    });
  }
}

template <Reduction kOp, typename T>
void run_reduction(const ReducePlan& plan, DType dtype, const KernelCall& call) {
  const Loader<T> loader(dtype, call.inputs[0].data);
  std::byte* out = call.outputs[0].data;
  const std::int64_t work = std::max<std::int64_t>(plan.count, 1);
  if (plan.inner_reduced) {
    call.pool->parallel_for(plan.outputs, std::max<std::int64_t>(1, 16384 / work), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = begin; o < end; ++o) {
        const T value = reduce_one<kOp, T>(plan, loader, plan.kept.offset(o));
        store(dtype, out, o, &value, 1);
      }
    });
    return;
  }
  const std::int64_t pieces = (plan.inner + kColumns - 1) / kColumns;
  const std::int64_t piece_work = work * std::min(plan.inner, kColumns);
  call.pool->parallel_for(plan.kept.total * pieces, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(piece_work, 1)),
                          [&](std::int64_t begin, std::int64_t end) {
    alignas(64) T values[kColumns];
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t column = (unit % pieces) * kColumns, n = std::min(kColumns, plan.inner - column);
      reduce_columns<kOp, T>(plan, loader, plan.kept.offset(unit / pieces) + column, n, values);
      store(dtype, out, (unit / pieces) * plan.inner + column, values, n);
    }
  });
}

template <Reduction kOp>
class ReduceKernel final : public NamedKernel {
 public:
  ReduceKernel(std::string id, DType dtype) : NamedKernel(std::move(id)), dtype_(dtype) {}
  Status prepare(const PrepareContext& context) override {
    bool known = false;
    const HostTensor* axes = context.values.size() > 1 ? context.values[1] : nullptr;
    FB_ASSIGN(const std::vector<bool> mask,
              reduced_axes(context.node, kOp, axes != nullptr, axes, context.inputs[0].dims.size(), &known));
    plan_ = make_plan(context.inputs[0].dims, mask);
    return {};
  }
  Status run(const KernelCall& call) override {
    if (plan_.outputs == 0) return {};
    const DType seen = dtype_ == DType::boolean ? DType::u8 : loop_dtype(dtype_);
    dispatch_number(seen, [&](auto tag) { run_reduction<kOp, typename decltype(tag)::type>(plan_, dtype_, call); });
    return {};
  }

 private:
  DType dtype_;
  ReducePlan plan_;
};

template <Reduction kOp>
Result<std::unique_ptr<Kernel>> create_reduce(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  std::string id = "cpu." + std::string(node.op()) + "." + std::string(dtype_name(inputs[0].dtype));
  return std::unique_ptr<Kernel>(std::make_unique<ReduceKernel<kOp>>(std::move(id), inputs[0].dtype));
}

template <Reduction kOp, DTypeSet kTypes = kNumbers>
constexpr OpSpec before(std::string_view name) {  // axes as an attribute
  return {.name = name, .until = axes_input_since(kOp) - 1, .infer = infer_reduce<kOp, kTypes>, .create = create_reduce<kOp>};
}
template <Reduction kOp, DTypeSet kTypes = kNumbers>
constexpr OpSpec after(std::string_view name) {
  return {.name = name,
          .since = axes_input_since(kOp),
          .host_inputs = 1u << 1,
          .infer = infer_reduce<kOp, kTypes>,
          .create = create_reduce<kOp>};
}

constexpr OpSpec kSpecs[] = {
    before<Reduction::sum>("ReduceSum"), after<Reduction::sum>("ReduceSum"),
    before<Reduction::mean>("ReduceMean"), after<Reduction::mean>("ReduceMean"),
    before<Reduction::max, kNumbers | kBool>("ReduceMax"), after<Reduction::max, kNumbers | kBool>("ReduceMax"),
    before<Reduction::min, kNumbers | kBool>("ReduceMin"), after<Reduction::min, kNumbers | kBool>("ReduceMin"),
    before<Reduction::prod>("ReduceProd"), after<Reduction::prod>("ReduceProd"),
    before<Reduction::l1>("ReduceL1"), after<Reduction::l1>("ReduceL1"),
    before<Reduction::l2>("ReduceL2"), after<Reduction::l2>("ReduceL2"),
    before<Reduction::log_sum>("ReduceLogSum"), after<Reduction::log_sum>("ReduceLogSum"),
    before<Reduction::log_sum_exp>("ReduceLogSumExp"), after<Reduction::log_sum_exp>("ReduceLogSumExp"),
    before<Reduction::sum_square>("ReduceSumSquare"), after<Reduction::sum_square>("ReduceSumSquare"),
};

}  // namespace

std::span<const OpSpec> reduce_ops() { return kSpecs; }

}  // namespace forebay::ops
