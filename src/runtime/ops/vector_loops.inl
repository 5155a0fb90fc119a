// Included by vector_loops.cc once for each instruction set, inside a namespace of its own and under that set's target pragma.
// No include here, and no call of an inline function of another header: it could be emitted with the wider instructions and then be
// shared with code that must run without them. FB_LOOP_INLINE is always_inline.

template <typename To, typename From>
FB_LOOP_INLINE To bits_as(From value) {
  return __builtin_bit_cast(To, value);
}

// exp by 2^n * exp(r), |r| <= ln2 / 2, polynomial fitted to relative error 5e-11; the scale in two steps reaches subnormals.
FB_LOOP_INLINE float exp_f32(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.991937760e-04f;
  p = p * r + 1.394722497e-03f;
  p = p * r + 8.333262643e-03f;
  p = p * r + 4.166625375e-02f;
  p = p * r + 1.666666687e-01f;
  p = p * r + 5.000000083e-01f;
  p = p * (r * r) + r + 1.0f;
  const std::int32_t power = bits_as<std::int32_t>(shifted) - 0x4b400000;
  const std::int32_t half = power >> 1;
  const float s1 = bits_as<float>((half + 127) << 23);
  const float s2 = bits_as<float>((power - half + 127) << 23);
  return (p * s1) * s2;
}
FB_LOOP_INLINE double exp_of(double x) { return __builtin_exp(x); }
// exp(x) - 1 for x <= 0: near zero the difference would be all rounding.
FB_LOOP_INLINE float expm1_of(float x) {
  const float t = x < -0.35f ? -0.35f : x;
  float p = 1.991937760e-04f;
  p = p * t + 1.394722497e-03f;
  p = p * t + 8.333262643e-03f;
  p = p * t + 4.166625375e-02f;
  p = p * t + 1.666666687e-01f;
  p = p * t + 5.000000083e-01f;
  const float small = p * (t * t) + t;
  return x < -0.34f ? exp_f32(x) - 1.0f : small;
}
FB_LOOP_INLINE double expm1_of(double x) { return __builtin_expm1(x); }
FB_LOOP_INLINE float exp_of(float x) { return exp_f32(x); }

FB_LOOP_INLINE float log_f32(float x) {
  const bool tiny = x < 1.17549435e-38f;
  const float scaled = tiny ? x * 8388608.0f : x;
  const std::int32_t bits = bits_as<std::int32_t>(scaled);
  // Mantissa in [sqrt(1/2), sqrt(2)).
  const std::int32_t offset = bits - 0x3f3504f3;
  const std::int32_t exponent = (offset >> 23) - (tiny ? 23 : 0);
  const float f = bits_as<float>((offset & 0x007fffff) + 0x3f3504f3) - 1.0f;
  float p = 6.948946798e-02f;
  p = p * f + -1.184344690e-01f;
  p = p * f + 1.188644102e-01f;
  p = p * f + -1.237668180e-01f;
  p = p * f + 1.421602348e-01f;
  p = p * f + -1.666957860e-01f;
  p = p * f + 2.000235545e-01f;
  p = p * f + -2.499998248e-01f;
  p = p * f + 3.333330877e-01f;
  const float e = static_cast<float>(exponent);
  const float f2 = f * f;
  float y = p * (f2 * f) + e * -2.12194440e-4f;
  y = y - 0.5f * f2;
  y = (f + y) + e * 0.693359375f;
  y = x == __builtin_inff() ? x : y;
  y = x == 0.0f ? -__builtin_inff() : y;
  return x < 0.0f || x != x ? __builtin_nanf("") : y;
}
FB_LOOP_INLINE float log_of(float x) { return log_f32(x); }
FB_LOOP_INLINE double log_of(double x) { return __builtin_log(x); }

FB_LOOP_INLINE float log1p_of(float y) {  // y in [0, 1]
  const float u = 1.0f + y;
  const float d = u - 1.0f;
  const float safe = d == 0.0f ? 1.0f : d;
  return d == 0.0f ? y : log_f32(u) * (y / safe);
}
FB_LOOP_INLINE double log1p_of(double y) { return __builtin_log1p(y); }

FB_LOOP_INLINE float erf_of(float x) {
  const float t0 = __builtin_fabsf(x);
  const float s = x * x;
  float p = -9.680136567e-06f;
  p = p * s + 1.127054455e-04f;
  p = p * s + -8.484711459e-04f;
  p = p * s + 5.221074879e-03f;
  p = p * s + -2.686544582e-02f;
  p = p * s + 1.128378275e-01f;
  p = p * s + -3.761263848e-01f;
  p = p * s + 1.283791671e-01f;
  const float small = x + x * p;
  const float t = t0 > 4.0f ? 4.0f : t0;
  float q = -1.694341761e-07f;
  q = q * t + -1.926682197e-05f;
  q = q * t + 4.265283870e-04f;
  q = q * t + -4.153848617e-03f;
  q = q * t + 2.510190150e-02f;
  q = q * t + -1.082786551e-01f;
  q = q * t + -6.333327207e-01f;
  q = q * t + -1.129527413e+00f;
  q = q * t + 1.781337285e-04f;
  const float large = __builtin_copysignf(1.0f - exp_f32(q), x);
  const float y = t0 > 0.975f ? large : small;
  return x != x ? x : y;
}
FB_LOOP_INLINE double erf_of(double x) { return __builtin_erf(x); }

// x times the normal distribution, (1 + erf(x / sqrt(2))) / 2. Far below zero 1 + erf would be all rounding: erfc is exp(-z * z) times a function
// of z = |x| / sqrt(2) whose logarithm is fitted over 1 / (1 + z / 5), to 2e-7 up to z = 9.3.
FB_LOOP_INLINE float gelu_of(float x) {
  const float z = __builtin_fabsf(x) * 0.70710678f;
  const float s = 3.0752687454f / (1.0f + 0.2f * z) - 2.0752687454f;
  float p = 4.784398533e-04f;
  p = p * s + -3.952834136e-04f;
  p = p * s + -2.939174442e-04f;
  p = p * s + -5.168611500e-03f;
  p = p * s + 1.706644597e-03f;
  p = p * s + -3.625901250e-03f;
  p = p * s + 1.056657957e-01f;
  p = p * s + 1.295174751e-01f;
  p = p * s + 1.296482619e+00f;
  p = p * s + -1.524367086e+00f;
  const float rest = exp_f32(p - z * z);
  return (0.5f * x) * (x < 0.0f ? rest : 2.0f - rest);
}
FB_LOOP_INLINE double gelu_of(double x) { return (0.5 * x) * __builtin_erfc(-0.70710678118654752440 * x); }

FB_LOOP_INLINE float tanh_of(float x) {
  const float t = __builtin_fabsf(x);
  const float s = x * x;
  float p = 2.097926633e-03f;
  p = p * s + -8.129262669e-03f;
  p = p * s + 2.168176916e-02f;
  p = p * s + -5.394342814e-02f;
  p = p * s + 1.333318083e-01f;
  p = p * s + -3.333333020e-01f;
  const float small = x + x * (s * p);
  const float large = __builtin_copysignf(1.0f - 2.0f / (exp_f32(2.0f * t) + 1.0f), x);
  const float y = __builtin_copysignf(t > 0.625f ? large : small, x);  // also of -0
  return x != x ? x : y;
}
FB_LOOP_INLINE double tanh_of(double x) { return __builtin_tanh(x); }

template <typename T>
FB_LOOP_INLINE T sigmoid_of(T x) {
  return T(1) / (T(1) + exp_of(-x));
}
template <typename T>
FB_LOOP_INLINE T abs_of(T x) {
  if constexpr (sizeof(T) == 4) return __builtin_fabsf(x);
  return __builtin_fabs(x);
}
template <typename T>
FB_LOOP_INLINE T softplus_of(T x) {
  const T positive = x > T(0) ? x : T(0);
  const T y = positive + log1p_of(exp_of(-abs_of(x)));
  return x != x ? x : y;
}

template <typename T>
struct P {
  T alpha, beta, gamma;
};

#define FB_UNARY(name, expression)                                          \
  struct name {                                                             \
    template <typename T>                                                   \
    static FB_LOOP_INLINE T apply(T x, [[maybe_unused]] const P<T>& p) {    \
      return (expression);                                                  \
    }                                                                       \
  };
// A function of libm for float and double.
#define FB_LIBM(name, f32, f64)                                             \
  struct name {                                                             \
    static FB_LOOP_INLINE float apply(float x, const P<float>&) { return f32(x); }    \
    static FB_LOOP_INLINE double apply(double x, const P<double>&) { return f64(x); } \
  };

FB_UNARY(Neg, -x)
FB_UNARY(Abs, abs_of(x))
FB_UNARY(Sign, x > T(0) ? T(1) : (x < T(0) ? T(-1) : (x == T(0) ? T(0) : x)))
FB_LIBM(Sqrt, __builtin_sqrtf, __builtin_sqrt)
FB_UNARY(Reciprocal, T(1) / x)
FB_UNARY(Exp, exp_of(x))
FB_UNARY(Log, log_of(x))
FB_UNARY(Erf, erf_of(x))
FB_LIBM(Floor, __builtin_floorf, __builtin_floor)
FB_LIBM(Ceil, __builtin_ceilf, __builtin_ceil)
FB_LIBM(Round, __builtin_rintf, __builtin_rint)
FB_LIBM(Sin, __builtin_sinf, __builtin_sin)
FB_LIBM(Cos, __builtin_cosf, __builtin_cos)
FB_LIBM(Tan, __builtin_tanf, __builtin_tan)
FB_LIBM(Asin, __builtin_asinf, __builtin_asin)
FB_LIBM(Acos, __builtin_acosf, __builtin_acos)
FB_LIBM(Atan, __builtin_atanf, __builtin_atan)
FB_LIBM(Sinh, __builtin_sinhf, __builtin_sinh)
FB_LIBM(Cosh, __builtin_coshf, __builtin_cosh)
FB_LIBM(Asinh, __builtin_asinhf, __builtin_asinh)
FB_LIBM(Acosh, __builtin_acoshf, __builtin_acosh)
FB_LIBM(Atanh, __builtin_atanhf, __builtin_atanh)
FB_UNARY(Relu, x < T(0) ? T(0) : x)
FB_UNARY(LeakyRelu, x < T(0) ? p.alpha * x : x)
FB_UNARY(Elu, x < T(0) ? p.alpha * expm1_of(x) : x)
FB_UNARY(Selu, x > T(0) ? p.gamma * x : p.gamma * (p.alpha * expm1_of(x)))
FB_UNARY(Celu, x < T(0) ? p.alpha * expm1_of(x / p.alpha) : x)
FB_UNARY(ThresholdedRelu, x > p.alpha ? x : (x != x ? x : T(0)))
FB_LOOP_INLINE float clamp01(float x) { return x < 0.0f ? 0.0f : (x > 1.0f ? 1.0f : x); }
FB_LOOP_INLINE double clamp01(double x) { return x < 0.0 ? 0.0 : (x > 1.0 ? 1.0 : x); }
FB_UNARY(HardSigmoid, clamp01(p.alpha * x + p.beta))
FB_UNARY(HardSwish, x* clamp01(x* T(1.0 / 6.0) + T(0.5)))
FB_UNARY(Sigmoid, sigmoid_of(x))
FB_UNARY(Tanh, tanh_of(x))
FB_UNARY(Softplus, softplus_of(x))
FB_UNARY(Softsign, x / (T(1) + abs_of(x)))
FB_UNARY(GeluErf, gelu_of(x))
// (1 + tanh(u)) / 2 is sigmoid(2 u), which does not cancel.
FB_UNARY(GeluTanh, x* sigmoid_of(T(1.59576912160573071176) * (x + T(0.044715) * x * x * x)))
FB_UNARY(Mish, x* tanh_of(softplus_of(x)))
FB_UNARY(Swish, x* sigmoid_of(p.alpha* x))
FB_UNARY(Shrink, x < -p.alpha ? x + p.beta : (x > p.alpha ? x - p.beta : (x != x ? x : T(0))))
// As numpy: NaN stays, and an upper bound below the lower one wins.
FB_LOOP_INLINE float clip_of(float x, float lo, float hi) {
  x = x < lo ? lo : x;
  return x > hi ? hi : x;
}
FB_LOOP_INLINE double clip_of(double x, double lo, double hi) {
  x = x < lo ? lo : x;
  return x > hi ? hi : x;
}
FB_UNARY(Clip, clip_of(x, p.alpha, p.beta))
#undef FB_UNARY
#undef FB_LIBM

#define FB_BINARY(name, expression)                                                 \
  struct name {                                                                     \
    template <typename T>                                                           \
    static FB_LOOP_INLINE T apply(T a, T b) {                                       \
      return (expression);                                                          \
    }                                                                               \
  };
FB_BINARY(Add, a + b)
FB_BINARY(Sub, a - b)
FB_BINARY(Mul, a * b)
FB_BINARY(Div, a / b)
FB_BINARY(Min, a < b || a != a ? a : b)
FB_BINARY(Max, a > b || a != a ? a : b)
FB_BINARY(PRelu, a < T(0) ? a * b : a)
#undef FB_BINARY

template <typename T, typename Op>
void unary_loop(const void* a, const void*, void* out, std::int64_t n, const LoopParams& params) {
  const T* x = static_cast<const T*>(a);
  T* y = static_cast<T*>(out);
  const P<T> p{static_cast<T>(params.alpha), static_cast<T>(params.beta), static_cast<T>(params.gamma)};
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) y[i] = Op::apply(x[i], p);
}
template <typename T, typename Op>
void binary_vv(const void* a, const void* b, void* out, std::int64_t n, const LoopParams&) {
  const T* x = static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  T* z = static_cast<T*>(out);
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) z[i] = Op::apply(x[i], y[i]);
}
template <typename T, typename Op>
void binary_vs(const void* a, const void* b, void* out, std::int64_t n, const LoopParams&) {
  const T* x = static_cast<const T*>(a);
  const T y = *static_cast<const T*>(b);
  T* z = static_cast<T*>(out);
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) z[i] = Op::apply(x[i], y);
}
template <typename T, typename Op>
void binary_sv(const void* a, const void* b, void* out, std::int64_t n, const LoopParams&) {
  const T x = *static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  T* z = static_cast<T*>(out);
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) z[i] = Op::apply(x, y[i]);
}
template <typename T, typename Op>
constexpr BinaryLoops binary_loops_of() {
  return {binary_vv<T, Op>, binary_vs<T, Op>, binary_sv<T, Op>};
}

// The same values as base/half.h, without branches.
void f16_to_f32(const std::uint16_t* in, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t h = in[i];
    const std::uint32_t magnitude = (h & 0x7fffu) << 13;
    const std::uint32_t finite = bits_as<std::uint32_t>(bits_as<float>(magnitude) * 0x1p112f);
    const std::uint32_t special = magnitude | 0x7f800000u;
    const std::uint32_t bits = ((h & 0x8000u) << 16) | (magnitude >= 0x0f800000u ? special : finite);
    out[i] = bits_as<float>(bits);
  }
}
void f32_to_f16(const float* in, std::uint16_t* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = bits_as<std::uint32_t>(in[i]);
    const std::int32_t magnitude = static_cast<std::int32_t>(bits & 0x7fffffffu);
    const std::int32_t nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
    const std::int32_t subnormal = bits_as<std::int32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000;
    const std::int32_t normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000) >> 13;
    std::int32_t h = magnitude < 0x38800000 ? subnormal : normal;
    h = magnitude >= 0x477ff000 ? 0x7c00 : h;
    h = magnitude > 0x7f800000 ? nan : h;
    out[i] = static_cast<std::uint16_t>(static_cast<std::uint32_t>(h) | ((bits >> 16) & 0x8000u));
  }
}
void bf16_to_f32(const std::uint16_t* in, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = bits_as<float>(static_cast<std::uint32_t>(in[i]) << 16);
}
void f32_to_bf16(const float* in, std::uint16_t* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = bits_as<std::uint32_t>(in[i]);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t nan = (bits >> 16) | 0x40u;
    out[i] = static_cast<std::uint16_t>(in[i] != in[i] ? nan : rounded);
  }
}

#define FB_ALL_UNARY(T)                                                                                                                  \
  {                                                                                                                                      \
    unary_loop<T, Neg>, unary_loop<T, Abs>, unary_loop<T, Sign>, unary_loop<T, Sqrt>, unary_loop<T, Reciprocal>, unary_loop<T, Exp>,     \
        unary_loop<T, Log>, unary_loop<T, Erf>, unary_loop<T, Floor>, unary_loop<T, Ceil>, unary_loop<T, Round>, unary_loop<T, Sin>,     \
        unary_loop<T, Cos>, unary_loop<T, Tan>, unary_loop<T, Asin>, unary_loop<T, Acos>, unary_loop<T, Atan>, unary_loop<T, Sinh>,      \
        unary_loop<T, Cosh>, unary_loop<T, Asinh>, unary_loop<T, Acosh>, unary_loop<T, Atanh>, unary_loop<T, Relu>,                      \
        unary_loop<T, LeakyRelu>, unary_loop<T, Elu>, unary_loop<T, Selu>, unary_loop<T, Celu>, unary_loop<T, ThresholdedRelu>,          \
        unary_loop<T, HardSigmoid>, unary_loop<T, HardSwish>, unary_loop<T, Sigmoid>, unary_loop<T, Tanh>, unary_loop<T, Softplus>,      \
        unary_loop<T, Softsign>, unary_loop<T, GeluErf>, unary_loop<T, GeluTanh>, unary_loop<T, Mish>, unary_loop<T, Swish>,             \
        unary_loop<T, Shrink>, unary_loop<T, Clip>                                                                                       \
  }
#define FB_ALL_BINARY(T)                                                                                                              \
  {                                                                                                                                   \
    binary_loops_of<T, Add>(), binary_loops_of<T, Sub>(), binary_loops_of<T, Mul>(), binary_loops_of<T, Div>(),                       \
        binary_loops_of<T, Min>(), binary_loops_of<T, Max>(), binary_loops_of<T, PRelu>()                                             \
  }
constexpr VectorLoops make_loops(std::string_view isa) {
  return {isa,        FB_ALL_UNARY(float), FB_ALL_UNARY(double), FB_ALL_BINARY(float), FB_ALL_BINARY(double), f16_to_f32, f32_to_f16,
          bf16_to_f32, f32_to_bf16};
}
#undef FB_ALL_UNARY
#undef FB_ALL_BINARY
