// The kernel of one-row products by large packed [n,k] weights: the sums of packed_row_dot.cu in the same order, the same bits.
//
// As in row_stream_cuda.cu a block a multiprocessor takes what it reads through rings of bulk copies, here two rows a warp, so that an
// element of A is brought once for both. How values are made is the template's parameter, a Maker: whatever is one thing for the whole
// matrix (code, type, zero points), asked element by element, took more than the arithmetic. Scales and zero points that do not lie at
// multiples of 16 bytes are copied in words of 4 by all lanes.
#pragma once

#include <algorithm>
#include <type_traits>

#include "runtime/cuda/hopper_products.cuh"
#include "runtime/cuda/norm_parts.cuh"
#include "runtime/cuda/packed_group.h"
#include "runtime/cuda/row_parts.cuh"

namespace forebay::cuda {

// A stage is some columns of two rows: enough that its barriers and copies cost little beside it.
template <typename Maker>
struct PackedRing {
  static constexpr int kBlocks = kPackedColumns / kLeastPackedBlock, kSpare = 16;
  static constexpr int kCodeBytes = kPackedColumns * Maker::kBits / 8;
  static constexpr int kScalesAt = kCodeBytes, kZerosAt = kScalesAt + kBlocks * Maker::kScaleBits / 8 + kSpare;
  static constexpr int kSkipsAt = kZerosAt + kBlocks * Maker::kZeroBits / 8 + kSpare;
  static constexpr int kRowBytes = kSkipsAt + 16, kStageBytes = kPackedRows * kRowBytes;
  static constexpr int kMostStages = Maker::kBits == 4 ? 3 : 2;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900  // bulk copies
__device__ inline void copy_bulk(unsigned to, const std::byte* from, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}
// The words that hold so many bytes, every 16th from `first` on. A word with a byte of a tensor is readable: tensors begin at multiples
// of 64.
__device__ inline void copy_words(unsigned to, const std::byte* from, int bytes, int first) {
  const auto skip = static_cast<int>(reinterpret_cast<std::uintptr_t>(from) % 4);
  for (int at = first * 4; at < skip + bytes; at += 16 * 4)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to + static_cast<unsigned>(at)), "l"(from - skip + at) : "memory");
}

// A pair of rows, by its number among those of all members.
struct PackedPair {
  int member = 0, row;
  __device__ inline PackedPair(const PackedStream& work, int pair) {
    while (member + 1 < work.count && pair >= work.members[member].end) ++member;
    row = (member > 0 ? pair - work.members[member - 1].end : pair) * kPackedRows;
  }
};

// A lane's row of each pair that its warp takes, stage by stage; the last row once more behind it.
template <typename Maker>
struct PackedSource {
  using Place = PackedRing<Maker>;
  const PackedStream& work;
  const int lane, k, pairs;
  int pair, at = 0;
  unsigned row_scale = 0;
  const std::byte *codes = nullptr, *scales = nullptr, *zeros = nullptr;
  __device__ inline PackedSource(const PackedStream& w, int first, int l)
      : work(w), lane(l), k(static_cast<int>(w.members[0].task.k)), pairs(w.members[w.count - 1].end), pair(first) {
    find();
  }
  __device__ inline void find() {
    if (pair >= pairs) {
      codes = nullptr;
      return;
    }
    const PackedPair place(work, pair);
    const PackedMember& member = work.members[place.member];
    const int here = min(place.row + lane % kPackedRows, static_cast<int>(member.task.n) - 1), whole = member.first_row + here;
    const int slab = member.slabs == 1 ? 0 : here / member.slab_rows, own = here - slab * member.slab_rows, table = member.slab + slab;
    codes = static_cast<const std::byte*>(work.codes[table]) + std::int64_t{own} * member.code_row;
    scales = static_cast<const std::byte*>(work.scales[table]) + std::int64_t{member.scale_cut ? own : whole} * member.scale_row;
    if (Maker::kZeros)
      zeros = static_cast<const std::byte*>(work.zeros[table]) + std::int64_t{member.zero_cut ? own : whole} * member.zero_row;
    if (work.row_scales)
      row_scale = work.scale_bits == 32 ? *reinterpret_cast<const unsigned*>(scales) : *reinterpret_cast<const unsigned short*>(scales);
  }
  // All lanes; `to` is the place of this lane's row.
  __device__ inline void ask(std::byte* to, unsigned barrier) {
    if (codes == nullptr) return;
    const PackedStage& part = k - at > kPackedColumns ? work.whole : work.last;
    const unsigned place = shared_place(to);
    if (lane < kPackedRows) {
      if (work.pieces)
        *reinterpret_cast<unsigned*>(to + Place::kSkipsAt) =
            static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(scales) % 4 | reinterpret_cast<std::uintptr_t>(zeros) % 4 << 8);
      if (work.row_scales) *reinterpret_cast<unsigned*>(to + Place::kScalesAt) = row_scale;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                   "r"(work.pieces ? part.codes : part.codes + part.scales + part.zeros)
                   : "memory");
      copy_bulk(place, codes, part.codes, barrier);
      if (!work.pieces) {
        if (part.scales > 0) copy_bulk(place + Place::kScalesAt, scales, part.scales, barrier);
        if (Maker::kZeros) copy_bulk(place + Place::kZerosAt, zeros, part.zeros, barrier);
      }
    }
    if (work.pieces) {
      copy_words(place + Place::kScalesAt, scales, part.scales, lane / kPackedRows);
      if (Maker::kZeros) copy_words(place + Place::kZerosAt, zeros, part.zeros, lane / kPackedRows);
      arrive_behind_copies(barrier);
    }
    codes += part.codes;
    scales += part.scales;
    zeros += part.zeros;
    at += kPackedColumns;
    if (at < k) return;
    at = 0;
    pair += static_cast<int>(gridDim.x) * kPackedWarps;
    find();
  }
};

// A as the warps read it, eight neighbours at a time: widened where that is worth its room, else as it is.
template <typename Maker>
struct PackedX {
  std::byte* memory;
  __device__ inline void put(int run, const float (&v)[8]) const {
    if constexpr (Maker::kWideX) {
      auto* const to = reinterpret_cast<float4*>(memory) + run / 32 * 64 + run % 32;  // no bank is asked twice
      to[0] = make_float4(v[0], v[1], v[2], v[3]);
      to[32] = make_float4(v[4], v[5], v[6], v[7]);
    } else {
      write_run<typename Maker::T>(memory, run * 8, 8, true, v);
    }
  }
  // Lane's run of the 32 that begin at column `at`, a multiple of 256; others lie `u` * 32 behind.
  __device__ inline const uint4* place(int at, int lane) const {
    return reinterpret_cast<const uint4*>(memory) + at / (Maker::kWideX ? 4 : 8) + lane;
  }
  __device__ static inline void get(const uint4* place, int u, float (&v)[8]) {
    if constexpr (Maker::kWideX) {
      const float4 low = reinterpret_cast<const float4*>(place)[u * 64], high = reinterpret_cast<const float4*>(place)[u * 64 + 32];
      v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
      v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
      read_run<typename Maker::T>(place + u * 32, 0, 8, true, v);
    }
  }
};

template <typename T>
__device__ inline void norm_to(const NormTask& task, const auto& x) {
  constexpr int kRuns = 2;  // of a thread, in registers
  static_assert(kPackedWarps * 32 == kMostNormThreads);
  float scales[kRuns][kNormRun];
  if (task.constant_scale) read_scales<T>(task, true, scales);
  after_previous();
  if (!task.constant_scale) read_scales<T>(task, true, scales);
  norm_row<T, T>(task, true, 0, scales, [&](std::int64_t at, const float(&sum)[kNormRun], const float(&y)[kNormRun]) {
    float rounded[kNormRun];
#pragma unroll
    for (int i = 0; i < kNormRun; ++i) rounded[i] = widen(narrow<T>(y[i]));
    x.put(static_cast<int>(at) / 8, rounded);
    if (blockIdx.x > 0) return;
    if (task.sum != nullptr) write_run<T>(task.sum, at, kNormRun, true, sum);
    write_run<T>(task.y, at, kNormRun, true, y);
  });
}
template <typename T>
__device__ inline void bring_to(const ProductTask& task, const auto& x) {
  const int runs = static_cast<int>(task.k) / 8;
  for (int i = static_cast<int>(threadIdx.x); i < runs; i += kPackedWarps * 32) {
    float v[8];
    read_run<T>(task.a, std::int64_t{i} * 8, 8, true, v);
    x.put(i, v);
  }
}

// Sums of a warp's pair over one stage, `columns` of it.
template <typename Maker, bool kWhole>
__device__ inline void add_stage(const PackedStream& work, const std::byte* stage, const uint4* x, int columns, int lane,
                                 float (&sums)[kPackedRows][8]) {
  using Place = PackedRing<Maker>;
  const int step = 256 >> work.shift;
  const std::byte *scales[kPackedRows], *zeros[kPackedRows];
#pragma unroll
  for (int r = 0; r < kPackedRows; ++r) {
    const std::byte* const own = stage + r * Place::kRowBytes;
    const unsigned skips = work.pieces ? *reinterpret_cast<const unsigned*>(own + Place::kSkipsAt) : 0;
    scales[r] = own + Place::kScalesAt + (skips & 255u);
    zeros[r] = own + Place::kZerosAt + (skips >> 8);
  }
  int block = (lane * 8) >> work.shift;
#pragma unroll
  for (int u = 0; u < kPackedColumns / 256; ++u, block += step) {
    if (!kWhole && u * 256 + lane * 8 >= columns) break;
    float values[8];
    PackedX<Maker>::get(x, u, values);
#pragma unroll
    for (int r = 0; r < kPackedRows; ++r) {
      float w[8];
      Maker::values(work, stage + r * Place::kRowBytes, u * 32 + lane, scales[r], zeros[r], block, w);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[r][i] = __fmaf_rn(w[i], values[i], sums[r][i]);
    }
  }
}

// The trees of a pair; a lane finishes each.
__device__ inline void finish_pair(const ProductTask& task, const float (&sums)[kPackedRows][8], int row, int lane) {
  float own = 0;
#pragma unroll
  for (int r = 0; r < kPackedRows; ++r) {
    const float sum = __shfl_sync(0xffffffffu, row_sum(sums[r]), 0);
    if (lane == r) own = sum;
  }
  if (lane < kPackedRows && row + lane < task.n) put(task, 0, 0, row + lane, own);
}
#endif

template <typename Maker>
__global__ void __launch_bounds__(kPackedWarps * 32, 1) packed_stream(const __grid_constant__ PackedStream work) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte memory[];
  using Place = PackedRing<Maker>;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, stages = work.stages;
  std::byte* const place = memory + warp * stages * Place::kStageBytes;
  std::byte* const own = place + lane % kPackedRows * Place::kRowBytes;
  std::byte* const behind = memory + kPackedWarps * stages * Place::kStageBytes;
  const unsigned barriers = shared_place(behind) + static_cast<unsigned>(warp * stages) * 8;
  const PackedX<Maker> x{behind + kPackedWarps * stages * 8};
  const int first = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x) * kPackedWarps;
  const ProductTask& task = work.members[0].task;
  if (!task.constant_b) after_previous();
  PackedSource<Maker> source(work, first, lane);
  if (lane == 0) {
#pragma unroll 1
    for (int s = 0; s < stages; ++s) begin_barrier(barriers + s * 8, work.pieces ? kPackedRows + 32 : kPackedRows);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    show_copies();
  }
  __syncwarp();
  for (int s = 0; s < stages; ++s) source.ask(own + s * Place::kStageBytes, barriers + s * 8);
  if (work.normed) {
    if constexpr (Maker::kNorms) norm_to<typename Maker::T>(work.norm, x);
  } else {
    if (task.constant_b) after_previous();
    if constexpr (Maker::kNorms) {
      bring_to<typename Maker::T>(task, x);
    } else if (task.a_type == DType::f32) {
      bring_to<float>(task, x);
    } else if (task.a_type == DType::f16) {
      bring_to<__half>(task, x);
    } else {
      bring_to<__nv_bfloat16>(task, x);
    }
  }
  __syncthreads();
  const int k = source.k, pairs = source.pairs;
  int stage = 0, turn = 0;
  for (int pair = first; pair < pairs; pair += step) {
    float sums[kPackedRows][8] = {};
    for (int at = 0; at < k; at += kPackedColumns) {
      await_turn(barriers + stage * 8, turn);
      const std::byte* const from = place + stage * Place::kStageBytes;
      if (k - at >= kPackedColumns) {
        add_stage<Maker, true>(work, from, x.place(at, lane), kPackedColumns, lane, sums);
      } else {
        add_stage<Maker, false>(work, from, x.place(at, lane), k - at, lane, sums);
      }
      __syncwarp();
      source.ask(own + stage * Place::kStageBytes, barriers + stage * 8);
      if (++stage == stages) {
        stage = 0;
        ++turn;
      }
    }
    const PackedPair rows(work, pair);
    finish_pair(work.members[rows.member].task, sums, rows.row, lane);
  }
#endif
}

template <typename Maker>
cudaError_t start_packed(PackedStream& work, cudaStream_t stream, bool* there) {
  using Place = PackedRing<Maker>;
  const auto kernel = packed_stream<Maker>;
  *there = Maker::kNorms || !work.normed;
  if (!*there) return cudaSuccess;
  cudaFuncAttributes made;
  cudaError_t error = cudaFuncGetAttributes(&made, kernel);
  *there = error == cudaSuccess && made.ptxVersion >= 90;
  if (!*there) return error;
  const std::size_t runs = static_cast<std::size_t>((work.members[0].task.k + 255) / 256), x = runs * (Maker::kWideX ? 1024 : 512);
  constexpr std::size_t kStage = std::size_t{kPackedWarps} * (Place::kStageBytes + 8), kLeast = 116 << 10, kMost = 226 << 10;
  work.stages = x < kMost ? static_cast<int>(std::min<std::size_t>(Place::kMostStages, (kMost - x) / kStage)) : 0;
  *there = work.stages >= 2;
  if (!*there) return cudaSuccess;
  int device = 0, processors = 0;
  error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  // Above half of a multiprocessor's (row_stream_cuda.cu).
  return launch_after(kernel, dim3(static_cast<unsigned>(processors)), kPackedWarps * 32,
                      std::max(static_cast<std::size_t>(work.stages) * kStage + x, kLeast), stream, work);
}

}  // namespace forebay::cuda
