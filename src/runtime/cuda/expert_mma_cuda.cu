// Products of many rows with the matrices of their experts, on tensor cores: the call's pairs are grouped by expert first, then a block
// makes 64 of one expert's rows by 128 columns. A sum's order follows from the shape alone, whoever shares the block.
#include "runtime/cuda/expert_codes.cuh"
#include "runtime/cuda/mma_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr int kRowTile = 64, kColumnTile = 128, kDepth = 32, kPitch = kDepth + 8, kThreads = 256, kStages = 3;
constexpr int kXStage = kRowTile * kPitch, kWStage = kColumnTile * kPitch, kSorters = 1024;
constexpr std::size_t kSharedBytes = kStages * (kXStage + kWStage) * sizeof(unsigned short);

// groups: where each expert's pairs begin among the sorted ones, and their end; then the pairs.
__global__ void __launch_bounds__(kSorters) group_pairs(const __grid_constant__ ExpertTask task) {
  __shared__ int starts[kMostGrouped + 1], next[kMostGrouped];
  const int tid = static_cast<int>(threadIdx.x), experts = static_cast<int>(task.experts), pairs = static_cast<int>(task.pairs);
  for (int e = tid; e < experts; e += kSorters) next[e] = 0;
  __syncthreads();
  const auto own = [&](int pair) { return task.indices[pair] - static_cast<int>(task.first); };
  for (int pair = tid; pair < pairs; pair += kSorters)
    if (own(pair) >= 0 && own(pair) < experts) atomicAdd(&next[own(pair)], 1);
  __syncthreads();
  if (tid == 0) {
    starts[0] = 0;
    for (int e = 0; e < experts; ++e) starts[e + 1] = starts[e] + next[e];
  }
  __syncthreads();
  for (int e = tid; e <= experts; e += kSorters) {
    task.groups[e] = starts[e];
    if (e < experts) next[e] = starts[e];
  }
  __syncthreads();
  for (int pair = tid; pair < pairs; pair += kSorters)
    if (own(pair) >= 0 && own(pair) < experts) task.groups[experts + 1 + atomicAdd(&next[own(pair)], 1)] = pair;
}

// Eight values of a column of the product, from k on, to shared memory.
template <typename T, bool kCodes>
__device__ inline void fetch_weights(const ExpertTask& task, int local, int o, int k, unsigned short* to) {
  const bool inside = o < task.out && k < task.in;
  if constexpr (!kCodes) {
    const T* const from = static_cast<const T*>(task.w) + (static_cast<std::int64_t>(local) * task.out + o) * task.in + k;
    copy_async<16>(to, inside ? from : nullptr);
  } else {
    alignas(16) T values[kEach];
    float wide[kEach] = {};
    if (inside) ExpertCodes(task, local, o).load(task, k, wide);
#pragma unroll
    for (int i = 0; i < kEach; ++i) values[i] = narrow<T>(wide[i]);
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(values);
  }
}

template <typename T, bool kCodes>
__global__ void __launch_bounds__(kThreads) expert_tiles(const __grid_constant__ ExpertTask task) {
  extern __shared__ __align__(16) unsigned short shared[];
  __shared__ int place[3], pairs[kRowTile];  // the expert, its first row of this tile, its end
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32, n0 = static_cast<int>(blockIdx.x) * kColumnTile;
  if (thread == 0) {
    int tile = static_cast<int>(blockIdx.y);
    place[0] = -1;
    for (int e = 0; e < task.experts && place[0] < 0; ++e) {
      const int begin = task.groups[e], end = task.groups[e + 1], tiles = (end - begin + kRowTile - 1) / kRowTile;
      if (tile < tiles) {
        place[0] = e;
        place[1] = begin + tile * kRowTile;
        place[2] = end;
      }
      tile -= tiles;
    }
  }
  __syncthreads();
  if (place[0] < 0) return;
  const int local = place[0], count = min(kRowTile, place[2] - place[1]);
  if (thread < kRowTile) pairs[thread] = thread < count ? task.groups[task.experts + 1 + place[1] + thread] : -1;
  __syncthreads();
  const int steps = static_cast<int>((task.in + kDepth - 1) / kDepth), part = thread % 4 * 8;
  const int pair = pairs[thread / 4];
  const T* const x_row = pair < 0 ? nullptr : static_cast<const T*>(task.x) + pair / task.per_row * task.in;
  unsigned short* const w_tiles = shared + kStages * kXStage;
  const auto fetch = [&](int step) {
    const int stage = step % kStages, k = step * kDepth + part;
    if (step < steps) {
      copy_async<16>(&shared[stage * kXStage + thread / 4 * kPitch + part], x_row != nullptr && k < task.in ? x_row + k : nullptr);
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        const int row = thread / 4 + p * 64;
        fetch_weights<T, kCodes>(task, local, n0 + row, k, &w_tiles[stage * kWStage + row * kPitch + part]);
      }
    }
    end_copies();
  };
  float sums[2][4][4] = {};
  const int row0 = warp / 4 * 32, column0 = warp % 4 * 32;
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  for (int step = 0; step < steps; ++step) {
    await_copies<kStages - 2>();
    __syncthreads();
    fetch(step + kStages - 1);
    const unsigned short* const x_tile = shared + step % kStages * kXStage;
    const unsigned short* const w_tile = w_tiles + step % kStages * kWStage;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      unsigned a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrices(a[i], &x_tile[(row0 + i * 16 + lane % 16) * kPitch + k + lane / 16 * 8]);
        load_matrices(b[i], &w_tile[(column0 + i * 16 + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_tile(T(), sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  await_copies<0>();
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int e = 0; e < 4; ++e) {
        const int row = row0 + i * 16 + lane / 4 + e / 2 * 8, o = n0 + column0 + j * 8 + lane % 4 * 2 + e % 2;
        if (row >= count || o >= task.out) continue;
        const float bias = task.bias != nullptr ? read_number(task.bias_type, task.bias, (task.first + local) * task.out + o) : 0.0f;
        static_cast<T*>(task.y)[pairs[row] * task.out + o] = narrow<T>(sums[i][j][e] + bias);
      }
    }
  }
}

template <typename T>
void start(const ExpertTask& task, cudaStream_t stream) {
  // No expert fills its last tile; which have rows at all is known on the device alone.
  const std::int64_t tiles = task.pairs / kRowTile + (task.experts < task.pairs ? task.experts : task.pairs);
  const dim3 grid(static_cast<unsigned>((task.out + kColumnTile - 1) / kColumnTile), static_cast<unsigned>(tiles));
  if (task.code == DType::none) {
    expert_tiles<T, false><<<grid, kThreads, kSharedBytes, stream>>>(task);
  } else {
    expert_tiles<T, true><<<grid, kThreads, kSharedBytes, stream>>>(task);
  }
}

}  // namespace

cudaError_t launch_grouped_experts(const ExpertTask& task, cudaStream_t stream) {
  if (task.pairs == 0 || task.out == 0 || task.experts == 0) return cudaSuccess;
  group_pairs<<<1, kSorters, 0, stream>>>(task);
  if (task.type == DType::f16) {
    start<__half>(task, stream);
  } else {
    start<__nv_bfloat16>(task, stream);
  }
  return cudaGetLastError();
}

}  // namespace forebay::cuda
