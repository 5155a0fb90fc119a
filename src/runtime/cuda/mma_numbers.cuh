// Tensor-core instructions on 16-bit floats: 16 x 8 x 16 products with f32 sums, and the matrix loads that feed them.
#pragma once

#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

// Four 8 x 8 matrices; lane i gives the row that it names.
__device__ inline void load_matrices(unsigned (&r)[4], const void* at) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ inline void multiply_tile(__half, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply_tile(__nv_bfloat16, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same, each matrix turned.
__device__ inline void load_turned(unsigned (&r)[4], const void* at) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
// kBytes (8 or 16) from global to shared memory, behind what runs; zeros where `from` is null.
template <int kBytes>
__device__ inline void copy_async(void* to, const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = from != nullptr ? kBytes : 0;
  const void* const source = from != nullptr ? from : to;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(bytes));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address), "l"(source), "r"(bytes));
  }
}
__device__ inline void end_copies() {
  asm volatile("cp.async.commit_group;");
}
// All but the last `most` groups have come.
template <int most>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(most));
}

// Blocks of a cluster (sm_90 and up; never asked for below): all of them have come here, and what they wrote to shared memory is seen.
__device__ inline void meet_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
#endif
}
// A value in the shared memory of block `rank`, at the place where `own` lies in this one.
__device__ inline float peer_value(const float* own, int rank) {
  float value = 0;
#if __CUDA_ARCH__ >= 900
  unsigned place;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(place) : "r"(static_cast<unsigned>(__cvta_generic_to_shared(own))), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(place) : "memory");
#endif
  return value;
}
// As four neighbours.
__device__ inline float4 peer_values(const float* own, int rank) {
  float4 values = make_float4(0, 0, 0, 0);
#if __CUDA_ARCH__ >= 900
  unsigned place;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(place) : "r"(static_cast<unsigned>(__cvta_generic_to_shared(own))), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(values.x), "=f"(values.y), "=f"(values.z), "=f"(values.w)
               : "r"(place)
               : "memory");
#endif
  return values;
}

// The sums of rows [first, first + 64) of a block's kTile columns go to `tile`, row by row; warps of kRows x 32, side by side first.
// Nobody may read anything else there any more.
template <int kTile, int kRows>
__device__ inline void stage_sums(const float (&sums)[kRows / 16][4][4], float* tile, int first) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / (kTile / 32) * kRows, column0 = warp % (kTile / 32) * 32;
  if (row0 < first || row0 >= first + 64) return;
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const int row = row0 - first + i * 16 + lane / 4 + e / 2 * 8, column = column0 + j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(tile + row * kTile + column) = make_float2(sums[i][j][e], sums[i][j][e + 1]);
      }
    }
  }
}

// kSize x kSize sums of each of `splits` blocks of a cluster, in `tile`: each block adds up a share of them, in the order of splits, and
// gives (row, column, sum) to `take`.
template <int kSize, int kThreads, typename F>
__device__ inline void join_cluster(const float* tile, int split, int splits, F&& take) {
  meet_cluster();
  const int begin = kSize * kSize / splits * split, end = begin + kSize * kSize / splits;
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
    float sum = 0;
    for (int s = 0; s < splits; ++s) sum += peer_value(tile + i, s);
    take(i / kSize, i % kSize, sum);
  }
  meet_cluster();  // nobody leaves while others read
}

// Launches with the blocks of one z-run of `splits` in a cluster; splits of 1, or on older devices: none.
template <typename Task>
cudaError_t launch_split(void (*kernel)(Task), dim3 grid, int threads, std::size_t bytes, int cluster, const Task& task,
                         cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {1, 1, static_cast<unsigned>(cluster)};
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, task);
}

}  // namespace forebay::cuda
