// Binary operators: arithmetic, comparison, logic, bits. Pow takes its own way: base and exponent may differ in dtype.
#include <cmath>
#include <memory>

#include "runtime/ops/binary_loops.h"
#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"

namespace forebay::ops {
namespace {

struct AddInt {
  template <typename T>
  static T apply(T a, T b, const LoopParams&) {
    return static_cast<T>(static_cast<Wrapping<T>>(a) + static_cast<Wrapping<T>>(b));
  }
};
struct SubInt {
  template <typename T>
  static T apply(T a, T b, const LoopParams&) {
    return static_cast<T>(static_cast<Wrapping<T>>(a) - static_cast<Wrapping<T>>(b));
  }
};
struct MulInt {
  template <typename T>
  static T apply(T a, T b, const LoopParams&) {
    return static_cast<T>(static_cast<Wrapping<T>>(a) * static_cast<Wrapping<T>>(b));
  }
};
struct DivInt {
  template <typename T>
  static T apply(T a, T b, const LoopParams&) {
    if (b == 0) return 0;
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return static_cast<T>(Wrapping<T>{0} - static_cast<Wrapping<T>>(a));  // the lowest value has no negative: it wraps
    }
    return static_cast<T>(a / b);
  }
};
struct MinInt {
  template <typename T>
  static T apply(T a, T b, const LoopParams&) {
    return a < b ? a : b;
  }
};
struct MaxInt {
  template <typename T>
  static T apply(T a, T b, const LoopParams&) {
    return a > b ? a : b;
  }
};
struct PReluInt {
  template <typename T>
  static T apply(T a, T b, const LoopParams& p) {
    return a < 0 ? MulInt::apply(a, b, p) : a;
  }
};

// Sign of the divisor (fmod = 0), or of the dividend (fmod = 1).
struct ModFloor {
  template <typename T>
  static T apply(T a, T b, const LoopParams&) {
    if constexpr (std::is_floating_point_v<T>) {
      const T r = std::fmod(a, b);
      return r != 0 && (r < 0) != (b < 0) ? r + b : r;
    } else {
      if (b == 0) return 0;
      if constexpr (std::is_signed_v<T>) {
        if (b == -1) return 0;
        const T r = static_cast<T>(a % b);
        return r != 0 && (r < 0) != (b < 0) ? static_cast<T>(r + b) : r;
      } else {
        return static_cast<T>(a % b);
      }
    }
  }
};
struct ModTruncate {
  template <typename T>
  static T apply(T a, T b, const LoopParams&) {
    if constexpr (std::is_floating_point_v<T>) {
      return std::fmod(a, b);
    } else {
      if (b == 0) return 0;
      if constexpr (std::is_signed_v<T>) {
        if (b == -1) return 0;
      }
      return static_cast<T>(a % b);
    }
  }
};

#define FB_PAIR(name, expression)                            \
  struct name {                                              \
    template <typename T>                                    \
    static auto apply(T a, T b, const LoopParams&) {         \
      return (expression);                                   \
    }                                                        \
  };
FB_PAIR(EqualOp, a == b)
FB_PAIR(LessOp, a < b)
FB_PAIR(GreaterOp, a > b)
FB_PAIR(LessOrEqualOp, a <= b)
FB_PAIR(GreaterOrEqualOp, a >= b)
FB_PAIR(AndOp, (a != 0) && (b != 0))
FB_PAIR(OrOp, (a != 0) || (b != 0))
FB_PAIR(XorOp, (a != 0) != (b != 0))
FB_PAIR(BitAndOp, static_cast<T>(a & b))
FB_PAIR(BitOrOp, static_cast<T>(a | b))
FB_PAIR(BitXorOp, static_cast<T>(a ^ b))
FB_PAIR(ShiftLeftOp, b >= sizeof(T) * 8 ? T{0} : static_cast<T>(static_cast<Wrapping<T>>(a) << b))
FB_PAIR(ShiftRightOp, b >= sizeof(T) * 8 ? T{0} : static_cast<T>(a >> b))
#undef FB_PAIR

template <typename T, typename R, typename Op, int kForm>
void loop(const void* a, const void* b, void* out, std::int64_t n, const LoopParams& params) {
  const T* x = static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  R* z = static_cast<R*>(out);
  if constexpr (kForm == 0) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) z[i] = static_cast<R>(Op::apply(x[i], y[i], params));
  } else if constexpr (kForm == 1) {
    const T s = *y;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) z[i] = static_cast<R>(Op::apply(x[i], s, params));
  } else {
    const T s = *x;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) z[i] = static_cast<R>(Op::apply(s, y[i], params));
  }
}
template <typename T, typename R, typename Op>
BinaryLoops loops_of() {
  return {loop<T, R, Op, 0>, loop<T, R, Op, 1>, loop<T, R, Op, 2>};
}
template <typename Op>
BinaryLoops integer_loops(DType dtype) {
  BinaryLoops loops;
  dispatch_integer(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    loops = loops_of<T, T, Op>();
  });
  return loops;
}
template <typename Op>
BinaryLoops number_loops(DType dtype) {
  BinaryLoops loops;
  dispatch_number(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    loops = loops_of<T, T, Op>();
  });
  return loops;
}
template <typename Op>
BinaryLoops unsigned_loops(DType dtype) {
  switch (dtype) {
    case DType::u8: return loops_of<std::uint8_t, std::uint8_t, Op>();
    case DType::u16: return loops_of<std::uint16_t, std::uint16_t, Op>();
    case DType::u32: return loops_of<std::uint32_t, std::uint32_t, Op>();
    case DType::u64: return loops_of<std::uint64_t, std::uint64_t, Op>();
    default: return {};
  }
}
template <typename Op>
BinaryLoops compare_loops(DType dtype) {
  BinaryLoops loops;
  if (dtype == DType::boolean) return loops_of<std::uint8_t, std::uint8_t, Op>();
  dispatch_number(dtype, [&](auto tag) { loops = loops_of<typename decltype(tag)::type, std::uint8_t, Op>(); });
  return loops;
}

}  // namespace

BinaryLoops arithmetic_loops(FloatBinary op, DType dtype) {
  if (dtype == DType::f32 || dtype == DType::f64) return vector_loops().binary(op, dtype == DType::f64);
  switch (op) {
    case FloatBinary::add: return integer_loops<AddInt>(dtype);
    case FloatBinary::sub: return integer_loops<SubInt>(dtype);
    case FloatBinary::mul: return integer_loops<MulInt>(dtype);
    case FloatBinary::div: return integer_loops<DivInt>(dtype);
    case FloatBinary::min: return integer_loops<MinInt>(dtype);
    case FloatBinary::max: return integer_loops<MaxInt>(dtype);
    case FloatBinary::prelu: return integer_loops<PReluInt>(dtype);
    case FloatBinary::count: break;
  }
  return {};
}

namespace {

using LoopsFor = BinaryLoops (*)(const NodeView&, DType);
template <FloatBinary kOp>
BinaryLoops arithmetic(const NodeView&, DType dtype) {
  return arithmetic_loops(kOp, dtype);
}
template <typename Op>
BinaryLoops compare(const NodeView&, DType dtype) {
  return compare_loops<Op>(dtype);
}
template <typename Op>
BinaryLoops bits(const NodeView&, DType dtype) {
  return integer_loops<Op>(dtype);
}
template <typename Op>
BinaryLoops logic(const NodeView&, DType) {
  return loops_of<std::uint8_t, std::uint8_t, Op>();
}
BinaryLoops modulo(const NodeView& node, DType dtype) {
  return node.integer("fmod", 0) != 0 ? number_loops<ModTruncate>(dtype) : number_loops<ModFloor>(dtype);
}
BinaryLoops shift(const NodeView& node, DType dtype) {
  return node.text("direction", "") == "LEFT" ? unsigned_loops<ShiftLeftOp>(dtype) : unsigned_loops<ShiftRightOp>(dtype);
}

template <DTypeSet kTypes, bool kToBool>
Status infer_pair(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kTypes));
  FB_TRY(need_input(ctx, 1, kTypes));
  FB_TRY(same_dtype(ctx, 0, 1));
  return infer_broadcast_pair(ctx, kToBool ? DType::boolean : ctx.input(0).dtype);
}
Status infer_shift(InferContext& ctx) {
  const std::string_view direction = ctx.node().text("direction", "");
  if (direction != "LEFT" && direction != "RIGHT") return ctx.node().invalid("direction is neither LEFT nor RIGHT");
  return infer_pair<kUnsigned, false>(ctx);
}

std::string kernel_id(const NodeView& node, DType dtype) {
  return "cpu." + std::string(node.op()) + "." + std::string(dtype_name(dtype));
}

template <LoopsFor kLoops, bool kToBool>
Result<std::unique_ptr<Kernel>> create_pair(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  const DType dtype = inputs[0].dtype;
  BinaryFunction function;
  function.loops = kLoops(node, loop_dtype(dtype));
  if (function.loops.vv == nullptr) return node.unsupported("no kernel for dtype " + std::string(dtype_name(dtype)));
  function.a = function.b = dtype;
  function.out = kToBool ? DType::boolean : dtype;
  return make_binary_kernel(kernel_id(node, dtype), function);
}

// PRelu of opset 6: a slope of one dimension lies along the channels.
Status infer_prelu(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kNumbers));
  FB_TRY(same_dtype(ctx, 0, 1));
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  const TypeShape& x = ctx.input(0);
  const TypeShape& slope = ctx.input(1);
  if (ctx.node().version() < 7 || !x.has_rank || !slope.has_rank) return {};
  FB_ASSIGN(const std::vector<std::int64_t> dims, broadcast_dims(ctx.node(), x.dims, slope.dims));
  if (dims.size() != x.dims.size() || (x.known() && dims != x.dims)) return ctx.node().invalid("the slope does not broadcast to the input");
  return {};
}

class PReluChannels final : public NamedKernel {
 public:
  PReluChannels(std::string id, const BinaryFunction& function) : NamedKernel(std::move(id)), function_(function) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    std::vector<std::int64_t> slope = context.inputs[1].dims;
    if (slope.size() == 1 && dims.size() > 2 && slope[0] != 1) slope.resize(dims.size() - 1, 1);
    FB_ASSIGN(const std::vector<std::int64_t> out, broadcast_dims(context.node, dims, slope));
    if (out != dims) return context.node.invalid("the slope does not broadcast to the input");
    const std::span<const std::int64_t> inputs[] = {dims, slope};
    plan_.plan(out, inputs);
    return {};
  }
  Status run(const KernelCall& call) override {
    const int bytes = element_bytes(function_.a);
    const auto last = static_cast<std::size_t>(plan_.rank - 1);
    call.pool->parallel_for(plan_.total, 16384, [&](std::int64_t begin, std::int64_t end) {
      plan_.walk(begin, end, [&](std::int64_t position, const auto& offset, std::int64_t n) {
        apply_binary(function_, call.inputs[0].data + offset[0] * bytes, plan_.strides[0][last], call.inputs[1].data + offset[1] * bytes,
                     plan_.strides[1][last], call.outputs[0].data + position * bytes, n);
      });
    });
    return {};
  }

 private:
  BinaryFunction function_;
  BroadcastPlan plan_;
};

Result<std::unique_ptr<Kernel>> create_prelu6(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  const DType dtype = inputs[0].dtype;
  const BinaryFunction function{arithmetic_loops(FloatBinary::prelu, loop_dtype(dtype)), dtype, dtype, dtype, {}};
  if (function.loops.vv == nullptr) return node.unsupported("no kernel for dtype " + std::string(dtype_name(dtype)));
  return std::unique_ptr<Kernel>(std::make_unique<PReluChannels>(kernel_id(node, dtype), function));
}

template <LoopsFor kLoops, bool kToBool, DTypeSet kTypes>
constexpr OpSpec pair(std::string_view name, std::int32_t since = 1) {
  return {.name = name,
          .since = since,
          .flags = kOpElementwise,
          .infer = infer_pair<kTypes, kToBool>,
          .consume = consume_elementwise,
          .create = create_pair<kLoops, kToBool>};
}

constexpr OpSpec kSpecs[] = {
    pair<arithmetic<FloatBinary::add>, false, kNumbers>("Add", 6),
    pair<arithmetic<FloatBinary::sub>, false, kNumbers>("Sub", 6),
    pair<arithmetic<FloatBinary::mul>, false, kNumbers>("Mul", 6),
    pair<arithmetic<FloatBinary::div>, false, kNumbers>("Div", 6),
    pair<modulo, false, kNumbers>("Mod", 10),
    pair<compare<EqualOp>, true, kNumbers | kBool>("Equal"),
    pair<compare<LessOp>, true, kNumbers>("Less"),
    pair<compare<GreaterOp>, true, kNumbers>("Greater"),
    pair<compare<LessOrEqualOp>, true, kNumbers>("LessOrEqual", 12),
    pair<compare<GreaterOrEqualOp>, true, kNumbers>("GreaterOrEqual", 12),
    pair<logic<AndOp>, false, kBool>("And"),
    pair<logic<OrOp>, false, kBool>("Or"),
    pair<logic<XorOp>, false, kBool>("Xor"),
    pair<bits<BitAndOp>, false, kIntegers>("BitwiseAnd", 18),
    pair<bits<BitOrOp>, false, kIntegers>("BitwiseOr", 18),
    pair<bits<BitXorOp>, false, kIntegers>("BitwiseXor", 18),
    {.name = "BitShift", .since = 11, .flags = kOpElementwise, .infer = infer_shift, .consume = consume_elementwise,
     .create = create_pair<shift, false>},
    {.name = "PRelu", .since = 6, .until = 6, .flags = kOpElementwise, .infer = infer_prelu, .create = create_prelu6},
    {.name = "PRelu", .since = 7, .flags = kOpElementwise, .infer = infer_prelu,
     .create = create_pair<arithmetic<FloatBinary::prelu>, false>},
};

}  // namespace

std::span<const OpSpec> binary_ops() { return kSpecs; }

}  // namespace forebay::ops
