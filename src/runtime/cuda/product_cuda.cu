#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {
namespace {

__device__ inline float read_number(DType type, const void* data, std::int64_t at) {
  if (type == DType::f32) return static_cast<const float*>(data)[at];
  if (type == DType::f16) return widen(static_cast<const __half*>(data)[at]);
  return widen(static_cast<const __nv_bfloat16*>(data)[at]);
}

// alpha, C and y's dtype: product and sum are rounded apart, as on the CPU.
__device__ inline void finish_one(const ProductTask& task, std::int64_t batch, std::int64_t m,
                                  std::int64_t n, float sum) {
  float value = task.alpha * sum;
  if (task.c != nullptr)
    value += task.beta * read_number(task.c_type, task.c, m * task.c_row + n * task.c_col);
  value = activate(task.activation, task.activation_alpha, task.activation_beta, value);
  const std::int64_t at = batch * task.y_batch + m * task.y_row + n;
  if (task.y_type == DType::f32) {
    static_cast<float*>(task.y)[at] = value;
  } else if (task.y_type == DType::f16) {
    static_cast<__half*>(task.y)[at] = narrow<__half>(value);
  } else {
    static_cast<__nv_bfloat16*>(task.y)[at] = narrow<__nv_bfloat16>(value);
  }
}
__device__ inline void put(const ProductTask& task, std::int64_t batch, std::int64_t m,
                           std::int64_t n, float sum) {
  if (task.last) {
    finish_one(task, batch, m, n, sum);
  } else {
    task.sums[batch * task.y_batch + m * task.y_row + n] = sum;
  }
}
__device__ inline float carried(const ProductTask& task, std::int64_t batch, std::int64_t m,
                                std::int64_t n) {
  return task.first ? 0.0f : task.sums[batch * task.y_batch + m * task.y_row + n];
}

// Eight neighbours of a row as f32. The bits of 16-bit numbers are loaded as they are and widened
// when they are used.
template <typename T>
struct Eight {
  uint4 bits;
  __device__ void load(const T* from) { bits = __ldg(reinterpret_cast<const uint4*>(from)); }
  __device__ float operator[](int i) const { return widen(reinterpret_cast<const T*>(&bits)[i]); }
};
template <>
struct Eight<float> {
  float4 low, high;
  __device__ void load(const float* from) {
    low = __ldg(reinterpret_cast<const float4*>(from));
    high = __ldg(reinterpret_cast<const float4*>(from) + 1);
  }
  __device__ float operator[](int i) const {
    return i == 0   ? low.x
           : i == 1 ? low.y
           : i == 2 ? low.z
           : i == 3 ? low.w
           : i == 4 ? high.x
           : i == 5 ? high.y
           : i == 6 ? high.z
                    : high.w;
  }
};

constexpr int kRowWarps = 8;
constexpr int kAhead = 4;  // weights under way: 4 x 256 elements a warp

// A warp a row of B. Lane l holds sums 8l to 8l+7: sum i takes elements i, i + 256, ...
template <typename T, int M>
__device__ inline void one_row(const ProductTask& task, bool vectors, const T* w, std::int64_t n, std::int64_t batch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T* x = static_cast<const T*>(task.a) + batch * task.a_batch;
  float sums[M][8] = {};
  const auto take = [&](const Eight<T>& weights, std::int64_t at) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      Eight<T> values;
      values.load(x + (m < task.m ? m : 0) * task.a_row + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[m][i] = __fmaf_rn(weights[i], values[i], sums[m][i]);
    }
  };
  std::int64_t k = 0;
  if (vectors) {
    for (; k + kAhead * 256 <= task.k; k += kAhead * 256) {
      Eight<T> weights[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) weights[u].load(w + k + u * 256 + lane * 8);
#pragma unroll
      for (int u = 0; u < kAhead; ++u) take(weights[u], k + u * 256 + lane * 8);
    }
    for (; k + lane * 8 < task.k; k += 256) {
      Eight<T> weights;
      weights.load(w + k + lane * 8);
      take(weights, k + lane * 8);
    }
  } else {
    for (; k < task.k; k += 256) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const std::int64_t at = k + lane * 8 + i;
        if (at >= task.k) continue;
#pragma unroll
        for (int m = 0; m < M; ++m) {
          sums[m][i] =
              __fmaf_rn(widen(w[at]), widen(x[(m < task.m ? m : 0) * task.a_row + at]), sums[m][i]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const float* s = sums[m];
    float run = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
#pragma unroll
    for (int half = 16; half > 0; half /= 2) run = run + __shfl_down_sync(0xffffffffu, run, half);
    if (lane == 0 && m < task.m) put(task, batch, m, n, run);
  }
}

template <typename T, int M>
__global__ void __launch_bounds__(kRowWarps * 32) row_dot(const __grid_constant__ ProductTask task, bool vectors) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / 32, batch = blockIdx.y;
  if (n >= task.n) return;
  one_row<T, M>(task, vectors, static_cast<const T*>(task.b) + batch * task.b_batch + n * task.k, n, batch);
}

template <typename T, int M>
__global__ void __launch_bounds__(kRowWarps * 32)
    row_dot_slabs(const __grid_constant__ ProductTask task, const __grid_constant__ SlabTable table, bool vectors) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (n >= task.n) return;
  const auto slab = static_cast<std::uint32_t>(n) / static_cast<std::uint32_t>(table.rows);
  one_row<T, M>(task, vectors, static_cast<const T*>(table.slabs[slab]) + (n - slab * table.rows) * task.k, n, 0);
}

constexpr int kColumns =
    64;  // threads of a block, a column each: small blocks, since there are few columns

template <typename T, int M>
__global__ void __launch_bounds__(kColumns) axpy(const __grid_constant__ ProductTask task) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kColumns + threadIdx.x,
                     batch = blockIdx.y;
  if (n >= task.n) return;
  const T* w = static_cast<const T*>(task.b) + batch * task.b_batch + n;
  const T* x = static_cast<const T*>(task.a) + batch * task.a_batch;
  float sums[M];
#pragma unroll
  for (int m = 0; m < M; ++m) sums[m] = m < task.m ? carried(task, batch, m, n) : 0.0f;
  constexpr int kUnder = 16;
  std::int64_t k = 0;
  for (; k + kUnder <= task.k; k += kUnder) {
    T weights[kUnder];
#pragma unroll
    for (int u = 0; u < kUnder; ++u) weights[u] = w[(k + u) * task.b_row];
#pragma unroll
    for (int u = 0; u < kUnder; ++u) {
#pragma unroll
      for (int m = 0; m < M; ++m)
        sums[m] = __fmaf_rn(widen(weights[u]), widen(x[(m < task.m ? m : 0) * task.a_row + k + u]),
                            sums[m]);
    }
  }
  for (; k < task.k; ++k) {
#pragma unroll
    for (int m = 0; m < M; ++m)
      sums[m] = __fmaf_rn(widen(w[k * task.b_row]), widen(x[(m < task.m ? m : 0) * task.a_row + k]),
                          sums[m]);
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (m < task.m) put(task, batch, m, n, sums[m]);
  }
}

constexpr int kTile = 64, kDepth = 16;

template <typename T>
__global__ void __launch_bounds__(256) tiles(const __grid_constant__ ProductTask task) {
  __shared__ float as[kDepth][kTile + 1], bs[kDepth][kTile + 1];
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.y) * kTile,
                     n0 = static_cast<std::int64_t>(blockIdx.x) * kTile, batch = blockIdx.z;
  const T* a = static_cast<const T*>(task.a) + batch * task.a_batch;
  const T* b = static_cast<const T*>(task.b) + batch * task.b_batch;
  const int tid = static_cast<int>(threadIdx.x), tm = tid / 16 * 4, tn = tid % 16 * 4;
  float sums[4][4];
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      const bool inside = m0 + tm + i < task.m && n0 + tn + j < task.n;
      sums[i][j] = inside ? carried(task, batch, m0 + tm + i, n0 + tn + j) : 0.0f;
    }
  }
  for (std::int64_t k0 = 0; k0 < task.k; k0 += kDepth) {
    for (int i = tid; i < kTile * kDepth; i += 256) {
      // Neighbouring threads read neighbouring elements, whichever way the matrix lies.
      const int ma = task.a_col == 1 ? i / kDepth : i % kTile,
                ka = task.a_col == 1 ? i % kDepth : i / kTile;
      as[ka][ma] = m0 + ma < task.m && k0 + ka < task.k
                       ? widen(a[(m0 + ma) * task.a_row + (k0 + ka) * task.a_col])
                       : 0.0f;
      const int nb = task.b_row == 1 ? i / kDepth : i % kTile,
                kb = task.b_row == 1 ? i % kDepth : i / kTile;
      bs[kb][nb] = n0 + nb < task.n && k0 + kb < task.k
                       ? widen(b[(k0 + kb) * task.b_row + (n0 + nb) * task.b_col])
                       : 0.0f;
    }
    __syncthreads();
    const int depth = task.k - k0 < kDepth ? static_cast<int>(task.k - k0) : kDepth;
    for (int k = 0; k < depth; ++k) {
      float left[4], right[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = as[k][tm + i];
#pragma unroll
      for (int j = 0; j < 4; ++j) right[j] = bs[k][tn + j];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = __fmaf_rn(left[i], right[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      if (m0 + tm + i < task.m && n0 + tn + j < task.n)
        put(task, batch, m0 + tm + i, n0 + tn + j, sums[i][j]);
    }
  }
}

template <typename T, template <typename, int> typename Start>
cudaError_t by_rows(const ProductTask& task, cudaStream_t stream) {
  if (task.m <= 1) return Start<T, 1>::run(task, stream);
  if (task.m <= 2) return Start<T, 2>::run(task, stream);
  if (task.m <= 4) return Start<T, 4>::run(task, stream);
  return Start<T, 8>::run(task, stream);
}
template <template <typename, int> typename Start>
cudaError_t by_type(const ProductTask& task, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0 || task.batches == 0) return cudaSuccess;
  switch (task.b_type) {
    case DType::f32:
      return by_rows<float, Start>(task, stream);
    case DType::f16:
      return by_rows<__half, Start>(task, stream);
    case DType::bf16:
      return by_rows<__nv_bfloat16, Start>(task, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename T, int M>
struct StartRowDot {
  static cudaError_t run(const ProductTask& task, cudaStream_t stream) {
    const auto aligned = [](const void* data, std::int64_t step) {
      return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
             step * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
    };
    // The order of additions is the same either way.
    const bool vectors = task.k % 8 == 0 && aligned(task.b, task.k) &&
                         aligned(task.a, task.a_row) && aligned(task.a, task.a_batch) &&
                         aligned(task.b, task.b_batch);
    const dim3 grid(static_cast<unsigned>((task.n + kRowWarps - 1) / kRowWarps),
                    static_cast<unsigned>(task.batches));
    row_dot<T, M><<<grid, kRowWarps * 32, 0, stream>>>(task, vectors);
    return cudaGetLastError();
  }
};
template <typename T, int M>
struct StartAxpy {
  static cudaError_t run(const ProductTask& task, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>((task.n + kColumns - 1) / kColumns),
                    static_cast<unsigned>(task.batches));
    axpy<T, M><<<grid, kColumns, 0, stream>>>(task);
    return cudaGetLastError();
  }
};

template <typename T, int M>
cudaError_t start_slabs(const ProductTask& task, const SlabTable& table, cudaStream_t stream) {
  // Slabs begin at multiples of 64 bytes.
  const bool vectors = task.k % 8 == 0 && reinterpret_cast<std::uintptr_t>(task.a) % 16 == 0 && task.a_row * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
  row_dot_slabs<T, M><<<static_cast<unsigned>((task.n + kRowWarps - 1) / kRowWarps), kRowWarps * 32, 0, stream>>>(task, table, vectors);
  return cudaGetLastError();
}
template <typename T>
cudaError_t slabs_by_rows(const ProductTask& task, const SlabTable& table, cudaStream_t stream) {
  if (task.m <= 1) return start_slabs<T, 1>(task, table, stream);
  if (task.m <= 2) return start_slabs<T, 2>(task, table, stream);
  if (task.m <= 4) return start_slabs<T, 4>(task, table, stream);
  return start_slabs<T, 8>(task, table, stream);
}

template <typename T>
cudaError_t start_tiles(const ProductTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((task.n + kTile - 1) / kTile),
                  static_cast<unsigned>((task.m + kTile - 1) / kTile),
                  static_cast<unsigned>(task.batches));
  tiles<T><<<grid, 256, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_row_dot(const ProductTask& task, cudaStream_t stream) {
  return by_type<StartRowDot>(task, stream);
}
cudaError_t launch_axpy(const ProductTask& task, cudaStream_t stream) {
  return by_type<StartAxpy>(task, stream);
}

cudaError_t launch_tiles(const ProductTask& task, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0 || task.batches == 0) return cudaSuccess;
  switch (task.b_type) {
    case DType::f32:
      return start_tiles<float>(task, stream);
    case DType::f16:
      return start_tiles<__half>(task, stream);
    case DType::bf16:
      return start_tiles<__nv_bfloat16>(task, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t launch_row_dot_slabs(const ProductTask& task, const SlabTable& table, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0) return cudaSuccess;
  switch (task.b_type) {
    case DType::f32: return slabs_by_rows<float>(task, table, stream);
    case DType::f16: return slabs_by_rows<__half>(task, table, stream);
    case DType::bf16: return slabs_by_rows<__nv_bfloat16>(task, table, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace forebay::cuda
