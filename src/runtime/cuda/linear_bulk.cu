// Linear on GPUs of compute capability 9.0 where the tensor copy engine can fetch tiles: one thread asks for them, by maps that say how x
// and each slab of W lie, and warpgroups multiply 64 rows each by all of the block's columns. Blocks stay for tile after tile: the next
// one's operands come while this one is written. A sum takes its products 16 at a time in order of depth, as in linear_hopper.cu: the same
// bits.
#include <algorithm>

#include "runtime/cuda/linear_tiles.cuh"

namespace forebay::cuda {
namespace {

// Each warpgroup but the last warp multiplies 64 rows by kWide columns.
template <typename T, int rows, int wide, int stages>
struct BulkForm {
  using Type = T;
  static constexpr int kRows = rows, kWide = wide, kStages = stages, kComputing = rows * 2, kThreads = kComputing + 32, kPair = 1;
  static constexpr int kXBytes = kRows * kStepBytes, kStageBytes = kXBytes + wide * kStepBytes;
  static constexpr int kBytes = stages * kStageBytes + 1024;
  static_assert(wide % 64 == 0 && kRows <= 256);
};

template <typename Form, bool kTurned>
__device__ __forceinline__ void fetch_all(const BulkGroup& group, Ring<Form> ring, int tiles) {
  const int each = static_cast<int>(gridDim.x);
  int index = static_cast<int>(blockIdx.x);
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&group.x) : "memory");
  bool waited = !group.tasks[0].constant;
  if (waited) after_previous();
  for (; index < tiles; index += each) {
    const BulkTile<Form> tile(group, index);
    const BulkTask& task = group.tasks[tile.member];
    WeightFetcher<Form, kTurned> w(group, task, tile);
    const int bytes = Form::kXBytes + w.bytes();
    int ahead = tile.from;  // depth whose W is on its way before x may be
    if (!waited) {
      ahead = fetch_ahead(ring, w, task, tile, bytes);
      after_previous();
      waited = true;
    }
#pragma unroll 1
    for (int k = tile.from, deep = 0; k < tile.to; k += deep, ring.next()) {
      deep = step_at<kTurned>(task, k, tile.to);
      if (k >= ahead) {
        await_turn(ring.freed(), ring.turn - 1);  // the first time around: passes at once
        expect_bytes(ring.filled(), bytes);
        w.fetch(ring, k, deep);
      }
      fetch_box(ring.x(), &group.x, k, tile.m0, ring.filled());
    }
  }
  if (!waited) after_previous();
}

// ---- the multiplying warpgroups ----

template <typename Form>
using BulkSums = float[Form::kWide / 8][4];

template <typename Form, bool kTurned>
__device__ __forceinline__ void multiply_16(BulkSums<Form>& sums, unsigned x, unsigned w, int k) {
  const std::uint64_t b =
      kTurned ? product_matrix(w + static_cast<unsigned>(k * 128), kStep * 128) : product_matrix(w + static_cast<unsigned>(k * 2), 16);
  add_product<typename Form::Type, kTurned>(sums, product_matrix(x + static_cast<unsigned>(k * 2), 16), b);
}

template <typename Form>
__device__ __forceinline__ void release(const Ring<Form>& ring) {
  if (threadIdx.x % 32 == 0) arrive_at(ring.freed());
}

template <typename Form, bool kTurned>
__device__ __forceinline__ void multiply_tile_steps(Ring<Form>& ring, int depth, unsigned own, BulkSums<Form>& sums) {
  const int whole = depth / kStep;
  Ring<Form> before = ring;
#pragma unroll 1
  for (int step = 0; step < whole; ++step) {
    await_turn(ring.filled(), ring.turn);
    fence_products();
#pragma unroll
    for (int k = 0; k < kStep; k += 16) multiply_16<Form, kTurned>(sums, ring.x() + own, ring.w(), k);
    commit_products();
    await_products<1>();
    if (step > 0) {
      release(before);
      before.next();
    }
    ring.next();
  }
  await_products<0>();
  if (whole > 0) release(before);
  if (whole * kStep == depth) return;
  // No products with what lies behind the end: adding zeros would change the sign of a zero.
  await_turn(ring.filled(), ring.turn);
#pragma unroll 1
  for (int k = 0; k < depth - whole * kStep; k += 16) {
    fence_products();
    multiply_16<Form, kTurned>(sums, ring.x() + own, ring.w(), k);
    commit_products();
    await_products<0>();
  }
  release(ring);
  ring.next();
}

// The bias of a tile's columns, on its way while they are multiplied.
template <typename Form>
__device__ __forceinline__ void stage_bias(const BulkTask& task, int n0, float* bias) {
  using T = typename Form::Type;
  for (int i = static_cast<int>(threadIdx.x); i < Form::kWide; i += Form::kComputing)
    bias[i] = task.bias != nullptr && n0 + i < task.columns ? widen(static_cast<const T*>(task.bias)[task.first + n0 + i]) : 0.0f;
  meet_some(1, Form::kComputing);
}

template <typename Form, Finish kFinish>
__device__ __forceinline__ void write_tile(const BulkTask& task, int row0, int n0, const float* bias, const BulkSums<Form>& sums) {
  using T = typename Form::Type;
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32, quad = lane % 4;
  const int row = row0 + thread / 32 * 16 + lane / 4, rows = held(task.rows - row), columns = held(task.columns - n0 - quad * 8);
  T* const to = held(static_cast<T*>(task.y) + static_cast<std::int64_t>(row) * task.all_columns + task.first + n0 + quad * 8);
  const std::int64_t eight_rows = held(std::int64_t{8} * task.all_columns);
#pragma unroll
  for (int j = 0; j < Form::kWide / 8; j += 4) {
    float2 more[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) more[i] = *reinterpret_cast<const float2*>(bias + (j + i) * 8 + quad * 2);
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      unsigned words[4];
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const float *const a = sums[j + i] + e, *const b = sums[j + i + 1] + e;
        const float4 x = make_float4(a[0] + more[i].x, a[1] + more[i].y, b[0] + more[i + 1].x, b[1] + more[i + 1].y);
        const float4 y = activate_four<kFinish>(task, x);
        words[i] = pair_word<T>(y.x, y.y);
        words[i + 1] = pair_word<T>(y.z, y.w);
      }
      const uint4 run = gather_run(words[0], words[1], words[2], words[3]);
      if (e / 2 * 8 < rows && j * 8 < columns) *reinterpret_cast<uint4*>(to + e / 2 * eight_rows + j * 8) = run;
    }
  }
}
template <typename Form>
__device__ __forceinline__ void write_tile(const BulkTask& task, int row0, int n0, const float* bias, const BulkSums<Form>& sums) {
  if (task.activation == Activation::none) {
    write_tile<Form, Finish::plain>(task, row0, n0, bias, sums);
  } else if (task.activation == Activation::gelu) {
    write_tile<Form, Finish::gelu>(task, row0, n0, bias, sums);
  } else if (task.activation == Activation::swish) {
    write_tile<Form, Finish::swish>(task, row0, n0, bias, sums);
  } else {
    write_tile<Form, Finish::other>(task, row0, n0, bias, sums);
  }
}

// The sums of a cluster's splits, added in their order. Each block finishes a share: of two, the even or the odd runs of 8 rows; of four,
// of half of the columns each. They lie as threads hold them, so that a warp reads what a warp has written, all of it at once.
template <typename Form, int kSplits>
__device__ __forceinline__ void join_splits(const BulkTask& task, const BulkTile<Form>& tile, float4* memory, const float* bias,
                                            const BulkSums<Form>& sums) {
  using T = typename Form::Type;
  constexpr int kAcross = kSplits / 2, kPairs = Form::kWide / 16 / kAcross;  // of runs of 8 columns, of a share
  static_assert(kSplits * kPairs * Form::kComputing * 16 < Form::kBytes - 1024 && kPairs % 2 == 0);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, quad = lane % 4, split = static_cast<int>(blockIdx.z);
  meet_some(1, Form::kComputing);  // nobody multiplies what lies there any more
#pragma unroll
  for (int i = 0; i < kAcross * kPairs; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float *const a = sums[i * 2] + e * 2, *const b = sums[i * 2 + 1] + e * 2;
      memory[((i / kPairs * 2 + e) * kPairs + i % kPairs) * Form::kComputing + thread] = make_float4(a[0], a[1], b[0], b[1]);
    }
  }
  meet_cluster();
  const int row = tile.m0 + thread / 32 * 16 + lane / 4 + split % 2 * 8, first = split / 2 * (Form::kWide / kAcross);
  const int columns = held(row < task.rows ? task.columns - tile.n0 - first - quad * 8 : 0);
  const Activation activation = static_cast<Activation>(held(static_cast<int>(task.activation)));
  T* const to = held(static_cast<T*>(task.y) + static_cast<std::int64_t>(row) * task.all_columns + task.first + tile.n0 + first + quad * 8);
  const float* const from = reinterpret_cast<const float*>(memory + split * kPairs * Form::kComputing + thread);
#pragma unroll
  for (int p = 0; p < kPairs; p += 2) {
    float4 more[2][kSplits];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int s = 0; s < kSplits; ++s) more[i][s] = peer_values(from + (p + i) * Form::kComputing * 4, s);
    }
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float4 x = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int s = 0; s < kSplits; ++s) x = make_float4(x.x + more[i][s].x, x.y + more[i][s].y, x.z + more[i][s].z, x.w + more[i][s].w);
      const float* const at = bias + first + (p + i) * 16 + quad * 2;
      x = make_float4(x.x + at[0], x.y + at[1], x.z + at[8], x.w + at[9]);
      if (activation == Activation::gelu) {
        x = activate_four<Finish::gelu>(task, x);
      } else if (activation == Activation::swish) {
        x = activate_four<Finish::swish>(task, x);
      } else if (activation != Activation::none) {
        x = activate_four<Finish::other>(task, x);
      }
      words[i * 2] = pair_word<T>(x.x, x.y);
      words[i * 2 + 1] = pair_word<T>(x.z, x.w);
    }
    const uint4 run = gather_run(words[0], words[1], words[2], words[3]);
    if (p * 16 < columns) *reinterpret_cast<uint4*>(to + p * 16) = run;
  }
}

template <typename Form, bool kTurned>
__device__ __forceinline__ void compute_all(const BulkGroup& group, Ring<Form> ring, int tiles, float4* memory,
                                            float (*bias)[Form::kWide]) {
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const unsigned own = static_cast<unsigned>(warpgroup * 64 * kStepBytes);
  float(*const first_bias)[Form::kWide] = bias;
  after_previous();
#pragma unroll 1
  for (int index = static_cast<int>(blockIdx.x); index < tiles; index += static_cast<int>(gridDim.x)) {
    const BulkTile<Form> tile(group, index);
    const BulkTask& task = group.tasks[tile.member];
    bias = bias == first_bias ? first_bias + 1 : first_bias;  // the last tile's may still be read
    stage_bias<Form>(task, tile.n0, *bias);
    BulkSums<Form> sums = {};
    for (int k = tile.from, run = 0; k < tile.to; k += run) {
      run = run_at<kTurned>(task, k, tile.to);
      multiply_tile_steps<Form, kTurned>(ring, run, own, sums);
    }
    if (task.splits == 2) return join_splits<Form, 2>(task, tile, memory, *bias, sums);
    if (task.splits == 4) return join_splits<Form, 4>(task, tile, memory, *bias, sums);
    write_tile<Form>(task, tile.m0 + warpgroup * 64, tile.n0, *bias, sums);
  }
}

template <typename Form, bool kTurned>
__global__ void __launch_bounds__(Form::kThreads, 1) linear_bulk(const __grid_constant__ BulkGroup group) {
  extern __shared__ uint4 memory[];
  __shared__ std::uint64_t barriers[2 * Form::kStages];
  __shared__ alignas(16) float bias[2][Form::kWide];
  Ring<Form> ring;
  ring.tiles = (shared_place(memory) + 1023) / 1024 * 1024;
  ring.full = shared_place(barriers);
  ring.empty = ring.full + Form::kStages * 8;
  const int splits = group.tasks[0].splits;
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < Form::kStages; ++i) {
      begin_barrier(ring.full + i * 8, 1);
      begin_barrier(ring.empty + i * 8, Form::kComputing / 32);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  __syncthreads();
  const int tiles = group.ends[group.count - 1];
  if (threadIdx.x >= Form::kComputing) {
    if (threadIdx.x == Form::kComputing) fetch_all<Form, kTurned>(group, ring, tiles);
    __syncwarp();
    if (splits > 1) meet_cluster();
  } else {
    compute_all<Form, kTurned>(group, ring, tiles,
                               reinterpret_cast<float4*>(reinterpret_cast<char*>(memory) + (ring.tiles - shared_place(memory))), bias);
    __syncwarp();
  }
  if (splits > 1) {  // nobody leaves while others read
    greet_cluster();
    await_cluster();
  }
}

template <typename Form, bool kTurned>
cudaError_t start_bulk(BulkGroup& group, int multiprocessors, cudaStream_t stream) {
  const int tiles = count_tiles<Form>(group);
  const int at_once = group.tasks[0].splits > 1 ? tiles : std::min(tiles, multiprocessors);
  return launch_linear(linear_bulk<Form, kTurned>, at_once, Form::kThreads, Form::kBytes, group, stream);
}

template <typename T, LinearTile tile, int stages>
cudaError_t start_tile(BulkGroup& group, bool turned, int multiprocessors, cudaStream_t stream) {
  constexpr LinearShape kShape = linear_shape(tile);
  using Form = BulkForm<T, kShape.rows, kShape.columns, stages>;
  return turned ? start_bulk<Form, true>(group, multiprocessors, stream) : start_bulk<Form, false>(group, multiprocessors, stream);
}

template <typename T>
cudaError_t start_form(BulkGroup& group, bool turned, LinearTile tile, int multiprocessors, cudaStream_t stream) {
  switch (tile) {
    case LinearTile::t128x128:
      return start_tile<T, LinearTile::t128x128, 6>(group, turned, multiprocessors, stream);
    case LinearTile::t128x192:
      return start_tile<T, LinearTile::t128x192, 5>(group, turned, multiprocessors, stream);
    case LinearTile::t192x192:
      return start_tile<T, LinearTile::t192x192, 4>(group, turned, multiprocessors, stream);
    case LinearTile::t128x256:
      return start_tile<T, LinearTile::t128x256, 4>(group, turned, multiprocessors, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_linear_bulk(BulkGroup& group, DType type, bool turned, LinearTile tile, cudaStream_t stream) {
  if (group.tasks[0].rows == 0) return cudaSuccess;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  if (linear_shape(tile).pair) return launch_linear_pairs(group, type, turned, tile, multiprocessors, stream);
  return type == DType::f16 ? start_form<__half>(group, turned, tile, multiprocessors, stream)
                            : start_form<__nv_bfloat16>(group, turned, tile, multiprocessors, stream);
}

}  // namespace forebay::cuda
