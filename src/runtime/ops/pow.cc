// Pow: the result has the base's dtype, the exponent may have another. One exponent for all elements has fast ways for 2, 3, 1/2 and -1.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"

namespace forebay::ops {
namespace {

Status infer_pow(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kNumbers));
  FB_TRY(need_input(ctx, 1, kNumbers));
  if (ctx.node().version() < 12) FB_TRY(same_dtype(ctx, 0, 1));
  return infer_broadcast_pair(ctx, ctx.input(0).dtype);
}

template <typename T>
T integer_power(T base, std::int64_t exponent) {
  if (exponent < 0) {  // truncated like every integer division: only the powers of 1 and -1 are not 0
    if (base == T{1}) return 1;
    if constexpr (std::is_signed_v<T>) {
      if (base == T{-1}) return exponent % 2 == 0 ? T{1} : T{-1};
    }
    return 0;
  }
  auto square = static_cast<Wrapping<T>>(base);
  Wrapping<T> result = 1;
  for (std::int64_t e = exponent; e > 0; e >>= 1) {
    if ((e & 1) != 0) result *= square;
    square *= square;
  }
  return static_cast<T>(result);
}

template <typename T>
T from_double(double value) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(value);
  } else {
    if (std::isnan(value)) return 0;
    if (value <= static_cast<double>(std::numeric_limits<T>::lowest())) return std::numeric_limits<T>::lowest();
    if (value >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    return static_cast<T>(value);
  }
}

// Exponents of a block, as doubles (exact for floats and 32-bit integers) and as integers.
struct Exponents {
  bool integral = false;  // of an integer dtype: `whole` counts, else `real`
  bool narrow = false;    // a float: powf is enough
  double real[kBlock];
  std::int64_t whole[kBlock];
};

template <typename T>
T power(T base, const Exponents& e, std::int64_t i) {
  if constexpr (std::is_integral_v<T>) {
    return e.integral ? integer_power<T>(base, e.whole[i]) : from_double<T>(std::pow(static_cast<double>(base), e.real[i]));
  } else if constexpr (std::is_same_v<T, float>) {
    if (e.narrow) return std::pow(base, static_cast<float>(e.real[i]));
    return static_cast<float>(std::pow(static_cast<double>(base), e.real[i]));
  } else {
    return std::pow(base, e.real[i]);
  }
}

template <typename T>
bool power_by_one(const T* x, T* y, std::int64_t n, const Exponents& e) {
  if constexpr (std::is_floating_point_v<T>) {
    const double exponent = e.real[0];
    if (exponent == 2.0) {
      for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * x[i];
    } else if (exponent == 3.0) {
      for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * x[i] * x[i];
    } else if (exponent == 0.5) {  // pow has pow(-0, 1/2) = 0 and pow(-inf, 1/2) = inf, which sqrt has not
      constexpr T kInf = std::numeric_limits<T>::infinity();
      for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] == -kInf ? kInf : std::sqrt(x[i]) + T{0};
    } else if (exponent == -1.0) {
      for (std::int64_t i = 0; i < n; ++i) y[i] = T{1} / x[i];
    } else {
      return false;
    }
    return true;
  } else {
    return false;
  }
}

template <typename T>
void power_block(const void* base, std::int64_t base_step, const Exponents& e, std::int64_t exponent_step, void* out, std::int64_t n) {
  const T* x = static_cast<const T*>(base);
  T* y = static_cast<T*>(out);
  if (base_step == 1 && exponent_step == 0 && power_by_one(x, y, n, e)) return;
  for (std::int64_t i = 0; i < n; ++i) y[i] = power<T>(x[i * base_step], e, i * exponent_step);
}

class PowKernel final : public NamedKernel {
 public:
  PowKernel(std::string id, DType base, DType exponent) : NamedKernel(std::move(id)), base_(base), exponent_(exponent) {}

  Status prepare(const PrepareContext& context) override {
    const auto& a = context.inputs[0].dims;
    const std::vector<std::int64_t> b = aligned_second_dims(context.node, a, context.inputs[1].dims);
    const std::span<const std::int64_t> dims[] = {a, b};
    plan_.plan(context.outputs[0].dims, dims);
    return {};
  }

  Status run(const KernelCall& call) override {
    const auto last = static_cast<std::size_t>(plan_.rank - 1);
    const std::int64_t base_step = plan_.strides[0][last], exponent_step = plan_.strides[1][last];
    const int base_bytes = element_bytes(base_), exponent_bytes = element_bytes(exponent_);
    call.pool->parallel_for(plan_.total, 4096, [&](std::int64_t begin, std::int64_t end) {
      Exponents e;
      plan_.walk(begin, end, [&](std::int64_t position, const auto& offset, std::int64_t n) {
        for (std::int64_t done = 0; done < n; done += kBlock) {
          const std::int64_t m = std::min(kBlock, n - done);
          if (done == 0 || exponent_step == 1) {
            load(call.inputs[1].data + (offset[1] + done * exponent_step) * exponent_bytes, exponent_step == 1 ? m : 1, e);
          }
          block(call.inputs[0].data + (offset[0] + done * base_step) * base_bytes, base_step, e, exponent_step,
                call.outputs[0].data + (position + done) * base_bytes, m);
        }
      });
    });
    return {};
  }

 private:
  void load(const std::byte* data, std::int64_t n, Exponents& e) const {
    e.integral = in_set(kIntegers, exponent_);
    e.narrow = is_half(exponent_) || exponent_ == DType::f32;
    if (is_half(exponent_)) {
      float block[kBlock];
      load_half(exponent_, data, block, n);
      std::copy_n(block, n, e.real);
      return;
    }
    dispatch_number(exponent_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* from = reinterpret_cast<const T*>(data);
      for (std::int64_t i = 0; i < n; ++i) {
        e.real[i] = static_cast<double>(from[i]);
        if constexpr (std::is_integral_v<T>) e.whole[i] = static_cast<std::int64_t>(from[i]);
      }
    });
  }
  void block(const std::byte* base, std::int64_t base_step, const Exponents& e, std::int64_t exponent_step, std::byte* out,
             std::int64_t n) const {
    if (!is_half(base_)) {
      dispatch_number(base_, [&](auto tag) {
        power_block<typename decltype(tag)::type>(base, base_step, e, exponent_step, out, n);
      });
      return;
    }
    float in_block[kBlock], out_block[kBlock];
    load_half(base_, base, in_block, base_step == 1 ? n : 1);
    power_block<float>(in_block, base_step, e, exponent_step, out_block, n);
    store_half(base_, out_block, out, n);
  }

  DType base_, exponent_;
  BroadcastPlan plan_;
};

Result<std::unique_ptr<Kernel>> create_pow(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  std::string id = "cpu.Pow." + std::string(dtype_name(inputs[0].dtype)) + "." + std::string(dtype_name(inputs[1].dtype));
  return std::unique_ptr<Kernel>(std::make_unique<PowKernel>(std::move(id), inputs[0].dtype, inputs[1].dtype));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Pow", .flags = kOpElementwise, .infer = infer_pow, .create = create_pow},
};

}  // namespace

std::span<const OpSpec> pow_ops() { return kSpecs; }

}  // namespace forebay::ops
