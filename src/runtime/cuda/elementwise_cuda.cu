#include "runtime/cuda/by_type.cuh"

namespace forebay::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename C>
__device__ inline C arithmetic(BinaryOp op, C a, C b) {
  switch (op) {
    case BinaryOp::add:
      return a + b;
    case BinaryOp::sub:
      return a - b;
    case BinaryOp::mul:
      return a * b;
    case BinaryOp::div:
      return a / b;
    case BinaryOp::min:
      return b != b ? b : b < a ? b : a;  // NaN wins, as in ONNX
    case BinaryOp::max:
      return b != b ? b : a < b ? b : a;
    default:
      return a;
  }
}
template <>
__device__ inline float arithmetic<float>(BinaryOp op, float a, float b) {
  switch (op) {
    case BinaryOp::add:
      return a + b;
    case BinaryOp::sub:
      return a - b;
    case BinaryOp::mul:
      return a * b;
    case BinaryOp::div:
      return a / b;
    case BinaryOp::pow:
      return b == 2.0f ? a * a : powf(a, b);
    case BinaryOp::min:
      return b != b ? b : b < a ? b : a;
    case BinaryOp::max:
      return b != b ? b : a < b ? b : a;
    default:
      return a;
  }
}
template <typename C>
__device__ inline bool comparison(BinaryOp op, C a, C b) {
  switch (op) {
    case BinaryOp::equal:
      return a == b;
    case BinaryOp::less:
      return a < b;
    case BinaryOp::less_equal:
      return a <= b;
    case BinaryOp::greater:
      return a > b;
    case BinaryOp::greater_equal:
      return a >= b;
    case BinaryOp::logical_and:
      return a != C(0) && b != C(0);
    case BinaryOp::logical_or:
      return a != C(0) || b != C(0);
    default:
      return false;
  }
}

template <typename T>
__global__ void float_binary(BinaryOp op, const __grid_constant__ Walk walk, T* y, const T* a, const T* b) {
  after_previous();
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < walk.total; i += step) {
    std::int64_t at[3];
    locate(walk, i, at);
    y[at[0]] = narrow<T>(arithmetic(op, widen(a[at[1]]), widen(b[at[2]])));
  }
}
template <typename T>
__global__ void integer_binary(BinaryOp op, Walk walk, T* y, const T* a, const T* b) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < walk.total; i += step) {
    std::int64_t at[3];
    locate(walk, i, at);
    y[at[0]] = arithmetic(op, a[at[1]], b[at[2]]);
  }
}
template <typename T>
__global__ void float_compare(BinaryOp op, Walk walk, std::uint8_t* y, const T* a, const T* b) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < walk.total; i += step) {
    std::int64_t at[3];
    locate(walk, i, at);
    y[at[0]] = comparison(op, widen(a[at[1]]), widen(b[at[2]])) ? 1 : 0;
  }
}
template <typename T>
__global__ void integer_compare(BinaryOp op, Walk walk, std::uint8_t* y, const T* a, const T* b) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < walk.total; i += step) {
    std::int64_t at[3];
    locate(walk, i, at);
    y[at[0]] = comparison(op, a[at[1]], b[at[2]]) ? 1 : 0;
  }
}

template <typename T>
cudaError_t start_float(BinaryOp op, const Walk& walk, void* y, const void* a, const void* b, cudaStream_t stream) {
  const unsigned blocks = blocks_for(walk.total, kThreads);
  if (op < BinaryOp::equal) return launch_after(float_binary<T>, dim3(blocks), kThreads, 0, stream, op, walk, y, a, b);
  float_compare<T><<<blocks, kThreads, 0, stream>>>(op, walk, static_cast<std::uint8_t*>(y), static_cast<const T*>(a),
                                                    static_cast<const T*>(b));
  return cudaGetLastError();
}
template <typename T>
void start_integer(BinaryOp op, const Walk& walk, void* y, const void* a, const void* b,
                   cudaStream_t stream) {
  const unsigned blocks = blocks_for(walk.total, kThreads);
  if (op >= BinaryOp::equal) {
    integer_compare<T><<<blocks, kThreads, 0, stream>>>(op, walk, static_cast<std::uint8_t*>(y),
                                                        static_cast<const T*>(a),
                                                        static_cast<const T*>(b));
  } else {
    integer_binary<T><<<blocks, kThreads, 0, stream>>>(
        op, walk, static_cast<T*>(y), static_cast<const T*>(a), static_cast<const T*>(b));
  }
}

__device__ inline float unary(UnaryOp op, float x) {
  switch (op) {
    case UnaryOp::sqrt:
      return sqrtf(x);
    case UnaryOp::reciprocal:
      return 1.0f / x;
    case UnaryOp::sigmoid:
      return 1.0f / (1.0f + expf(-x));
    case UnaryOp::cos:
      return cosf(x);
    case UnaryOp::sin:
      return sinf(x);
    case UnaryOp::exp:
      return expf(x);
    case UnaryOp::log:
      return logf(x);
    case UnaryOp::tanh:
      return tanhf(x);
    case UnaryOp::neg:
      return -x;
    case UnaryOp::abs:
      return fabsf(x);
    case UnaryOp::relu:
      return x < 0.0f ? 0.0f : x;
    case UnaryOp::erf:
      return erff(x);
    case UnaryOp::floor:
      return floorf(x);
    case UnaryOp::ceil:
      return ceilf(x);
  }
  return x;
}
template <typename T>
__global__ void float_unary(UnaryOp op, std::int64_t count, T* y, const T* a) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    y[i] = narrow<T>(unary(op, widen(a[i])));
}

template <typename T>
__global__ void float_activation(Activation activation, float alpha, float beta, std::int64_t count, T* y, const T* a) {
  after_previous();
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    y[i] = narrow<T>(activate(activation, alpha, beta, widen(a[i])));
  }
}

// Integers become floats by one rounding to f32; narrower floats by a second, as the CPU does it.
__device__ inline float as_float(float x) {
  return x;
}
__device__ inline float as_float(__half x) {
  return widen(x);
}
__device__ inline float as_float(__nv_bfloat16 x) {
  return widen(x);
}
__device__ inline float as_float(std::int64_t x) {
  return __ll2float_rn(x);
}
__device__ inline float as_float(std::int32_t x) {
  return __int2float_rn(x);
}
__device__ inline float as_float(std::uint8_t x) {
  return static_cast<float>(x);
}
template <typename T, typename Y>
__global__ void cast(std::int64_t count, Y* y, const T* a) {
  after_previous();
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    y[i] = narrow<Y>(as_float(a[i]));
}
template <typename T>
cudaError_t start_cast(DType to, std::int64_t count, void* y, const T* a, cudaStream_t stream) {
  const auto go = [&](auto* as) { return launch_after(cast<T, std::decay_t<decltype(*as)>>, dim3(blocks_for(count, kThreads)), kThreads, 0, stream, count, as, a); };
  return by_float(to, [&](auto t) { return go(static_cast<decltype(t)*>(y)); });
}

template <typename T>
__global__ void select(Walk walk, T* y, const std::uint8_t* condition, const T* a, const T* b) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < walk.total; i += step) {
    std::int64_t at[4];
    locate(walk, i, at);
    y[at[0]] = condition[at[1]] != 0 ? a[at[2]] : b[at[3]];
  }
}
template <typename T>
void start_select(const Walk& walk, void* y, const void* condition, const void* a, const void* b,
                  cudaStream_t stream) {
  select<T><<<blocks_for(walk.total, kThreads), kThreads, 0, stream>>>(
      walk, static_cast<T*>(y), static_cast<const std::uint8_t*>(condition),
      static_cast<const T*>(a), static_cast<const T*>(b));
}

}  // namespace

cudaError_t launch_binary(BinaryOp op, DType type, const Walk& walk, void* y, const void* a,
                          const void* b, cudaStream_t stream) {
  if (walk.total == 0) return cudaSuccess;
  if (cudaError_t error = cudaSuccess; launch_long_binary(op, type, walk, y, a, b, stream, &error)) return error;
  return by_types<float, __half, __nv_bfloat16, std::int32_t, std::int64_t, bool>(type, [&](auto t) {
    using T = decltype(t);
    if constexpr (std::is_same_v<T, bool>) {
      start_integer<std::uint8_t>(op, walk, y, a, b, stream);
      return cudaGetLastError();
    } else if constexpr (std::is_integral_v<T>) {
      start_integer<T>(op, walk, y, a, b, stream);
      return cudaGetLastError();
    } else {
      return start_float<T>(op, walk, y, a, b, stream);
    }
  });
}

cudaError_t launch_unary(UnaryOp op, DType type, std::int64_t count, void* y, const void* a,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(count, kThreads);
  return by_float(type, [&](auto t) {
    using T = decltype(t);
    float_unary<<<blocks, kThreads, 0, stream>>>(op, count, static_cast<T*>(y), static_cast<const T*>(a));
  });
}

bool castable(DType from, DType to) {
  const bool in = from == DType::f32 || from == DType::f16 || from == DType::bf16 ||
                  from == DType::i64 || from == DType::i32 || from == DType::boolean;
  return in && (to == DType::f32 || to == DType::f16 || to == DType::bf16);
}

cudaError_t launch_cast(DType from, DType to, std::int64_t count, void* y, const void* a,
                        cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return by_types<float, __half, __nv_bfloat16, std::int64_t, std::int32_t, bool>(from, [&](auto t) {
    using T = std::conditional_t<std::is_same_v<decltype(t), bool>, std::uint8_t, decltype(t)>;
    return start_cast(to, count, y, static_cast<const T*>(a), stream);
  });
}

cudaError_t launch_where(int element_bytes, const Walk& walk, void* y, const void* condition,
                         const void* a, const void* b, cudaStream_t stream) {
  if (walk.total == 0) return cudaSuccess;
  return by_bytes(element_bytes, [&](auto t) { start_select<decltype(t)>(walk, y, condition, a, b, stream); });
}

cudaError_t launch_activation(Activation activation, float alpha, float beta, DType type, std::int64_t count, void* y, const void* a, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto go = [&](auto tag) {
    using T = decltype(tag);
    return launch_after(float_activation<T>, dim3(blocks_for(count, kThreads)), kThreads, 0, stream, activation, alpha, beta, count, y, a);
  };
  return by_float(type, go);
}

}  // namespace forebay::cuda
