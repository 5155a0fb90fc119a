#include <climits>

#include "runtime/cuda/cuda_numbers.cuh"
#include "runtime/cuda/number_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;
using Signed = long long;
using Unsigned = unsigned long long;

template <typename F>
__device__ inline void each(std::int64_t total, F&& work) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) work(i);
}

template <typename C>
__device__ inline C load(DType type, const void* data, std::int64_t i) {
  switch (type) {
    case DType::f64:
      return static_cast<C>(static_cast<const double*>(data)[i]);
    case DType::f32:
      return static_cast<C>(static_cast<const float*>(data)[i]);
    case DType::f16:
      return static_cast<C>(widen(static_cast<const __half*>(data)[i]));
    case DType::bf16:
      return static_cast<C>(widen(static_cast<const __nv_bfloat16*>(data)[i]));
    case DType::i8:
      return static_cast<C>(static_cast<const std::int8_t*>(data)[i]);
    case DType::u8:
      return static_cast<C>(static_cast<const std::uint8_t*>(data)[i]);
    case DType::i16:
      return static_cast<C>(static_cast<const std::int16_t*>(data)[i]);
    case DType::u16:
      return static_cast<C>(static_cast<const std::uint16_t*>(data)[i]);
    case DType::i32:
      return static_cast<C>(static_cast<const std::int32_t*>(data)[i]);
    case DType::u32:
      return static_cast<C>(static_cast<const std::uint32_t*>(data)[i]);
    case DType::i64:
      return static_cast<C>(static_cast<const Signed*>(data)[i]);
    case DType::u64:
      return static_cast<C>(static_cast<const Unsigned*>(data)[i]);
    default:
      return static_cast<C>(static_cast<const std::uint8_t*>(data)[i] != 0 ? 1 : 0);
  }
}

__device__ inline int whole_bits(DType type) {
  switch (type) {
    case DType::i64:
    case DType::u64:
      return 64;
    case DType::i32:
    case DType::u32:
      return 32;
    case DType::i16:
    case DType::u16:
      return 16;
    default:
      return 8;
  }
}
// Of a type without fractions; the low bits of `value`.
__device__ inline void store_whole(DType type, void* data, std::int64_t i, Unsigned value) {
  switch (whole_bits(type)) {
    case 8:
      static_cast<std::uint8_t*>(data)[i] = static_cast<std::uint8_t>(value);
      break;
    case 16:
      static_cast<std::uint16_t*>(data)[i] = static_cast<std::uint16_t>(value);
      break;
    case 32:
      static_cast<std::uint32_t*>(data)[i] = static_cast<std::uint32_t>(value);
      break;
    default:
      static_cast<Unsigned*>(data)[i] = value;
      break;
  }
}

// The float at or beside `value` that a later rounding takes for it: inexact ones get an odd last bit.
__device__ inline float odd_float(double value) {
  const float nearest = __double2float_rz(value);
  if (static_cast<double>(nearest) == value || value != value || isinf(nearest)) return nearest;
  return __uint_as_float(__float_as_uint(nearest) | 1u);
}
__device__ inline void store_real(DType type, void* data, std::int64_t i, double value) {
  if (type == DType::f64) static_cast<double*>(data)[i] = value;
  if (type == DType::f32) static_cast<float*>(data)[i] = __double2float_rn(value);
  if (type == DType::f16) static_cast<__half*>(data)[i] = narrow<__half>(odd_float(value));
  if (type == DType::bf16) static_cast<__nv_bfloat16*>(data)[i] = narrow<__nv_bfloat16>(odd_float(value));
}

template <typename C>
__device__ inline void store(DType type, void* data, std::int64_t i, C value) {
  if constexpr (std::is_same_v<C, double>) {
    store_real(type, data, i, value);
  } else {
    store_whole(type, data, i, static_cast<Unsigned>(value));
  }
}

template <typename C>
__device__ inline C divided(C a, C b) {
  if constexpr (std::is_same_v<C, double>) return a / b;
  if (b == C(0)) return C(0);
  if constexpr (std::is_same_v<C, Signed>) {
    if (b == -1) return static_cast<Signed>(Unsigned{0} - static_cast<Unsigned>(a));
  }
  return a / b;
}
template <typename C>
__device__ inline C remainder_of(C a, C b, bool floored) {
  if constexpr (std::is_same_v<C, Unsigned>) {
    return b == 0 ? 0 : a % b;
  } else {
    C r;
    if constexpr (std::is_same_v<C, double>) {
      r = fmod(a, b);
    } else {
      if (b == 0 || b == -1) return 0;
      r = a % b;
    }
    return floored && r != C(0) && (r < C(0)) != (b < C(0)) ? r + b : r;
  }
}

template <typename C>
__device__ inline C arithmetic(NumberOp op, C a, C b, int bits) {
  switch (op) {
    case NumberOp::add:
    case NumberOp::sub:
    case NumberOp::mul:
      if constexpr (std::is_same_v<C, double>) return op == NumberOp::add ? a + b : op == NumberOp::sub ? a - b : a * b;
      {
        const auto x = static_cast<Unsigned>(a), y = static_cast<Unsigned>(b);
        return static_cast<C>(op == NumberOp::add ? x + y : op == NumberOp::sub ? x - y : x * y);
      }
    case NumberOp::div:
      return divided(a, b);
    case NumberOp::pow:
      return static_cast<C>(pow(static_cast<double>(a), static_cast<double>(b)));
    case NumberOp::min:
      return b != b ? b : b < a ? b : a;
    case NumberOp::max:
      return b != b ? b : a < b ? b : a;
    case NumberOp::mod_floor:
      return remainder_of(a, b, true);
    case NumberOp::mod_truncate:
      return remainder_of(a, b, false);
    default:
      break;
  }
  if constexpr (!std::is_same_v<C, double>) {
    const auto x = static_cast<Unsigned>(a), y = static_cast<Unsigned>(b);
    if (op == NumberOp::bit_and) return static_cast<C>(x & y);
    if (op == NumberOp::bit_or) return static_cast<C>(x | y);
    if (op == NumberOp::bit_xor) return static_cast<C>(x ^ y);
    if (op == NumberOp::shift_left) return static_cast<C>(y >= static_cast<Unsigned>(bits) ? 0 : x << y);
    if (op == NumberOp::shift_right) return static_cast<C>(y >= static_cast<Unsigned>(bits) ? 0 : x >> y);
  }
  return a;
}
template <typename C>
__device__ inline bool comparison(NumberOp op, C a, C b) {
  switch (op) {
    case NumberOp::equal:
      return a == b;
    case NumberOp::less:
      return a < b;
    case NumberOp::less_equal:
      return a <= b;
    case NumberOp::greater:
      return a > b;
    case NumberOp::greater_equal:
      return a >= b;
    case NumberOp::logical_and:
      return a != C(0) && b != C(0);
    case NumberOp::logical_or:
      return a != C(0) || b != C(0);
    default:
      return (a != C(0)) != (b != C(0));
  }
}

template <typename C>
__global__ void numbers(NumberOp op, DType type, DType y_type, const __grid_constant__ Walk walk, void* y, const void* a, const void* b) {
  const bool compares = op >= NumberOp::equal && op <= NumberOp::logical_xor;
  each(walk.total, [&](std::int64_t i) {
    std::int64_t at[3];
    locate(walk, i, at);
    const C left = load<C>(type, a, at[1]), right = load<C>(type, b, at[2]);
    if (compares) {
      static_cast<std::uint8_t*>(y)[at[0]] = comparison(op, left, right) ? 1 : 0;
    } else {
      store(y_type, y, at[0], arithmetic(op, left, right, whole_bits(type)));
    }
  });
}

__device__ inline double function(UnaryOp op, double x) {
  switch (op) {
    case UnaryOp::sqrt:
      return sqrt(x);
    case UnaryOp::reciprocal:
      return 1.0 / x;
    case UnaryOp::sigmoid:
      return 1.0 / (1.0 + exp(-x));
    case UnaryOp::cos:
      return cos(x);
    case UnaryOp::sin:
      return sin(x);
    case UnaryOp::exp:
      return exp(x);
    case UnaryOp::log:
      return log(x);
    case UnaryOp::tanh:
      return tanh(x);
    case UnaryOp::neg:
      return -x;
    case UnaryOp::abs:
      return fabs(x);
    case UnaryOp::relu:
      return x < 0.0 ? 0.0 : x;
    case UnaryOp::erf:
      return erf(x);
    case UnaryOp::floor:
      return floor(x);
    case UnaryOp::ceil:
      return ceil(x);
  }
  return x;
}
__global__ void double_unary(UnaryOp op, std::int64_t count, double* y, const double* a) {
  each(count, [&](std::int64_t i) { y[i] = function(op, a[i]); });
}
__global__ void whole_unary(UnaryOp op, DType type, std::int64_t count, void* y, const void* a) {
  each(count, [&](std::int64_t i) {
    const auto x = load<Signed>(type, a, i);
    const bool turns = op == UnaryOp::neg || (op == UnaryOp::abs && x < 0);
    store_whole(type, y, i, op == UnaryOp::relu && x < 0 ? 0 : turns ? Unsigned{0} - static_cast<Unsigned>(x) : static_cast<Unsigned>(x));
  });
}

__device__ inline Signed truncated(double x) {
  return x >= -0x1p63 && x < 0x1p63 ? static_cast<Signed>(x) : LLONG_MIN;
}
__device__ inline Unsigned to_whole(DType type, double x) {
  if (type == DType::i64 || type == DType::u32) return static_cast<Unsigned>(truncated(x));
  if (type == DType::u64) {
    if (x >= 0x1p63) return x < 0x1p64 ? static_cast<Unsigned>(x) : ULLONG_MAX;
    return static_cast<Unsigned>(truncated(x));
  }
  return static_cast<Unsigned>(static_cast<Signed>(x >= -0x1p31 && x < 0x1p31 ? static_cast<int>(x) : INT_MIN));
}
__device__ inline bool is_real(DType type) {
  return type == DType::f64 || type == DType::f32 || type == DType::f16 || type == DType::bf16;
}
// A double of 53 bits that a later rounding takes for the number.
template <typename C>
__device__ inline double odd_double(C x) {
  double nearest;
  if constexpr (std::is_same_v<C, Unsigned>) {
    nearest = __ull2double_rz(x);
  } else {
    nearest = __ll2double_rz(x);
  }
  const bool exact = static_cast<C>(nearest) == x;
  return exact ? nearest : __longlong_as_double(__double_as_longlong(nearest) | 1);
}
template <typename C>
__device__ inline void store_number_as(DType to, void* y, std::int64_t i, C x) {
  if (to == DType::f64) {
    static_cast<double*>(y)[i] = static_cast<double>(x);
  } else if (to == DType::f32) {
    static_cast<float*>(y)[i] = static_cast<float>(x);
  } else if (is_real(to)) {
    store_real(to, y, i, odd_double(x));
  } else {
    store_whole(to, y, i, static_cast<Unsigned>(x));
  }
}
__global__ void cast(DType from, DType to, std::int64_t count, void* y, const void* a) {
  each(count, [&](std::int64_t i) {
    if (to == DType::boolean) {
      const bool set = is_real(from) ? load<double>(from, a, i) != 0.0 : load<Unsigned>(from, a, i) != 0;
      static_cast<std::uint8_t*>(y)[i] = set ? 1 : 0;
    } else if (!is_real(from)) {
      if (from == DType::u64) {
        store_number_as(to, y, i, load<Unsigned>(from, a, i));
      } else {
        store_number_as(to, y, i, load<Signed>(from, a, i));
      }
    } else if (is_real(to)) {
      store_real(to, y, i, load<double>(from, a, i));
    } else {
      store_whole(to, y, i, to_whole(to, load<double>(from, a, i)));
    }
  });
}

__device__ inline double joined(AxisReduce op, double a, double b) {
  switch (op) {
    case AxisReduce::max:
      return a != a ? a : b != b ? b : a < b ? b : a;
    case AxisReduce::min:
      return a != a ? a : b != b ? b : b < a ? b : a;
    case AxisReduce::prod:
      return a * b;
    default:
      return a + b;
  }
}
__global__ void __launch_bounds__(kThreads) double_reduce(const __grid_constant__ AxisReduceTask task) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads / kWarp;
  for (std::int64_t o = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp; o < task.outer.total; o += step) {
    std::int64_t at[2];
    locate(task.outer, o, at);
    const double* const a = static_cast<const double*>(task.a) + at[1];
    double value = task.op == AxisReduce::max ? -INFINITY : task.op == AxisReduce::min ? INFINITY : task.op == AxisReduce::prod ? 1.0 : 0.0;
    for (std::int64_t i = lane; i < task.inner.total; i += kWarp) {
      locate(task.inner, i, at);
      const double x = a[at[1]];
      const bool squares = task.op == AxisReduce::l2 || task.op == AxisReduce::sum_square;
      value = joined(task.op, value, squares ? x * x : task.op == AxisReduce::l1 ? fabs(x) : x);
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
      value = joined(task.op, value, __shfl_xor_sync(0xffffffffu, value, distance));
    if (task.op == AxisReduce::mean) value /= static_cast<double>(task.inner.total);
    if (task.op == AxisReduce::l2) value = sqrt(value);
    if (lane == 0) static_cast<double*>(task.y)[o] = value;
  }
}

__global__ void __launch_bounds__(kThreads) double_product(const __grid_constant__ ProductTask task) {
  each(task.batches * task.m * task.n, [&](std::int64_t i) {
    const std::int64_t n = i % task.n, m = i / task.n % task.m, batch = i / (task.n * task.m);
    const double* const a = static_cast<const double*>(task.a) + batch * task.a_batch + m * task.a_row;
    const double* const b = static_cast<const double*>(task.b) + batch * task.b_batch + n * task.b_col;
    double sum = 0;
    for (std::int64_t k = 0; k < task.k; ++k) sum = fma(a[k * task.a_col], b[k * task.b_row], sum);
    static_cast<double*>(task.y)[batch * task.y_batch + m * task.y_row + n] = sum;
  });
}

}  // namespace

bool whole_number(DType type) {
  switch (type) {
    case DType::i8:
    case DType::u8:
    case DType::i16:
    case DType::u16:
    case DType::i32:
    case DType::u32:
    case DType::i64:
    case DType::u64:
      return true;
    default:
      return false;
  }
}
bool number_type(DType type) {
  const bool real = type == DType::f64 || type == DType::f32 || type == DType::f16 || type == DType::bf16;
  return real || type == DType::boolean || whole_number(type);
}

cudaError_t launch_numbers(NumberOp op, DType type, DType y_type, const Walk& walk, void* y, const void* a, const void* b,
                           cudaStream_t stream) {
  if (walk.total == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(walk.total, kThreads);
  if (!whole_number(type) && type != DType::boolean) {
    numbers<double><<<blocks, kThreads, 0, stream>>>(op, type, y_type, walk, y, a, b);
  } else if (type == DType::u64) {
    numbers<Unsigned><<<blocks, kThreads, 0, stream>>>(op, type, y_type, walk, y, a, b);
  } else {
    numbers<Signed><<<blocks, kThreads, 0, stream>>>(op, type, y_type, walk, y, a, b);
  }
  return cudaGetLastError();
}

cudaError_t launch_number_unary(UnaryOp op, DType type, std::int64_t count, void* y, const void* a, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(count, kThreads);
  if (type == DType::f64) {
    double_unary<<<blocks, kThreads, 0, stream>>>(op, count, static_cast<double*>(y), static_cast<const double*>(a));
  } else {
    whole_unary<<<blocks, kThreads, 0, stream>>>(op, type, count, y, a);
  }
  return cudaGetLastError();
}

cudaError_t launch_number_cast(DType from, DType to, std::int64_t count, void* y, const void* a, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  cast<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(from, to, count, y, a);
  return cudaGetLastError();
}

cudaError_t launch_double_reduce(const AxisReduceTask& task, cudaStream_t stream) {
  if (task.outer.total == 0) return cudaSuccess;
  double_reduce<<<blocks_for(task.outer.total * kWarp, kThreads), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

cudaError_t launch_double_product(const ProductTask& task, cudaStream_t stream) {
  const std::int64_t total = task.batches * task.m * task.n;
  if (total == 0) return cudaSuccess;
  double_product<<<blocks_for(total, kThreads), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
