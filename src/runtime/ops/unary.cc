// Unary operators and activations. The float functions live in vector_loops; integers and predicates here.
#include <cmath>
#include <limits>
#include <memory>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"

namespace forebay::ops {
namespace {

struct NegInt {
  template <typename T>
  static T apply(T x) {
    return static_cast<T>(Wrapping<T>{0} - static_cast<Wrapping<T>>(x));
  }
};
struct AbsInt {
  template <typename T>
  static T apply(T x) {
    return x < T{0} ? NegInt::apply(x) : x;
  }
};
struct SignInt {
  template <typename T>
  static T apply(T x) {
    return static_cast<T>((x > T{0}) - (x < T{0}));
  }
};
struct ReluInt {
  template <typename T>
  static T apply(T x) {
    return x < T{0} ? T{0} : x;
  }
};
struct BitNotInt {
  template <typename T>
  static T apply(T x) {
    return static_cast<T>(~x);
  }
};
struct NotBool {
  static std::uint8_t apply(std::uint8_t x) { return x == 0; }
};

template <typename T, typename R, typename Op>
void loop(const void* a, const void*, void* out, std::int64_t n, const LoopParams&) {
  const T* x = static_cast<const T*>(a);
  R* y = static_cast<R*>(out);
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) y[i] = Op::apply(x[i]);
}

template <typename Op>
LoopFn integer_loop(DType dtype) {
  LoopFn found = nullptr;
  dispatch_integer(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    found = loop<T, T, Op>;
  });
  return found;
}

LoopFn integer_loop_of(FloatUnary op, DType dtype) {
  switch (op) {
    case FloatUnary::neg: return integer_loop<NegInt>(dtype);
    case FloatUnary::abs: return integer_loop<AbsInt>(dtype);
    case FloatUnary::sign: return integer_loop<SignInt>(dtype);
    case FloatUnary::relu: return integer_loop<ReluInt>(dtype);
    default: return nullptr;
  }
}

// Attributes as the loops take them. Defaults are those of the specification.
LoopParams params_of(FloatUnary op, const NodeView& node) {
  switch (op) {
    case FloatUnary::leaky_relu: return {node.real("alpha", 0.01f), 0, 0};
    case FloatUnary::elu:
    case FloatUnary::celu:
    case FloatUnary::thresholded_relu:
    case FloatUnary::swish: return {node.real("alpha", 1.0f), 0, 0};
    case FloatUnary::selu:
      return {node.real("alpha", 1.67326319217681884765625f), 0, node.real("gamma", 1.05070102214813232421875f)};
    case FloatUnary::hard_sigmoid: return {node.real("alpha", 0.2f), node.real("beta", 0.5f), 0};
    case FloatUnary::shrink: return {node.real("lambd", 0.5f), node.real("bias", 0.0f), 0};
    default: return {};
  }
}

template <DTypeSet kTypes>
Status infer_same(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kTypes));
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  return {};
}
template <DTypeSet kTypes>
Status infer_predicate(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kTypes));
  set_like(ctx, 0, 0, DType::boolean);
  return {};
}

std::string kernel_id(const NodeView& node, DType dtype) {
  return "cpu." + std::string(node.op()) + "." + std::string(dtype_name(dtype));
}

Result<std::unique_ptr<Kernel>> make_unary(const NodeView& node, DType in, DType out, LoopFn loop, const LoopParams& params) {
  if (loop == nullptr) return node.unsupported("no kernel for dtype " + std::string(dtype_name(in)));
  return make_unary_kernel(kernel_id(node, in), {loop, in, out, params});
}

template <FloatUnary kOp>
Result<std::unique_ptr<Kernel>> create_math(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  const DType dtype = inputs[0].dtype;
  const LoopFn found = in_set(kFloats, dtype) ? vector_loops().unary(kOp, dtype == DType::f64) : integer_loop_of(kOp, dtype);
  return make_unary(node, dtype, dtype, found, params_of(kOp, node));
}

Result<std::unique_ptr<Kernel>> create_gelu(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  const std::string_view kind = node.text("approximate", "none");
  if (kind == "tanh") return create_math<FloatUnary::gelu_tanh>(node, inputs, outputs);
  if (kind == "none") return create_math<FloatUnary::gelu_erf>(node, inputs, outputs);
  return node.invalid("approximate is '" + std::string(kind) + "', neither 'none' nor 'tanh'");
}

Result<std::unique_ptr<Kernel>> create_not(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return make_unary(node, inputs[0].dtype, DType::boolean, loop<std::uint8_t, std::uint8_t, NotBool>, {});
}
Result<std::unique_ptr<Kernel>> create_bit_not(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return make_unary(node, inputs[0].dtype, inputs[0].dtype, integer_loop<BitNotInt>(inputs[0].dtype), {});
}

template <typename T>
void is_nan_loop(const void* a, const void*, void* out, std::int64_t n, const LoopParams&) {
  const T* x = static_cast<const T*>(a);
  auto* y = static_cast<std::uint8_t*>(out);
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] != x[i];
}
// alpha: negative infinity counts, beta: positive infinity counts.
template <typename T>
void is_inf_loop(const void* a, const void*, void* out, std::int64_t n, const LoopParams& p) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  const T* x = static_cast<const T*>(a);
  auto* y = static_cast<std::uint8_t*>(out);
  const bool negative = p.alpha != 0, positive = p.beta != 0;
  for (std::int64_t i = 0; i < n; ++i) y[i] = (negative && x[i] == -kInf) || (positive && x[i] == kInf);
}
Result<std::unique_ptr<Kernel>> create_is_nan(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  const DType dtype = inputs[0].dtype;
  return make_unary(node, dtype, DType::boolean, dtype == DType::f64 ? is_nan_loop<double> : is_nan_loop<float>, {});
}
Result<std::unique_ptr<Kernel>> create_is_inf(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  const DType dtype = inputs[0].dtype;
  const LoopParams params{static_cast<double>(node.integer("detect_negative", 1)), static_cast<double>(node.integer("detect_positive", 1)),
                          0};
  return make_unary(node, dtype, DType::boolean, dtype == DType::f64 ? is_inf_loop<double> : is_inf_loop<float>, params);
}

// Clip: bounds are attributes up to opset 10 and scalar inputs, read when it runs, from 11.
Status infer_clip(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 3));
  FB_TRY(need_input(ctx, 0, kNumbers));
  for (std::size_t i = 1; i < ctx.input_count(); ++i) {
    if (!ctx.input(i).present()) continue;
    FB_TRY(same_dtype(ctx, 0, i));
    if (ctx.input(i).known()) {
      FB_ASSIGN(const std::int64_t count, element_count(ctx.node(), ctx.input(i).dims));
      if (count != 1) return ctx.node().invalid("a bound is not a scalar");
    }
  }
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  return {};
}

template <typename T>
void clip_integers(const std::byte* in, std::byte* out, std::int64_t n, const std::byte* low, const std::byte* high) {
  const T lo = low != nullptr ? *reinterpret_cast<const T*>(low) : std::numeric_limits<T>::lowest();
  const T hi = high != nullptr ? *reinterpret_cast<const T*>(high) : std::numeric_limits<T>::max();
  const T* x = reinterpret_cast<const T*>(in);
  T* y = reinterpret_cast<T*>(out);
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    const T raised = x[i] < lo ? lo : x[i];
    y[i] = raised > hi ? hi : raised;
  }
}

class ClipKernel final : public NamedKernel {
 public:
  ClipKernel(std::string id, DType dtype, double low, double high)
      : NamedKernel(std::move(id)), dtype_(dtype), low_(low), high_(high) {}

  Status run(const KernelCall& call) override {
    const std::byte* low = bound(call, 1);
    const std::byte* high = bound(call, 2);
    const int bytes = element_bytes(dtype_);
    const LoopParams params{low != nullptr ? real(low) : low_, high != nullptr ? real(high) : high_, 0};
    const std::byte* in = call.inputs[0].data;
    std::byte* out = call.outputs[0].data;
    call.pool->parallel_for(call.inputs[0].shape.elements(), 16384, [&](std::int64_t begin, std::int64_t end) {
      const std::byte* from = in + begin * bytes;
      std::byte* to = out + begin * bytes;
      if (is_half(dtype_)) {
        clip_half(from, to, end - begin, params);
      } else if (dtype_ == DType::f32 || dtype_ == DType::f64) {
        vector_loops().unary(FloatUnary::clip, dtype_ == DType::f64)(from, nullptr, to, end - begin, params);
      } else {
        dispatch_integer(dtype_, [&](auto tag) { clip_integers<typename decltype(tag)::type>(from, to, end - begin, low, high); });
      }
    });
    return {};
  }

 private:
  static const std::byte* bound(const KernelCall& call, std::size_t i) {
    return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr;
  }
  double real(const std::byte* data) const {
    if (dtype_ == DType::f32) return *reinterpret_cast<const float*>(data);
    if (dtype_ == DType::f64) return *reinterpret_cast<const double*>(data);
    if (!is_half(dtype_)) return 0;
    float value = 0;
    load_half(dtype_, data, &value, 1);
    return value;
  }
  void clip_half(const std::byte* in, std::byte* out, std::int64_t n, const LoopParams& params) const {
    alignas(64) float block[kBlock];
    const LoopFn clip = vector_loops().unary(FloatUnary::clip, false);
    for (std::int64_t done = 0; done < n; done += kBlock) {
      const std::int64_t m = std::min(kBlock, n - done);
      load_half(dtype_, in + done * 2, block, m);
      clip(block, nullptr, block, m, params);
      store_half(dtype_, block, out + done * 2, m);
    }
  }
  DType dtype_;
  double low_, high_;
};

double largest_finite(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return 65504.0;
    case DType::bf16:
      return 0x1.fep127;
    case DType::f64:
      return std::numeric_limits<double>::max();
    default:
      return static_cast<double>(std::numeric_limits<float>::max());
  }
}

Result<std::unique_ptr<Kernel>> create_clip(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  const bool attributes = node.version() < 11;
  const double most = largest_finite(inputs[0].dtype);  // as the operator defines bounds that are not given
  const double low = attributes && node.has("min") ? node.real("min", 0) : -most;
  const double high = attributes && node.has("max") ? node.real("max", 0) : most;
  if (attributes && !in_set(kFloats, inputs[0].dtype)) return node.unsupported("bounds as attributes are for floats");
  return std::unique_ptr<Kernel>(std::make_unique<ClipKernel>(kernel_id(node, inputs[0].dtype), inputs[0].dtype, low, high));
}

template <FloatUnary kOp, DTypeSet kTypes = kFloats>
constexpr OpSpec math(std::string_view name, std::int32_t since = 1) {
  return {.name = name, .since = since, .flags = kOpElementwise, .infer = infer_same<kTypes>, .create = create_math<kOp>};
}

constexpr OpSpec kSpecs[] = {
    math<FloatUnary::neg, kFloats | kSigned>("Neg", 6),
    math<FloatUnary::abs, kNumbers>("Abs", 6),
    math<FloatUnary::sign, kNumbers>("Sign", 9),
    math<FloatUnary::sqrt>("Sqrt", 6),
    math<FloatUnary::reciprocal>("Reciprocal", 6),
    math<FloatUnary::exp>("Exp", 6),
    math<FloatUnary::log>("Log", 6),
    math<FloatUnary::erf>("Erf", 9),
    math<FloatUnary::floor>("Floor", 6),
    math<FloatUnary::ceil>("Ceil", 6),
    math<FloatUnary::round>("Round", 11),
    math<FloatUnary::sin>("Sin", 7),
    math<FloatUnary::cos>("Cos", 7),
    math<FloatUnary::tan>("Tan", 7),
    math<FloatUnary::asin>("Asin", 7),
    math<FloatUnary::acos>("Acos", 7),
    math<FloatUnary::atan>("Atan", 7),
    math<FloatUnary::sinh>("Sinh", 9),
    math<FloatUnary::cosh>("Cosh", 9),
    math<FloatUnary::asinh>("Asinh", 9),
    math<FloatUnary::acosh>("Acosh", 9),
    math<FloatUnary::atanh>("Atanh", 9),
    math<FloatUnary::relu, kFloats | kSigned>("Relu", 6),
    math<FloatUnary::leaky_relu>("LeakyRelu", 6),
    math<FloatUnary::elu>("Elu", 6),
    math<FloatUnary::selu>("Selu", 6),
    math<FloatUnary::celu>("Celu", 12),
    math<FloatUnary::thresholded_relu>("ThresholdedRelu", 10),
    math<FloatUnary::hard_sigmoid>("HardSigmoid", 6),
    math<FloatUnary::hard_swish>("HardSwish", 14),
    math<FloatUnary::sigmoid>("Sigmoid", 6),
    math<FloatUnary::tanh>("Tanh", 6),
    math<FloatUnary::softplus>("Softplus"),
    math<FloatUnary::softsign>("Softsign"),
    math<FloatUnary::mish>("Mish", 18),
    math<FloatUnary::swish>("Swish", 24),
    math<FloatUnary::shrink, kFloats>("Shrink", 9),
    {.name = "Gelu", .since = 20, .flags = kOpElementwise, .infer = infer_same<kFloats>, .create = create_gelu},
    {.name = "Clip", .since = 6, .flags = kOpElementwise, .infer = infer_clip, .create = create_clip},
    {.name = "Not", .flags = kOpElementwise, .infer = infer_same<kBool>, .create = create_not},
    {.name = "BitwiseNot", .since = 18, .flags = kOpElementwise, .infer = infer_same<kIntegers>, .create = create_bit_not},
    {.name = "IsNaN", .since = 9, .infer = infer_predicate<kFloats>, .create = create_is_nan},
    {.name = "IsInf", .since = 10, .infer = infer_predicate<kFloats>, .create = create_is_inf},
};

}  // namespace

std::span<const OpSpec> unary_ops() { return kSpecs; }

}  // namespace forebay::ops
