#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/expert_codes.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32, kWarps = kThreads / kWarp;
constexpr unsigned kAll = 0xffffffffu;
constexpr int kRows = 8;  // pairs that share a reading of a matrix

// Smaller for larger scores, then for earlier experts; not-a-numbers last.
__device__ inline std::uint64_t route_key(float score, int expert) {
  const std::uint32_t bits = __float_as_uint(score == 0.0f ? 0.0f : score);
  const std::uint32_t order = score != score ? 0u : (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<std::uint64_t>(~order) << 32 | static_cast<std::uint32_t>(expert);
}

// A warp a row.
__global__ void __launch_bounds__(kThreads) route(const __grid_constant__ RouteTask task) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, experts = static_cast<int>(task.experts);
  const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp, base = row * task.experts;
  if (row >= task.rows) return;
  std::int32_t* const chosen = task.chosen + row * task.k;
  float* const weights = task.weights + row * task.k;
  std::uint64_t last = 0;
  float most = 0, all = 0, sum = 0;
  for (std::int64_t j = 0; j < task.k; ++j) {
    std::uint64_t best = ~std::uint64_t{0};
    for (int e = lane; e < experts; e += kWarp) {
      const std::uint64_t key = route_key(read_number(task.type, task.scores, base + e), e);
      if ((j == 0 || key > last) && key < best) best = key;
    }
    for (int step = kWarp / 2; step > 0; step /= 2) {
      const std::uint64_t other = __shfl_xor_sync(kAll, best, step);
      best = other < best ? other : best;
    }
    last = best;
    const auto expert = static_cast<std::int32_t>(best & 0xffffffffu);
    const float score = read_number(task.type, task.scores, base + expert);
    if (j == 0) {
      most = score;
      for (int e = lane; task.given == nullptr && e < experts; e += kWarp)
        all += expf(read_number(task.type, task.scores, base + e) - most);
      for (int step = kWarp / 2; step > 0; step /= 2) all += __shfl_xor_sync(kAll, all, step);
    }
    const float weight = task.given != nullptr ? read_number(task.given_type, task.given, base + expert) : expf(score - most) / all;
    sum += weight;
    if (lane == 0) {
      chosen[j] = expert;
      weights[j] = weight;
    }
  }
  __syncwarp();
  for (std::int64_t j = lane; task.normalize && j < task.k; j += kWarp) weights[j] /= sum;
}

// Eight values from `from` on, zeros behind the last `left`.
template <typename T>
__device__ inline void load_values(const T* from, std::int64_t left, bool aligned, float (&to)[kEach]) {
  if (aligned && left >= kEach) {
    alignas(16) T own[kEach];
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof own / 16); ++i) reinterpret_cast<uint4*>(own)[i] = reinterpret_cast<const uint4*>(from)[i];
#pragma unroll
    for (int i = 0; i < kEach; ++i) to[i] = widen(own[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) to[i] = i < left ? widen(from[i]) : 0.0f;
}

// A row of an expert's matrix.
template <typename T>
struct Values {
  const T* row;
  __device__ Values(const ExpertTask& task, std::int64_t local, std::int64_t o)
      : row(static_cast<const T*>(task.w) + (local * task.out + o) * task.in) {}
  __device__ void load(const ExpertTask& task, std::int64_t k, float (&to)[kEach]) const {
    load_values(row + k, task.in - k, task.in % kEach == 0, to);
  }
};
template <typename T, typename W>
__device__ inline void multiply_pairs(const ExpertTask& task, const W& weights, std::int64_t o, std::int64_t expert, const int* pairs,
                                      int count, int lane) {
  const T* rows[kRows];
#pragma unroll
  for (int m = 0; m < kRows; ++m) rows[m] = static_cast<const T*>(task.x) + pairs[m < count ? m : 0] / task.per_row * task.in;
  float sums[kRows] = {};
  for (std::int64_t k = lane * kEach; k < task.in; k += kWarp * kEach) {
    float w[kEach];
    weights.load(task, k, w);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (m >= count) break;
      float x[kEach];
      load_values(rows[m] + k, task.in - k, task.in % kEach == 0, x);
#pragma unroll
      for (int i = 0; i < kEach; ++i) sums[m] = fmaf(w[i], x[i], sums[m]);
    }
  }
  const float bias = task.bias != nullptr ? read_number(task.bias_type, task.bias, expert * task.out + o) : 0.0f;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    for (int step = kWarp / 2; step > 0; step /= 2) sums[m] += __shfl_xor_sync(kAll, sums[m], step);
    if (lane == 0 && m < count) static_cast<T*>(task.y)[static_cast<std::int64_t>(pairs[m]) * task.out + o] = narrow<T>(sums[m] + bias);
  }
}

// A warp an output of an expert, for its pairs, some at a time. The order of a sum depends on `in` alone.
template <typename T, typename W>
__global__ void __launch_bounds__(kThreads) expert_product(const __grid_constant__ ExpertTask task) {
  __shared__ int mine[kWarps][kRows];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp, local = blockIdx.y, expert = task.first + local;
  if (o >= task.out) return;
  const W weights(task, local, o);
  int held = 0;
  for (std::int64_t base = 0; base < task.pairs; base += kWarp) {
    const bool own = base + lane < task.pairs && task.indices[base + lane] == expert;
    for (unsigned left = __ballot_sync(kAll, own); left != 0; left &= left - 1) {
      if (lane == 0) mine[warp][held] = static_cast<int>(base) + __ffs(static_cast<int>(left)) - 1;
      if (++held < kRows) continue;
      __syncwarp();
      multiply_pairs<T>(task, weights, o, expert, mine[warp], held, lane);
      __syncwarp();
      held = 0;
    }
  }
  __syncwarp();
  if (held > 0) multiply_pairs<T>(task, weights, o, expert, mine[warp], held, lane);
}

__global__ void __launch_bounds__(kThreads) swiglu(const __grid_constant__ SwiGluTask task) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < task.count; i += step) {
    const std::int64_t row = i / task.width * 2 * task.width, at = i % task.width;
    const std::int64_t first = task.form == 0   ? i
                               : task.form == 1 ? row + 2 * at
                                                : row + at,
                       second = task.form == 0   ? i
                                : task.form == 1 ? row + 2 * at + 1
                                                 : row + task.width + at;
    const float given = read_number(task.type, task.x, first), gate = given > task.limit ? task.limit : given;
    float linear = read_number(task.type, task.form == 0 ? task.second : task.x, second);
    linear = linear < -task.limit ? -task.limit : linear > task.limit ? task.limit : linear;
    write_number(task.type, task.y, i, gate / (1.0f + expf(-task.alpha * gate)) * (linear + task.beta));
  }
}

__global__ void __launch_bounds__(kThreads) combine(const __grid_constant__ CombineTask task) {
  const std::int64_t total = task.rows * task.out, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const std::int64_t row = i / task.out, o = i % task.out;
    float sum = 0;
    for (std::int64_t j = 0; j < task.k; ++j)
      sum += read_number(task.weight_type, task.weights, row * task.k + j) *
             read_number(task.y_type, task.y, (row * task.k + j) * task.out + o);
    write_number(task.sum_type, task.sum, i, sum);
  }
}

template <typename T>
cudaError_t start_product(const ExpertTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((task.out + kWarps - 1) / kWarps), static_cast<unsigned>(task.experts));
  if (task.code == DType::none) {
    expert_product<T, Values<T>><<<grid, kThreads, 0, stream>>>(task);
  } else {
    expert_product<T, ExpertCodes><<<grid, kThreads, 0, stream>>>(task);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_expert_route(const RouteTask& task, cudaStream_t stream) {
  if (task.rows == 0) return cudaSuccess;
  route<<<static_cast<unsigned>((task.rows + kWarps - 1) / kWarps), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}
cudaError_t launch_expert_linear(const ExpertTask& task, cudaStream_t stream) {
  if (task.pairs == 0 || task.out == 0 || task.experts == 0) return cudaSuccess;
  return by_float(task.type, [&](auto t) { return start_product<decltype(t)>(task, stream); });
}
cudaError_t launch_swiglu(const SwiGluTask& task, cudaStream_t stream) {
  if (task.count == 0) return cudaSuccess;
  swiglu<<<blocks_for(task.count, kThreads), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}
cudaError_t launch_expert_combine(const CombineTask& task, cudaStream_t stream) {
  if (task.rows * task.out == 0) return cudaSuccess;
  combine<<<blocks_for(task.rows * task.out, kThreads), kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
