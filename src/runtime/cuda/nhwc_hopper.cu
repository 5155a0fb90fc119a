// As nhwc_conv.cu on GPUs of compute capability 9.0: the products are warpgroups' (wgmma), which read pixels and filters from shared memory
// by themselves. A warpgroup has 64 pixels and all of a block's filters; while it multiplies one step, the next ones are on their way.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/hopper_products.cuh"
#include "runtime/cuda/nhwc_conv.cuh"

namespace forebay::cuda {
namespace {

constexpr int kDepth = 64;  // a row of 128 bytes, as the products read them
constexpr unsigned kOnePiece = 16;

// Runs of 16 bytes change places within their row, so that eight rows meet different banks.
struct Swizzled {
  __device__ static int at(int row, int part) { return row * kDepth + (part ^ (row & 7)) * 8; }
};

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
    show_copies();
    __syncthreads();  // all have waited for the products of the step before the last, whose place is filled now
    const auto x_tile = static_cast<unsigned>(__cvta_generic_to_shared(stage_of(step)));
    const unsigned rows = x_tile + static_cast<unsigned>(row0 * kDepth * 2), filters = x_tile + kPixels * kDepth * 2;
    fence_products();
#pragma unroll
    for (unsigned k = 0; k < kDepth / 16; ++k) add_product<T, false>(sums, product_matrix(rows + k * 32, kOnePiece), product_matrix(filters + k * 32, kOnePiece));
    commit_products();
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
  return launch_nhwc<kPixels, kFilters>(nhwc_hopper<T, kPixels, kFilters, kStages>, kPixels * 2, kBytes, task, task, stream);
}

template <typename T>
cudaError_t start_tile(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  return tile == NhwcTile::hopper_wide ? start<T, 128, 64, 4>(task, stream) : start<T, 128, 128, 3>(task, stream);
}

}  // namespace

cudaError_t launch_nhwc_hopper(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream) {
  return by_types<__half, __nv_bfloat16>(task.type, [&](auto t) { return start_tile<decltype(t)>(task, tile, stream); });
}

}  // namespace forebay::cuda
