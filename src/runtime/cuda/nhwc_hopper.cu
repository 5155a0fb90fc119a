// As nhwc_conv.cu on GPUs of compute capability 9.0: the products are warpgroups' (wgmma), which read pixels and filters from shared memory
// by themselves. A warpgroup has 64 pixels and all of a block's filters; while it multiplies one step, the next ones are on their way.
#include "runtime/cuda/nhwc_conv.cuh"

namespace forebay::cuda {
namespace {

constexpr int kDepth = 64;  // a row of 128 bytes, as the products read them

// Runs of 16 bytes change places within their row, so that eight rows meet different banks.
struct Swizzled {
  __device__ static int at(int row, int part) { return row * kDepth + (part ^ (row & 7)) * 8; }
};

// A matrix in shared memory, in rows of 128 bytes.
__device__ inline std::uint64_t matrix_at(unsigned address) {
  return static_cast<std::uint64_t>((address & 0x3ffff) >> 4) | std::uint64_t{1} << 16 | static_cast<std::uint64_t>(1024 >> 4) << 32 |
         std::uint64_t{1} << 62;
}
// What was copied to shared memory is seen by the warpgroups' products.
__device__ inline void show_products() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ inline void open_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void close_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int most>
__device__ inline void await_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(most) : "memory");
}

#define FB_FOUR(x, i) "+f"(x[i][0]), "+f"(x[i][1]), "+f"(x[i][2]), "+f"(x[i][3])
#define FB_16(x, i) FB_FOUR(x, i), FB_FOUR(x, i + 1), FB_FOUR(x, i + 2), FB_FOUR(x, i + 3)
#define FB_LIST_32                                                                                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, " \
  "%27, %28, %29, %30, %31"
#define FB_LIST_64                                                                                                                  \
  FB_LIST_32                                                                                                                        \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, " \
  "%57, %58, %59, %60, %61, %62, %63"

// d[64 x 64 or 128] += a * b', 16 columns of both.
#define FB_PRODUCT_128(type)                                                                                                \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" FB_LIST_64 "}, %64, %65, 1, 1, 1, 0, 0;\n" \
               : FB_16(d, 0), FB_16(d, 4), FB_16(d, 8), FB_16(d, 12)                                                        \
               : "l"(a), "l"(b))
#define FB_PRODUCT_64(type)                                                                                                \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" FB_LIST_32 "}, %32, %33, 1, 1, 1, 0, 0;\n" \
               : FB_16(d, 0), FB_16(d, 4)                                                                                  \
               : "l"(a), "l"(b))
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[16][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_PRODUCT_128("f16");
  } else {
    FB_PRODUCT_128("bf16");
  }
}
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[8][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_PRODUCT_64("f16");
  } else {
    FB_PRODUCT_64("bf16");
  }
}

template <typename T, int kPixels, int kFilters, int kStages>
__global__ void __launch_bounds__(kPixels * 2, 2) nhwc_hopper(const __grid_constant__ NhwcConvTask task) {
  constexpr int kThreads = kPixels * 2, kStage = (kPixels + kFilters) * kDepth, kAhead = kStages - 2, kTilePitch = kFilters + 4;
  extern __shared__ __align__(1024) unsigned short shared_bytes[];
  unsigned short* const shared =
      shared_bytes + ((1024 - (static_cast<unsigned>(__cvta_generic_to_shared(shared_bytes)) & 1023)) & 1023) / 2;
  const NhwcPlace place = nhwc_place<kPixels, kFilters, kDepth>(task);
  NhwcFetch<kPixels, kFilters, kThreads, kDepth, 8, Swizzled> fetch(task, place);
  const auto stage_of = [&](int step) { return shared + (step - place.begin) % kStages * kStage; };
  for (int step = place.begin; step < place.begin + kAhead; ++step) fetch.weights(step, stage_of(step));
  after_previous();
  for (int step = place.begin; step < place.begin + kAhead; ++step) {
    fetch.images(step, stage_of(step));
    end_copies();
  }
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row0 = thread / 128 * 64;
  float sums[kFilters / 8][4] = {};
  for (int step = place.begin; step < place.end; ++step) {
    await_copies<kAhead - 1>();
    fetch.template scale<T>(step, stage_of(step));
    show_products();
    __syncthreads();  // all have waited for the products of the step before the last, whose place is filled now
    const auto x_tile = static_cast<unsigned>(__cvta_generic_to_shared(stage_of(step)));
    const unsigned rows = x_tile + static_cast<unsigned>(row0 * kDepth * 2), filters = x_tile + kPixels * kDepth * 2;
    open_products();
#pragma unroll
    for (unsigned k = 0; k < kDepth / 16; ++k) multiply<T>(sums, matrix_at(rows + k * 32), matrix_at(filters + k * 32));
    close_products();
    fetch.weights(step + kAhead, stage_of(step + kAhead));
    fetch.images(step + kAhead, stage_of(step + kAhead));
    end_copies();
    await_products<1>();
  }
  await_products<0>();
  await_copies<0>();
  __syncthreads();
  float* const tile = reinterpret_cast<float*>(shared);
  const int row = row0 + thread % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int j = 0; j < kFilters / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; e += 2)
      *reinterpret_cast<float2*>(tile + (row + e / 2 * 8) * kTilePitch + j * 8 + lane % 4 * 2) = make_float2(sums[j][e], sums[j][e + 1]);
  }
  finish_nhwc<T, kPixels, kFilters, kThreads>(task, place, tile);
}

template <typename T, int kPixels, int kFilters, int kStages>
cudaError_t start(const NhwcConvTask& task, cudaStream_t stream) {
  constexpr int kBytes = kStages * (kPixels + kFilters) * kDepth * 2 + 1024;
  static_assert(kBytes >= kPixels * (kFilters + 4) * static_cast<int>(sizeof(float)) + 1024);
  return launch_nhwc<kPixels, kFilters>(nhwc_hopper<T, kPixels, kFilters, kStages>, kPixels * 2, kBytes, task, stream);
}

template <typename T>
cudaError_t start_tile(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  return tile == NhwcTile::hopper_wide ? start<T, 128, 64, 4>(task, stream) : start<T, 128, 128, 3>(task, stream);
}

}  // namespace

cudaError_t launch_nhwc_hopper(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  switch (task.type) {
    case DType::f16:
      return start_tile<__half>(task, tile, stream);
    case DType::bf16:
      return start_tile<__nv_bfloat16>(task, tile, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace forebay::cuda
