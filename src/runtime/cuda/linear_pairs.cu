// Linear on GPUs of compute capability 9.0 by tiles whose rows are any multiple of 16: a warpgroup has 64 columns of W as the rows of its
// products and the tile's rows of x as their columns, so that tiles can be made that divide a matrix by the device's multiprocessors. Two
// blocks of a cluster take the same rows and fetch half of them each, for both. Otherwise as linear_bulk.cu: the same sums, the same bits.
#include <algorithm>

#include "runtime/cuda/linear_tiles.cuh"

namespace forebay::cuda {
namespace {

// Warpgroups multiply kUnits times 64 columns of W by kRows rows of x each; the last warp fetches. Where sums take most registers it is a
// warpgroup of four, which gives its own to the others.
template <typename T, int rows, int wide, int stages>
struct PairForm {
  using Type = T;
  static constexpr int kRows = rows, kWide = wide, kStages = stages, kPair = 2, kUnits = wide == 256 ? 2 : 1;
  static constexpr bool kGives = kUnits * rows > 256;
  static constexpr int kComputing = wide / kUnits * 2, kThreads = kComputing + (kGives ? 128 : 32);
  static constexpr int kXBytes = kRows * kStepBytes, kStageBytes = kXBytes + wide * kStepBytes, kUnitBytes = 64 * kStepBytes;
  static constexpr int kBytes = stages * kStageBytes + 1024;
  static_assert(wide % 64 == 0 && wide <= 256 && rows % 16 == 0 && kBytes <= 226 << 10);
};
constexpr int kFetchRegisters = 40, kComputeRegisters = 232;
template <typename Form>
using PairSums = float[Form::kUnits][Form::kRows / 8][4];

// ---- products of 64 columns of W, as rows or turned, and 96, 144 or 192 rows of x ----

#define FB_NAMES_48 FB_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define FB_NAMES_72 FB_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define FB_PRODUCT_BY(size, type, names, last, ...)                                                             \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" size "k16.f32." type "." type " {" names "}, " last ", 0;\n" \
               : __VA_ARGS__                                                                                    \
               : "l"(w), "l"(x), "n"(kTurned ? 1 : 0))
#define FB_PRODUCT_BY_ROWS(size, names, last, ...)         \
  if constexpr (std::is_same_v<T, __half>) {               \
    FB_PRODUCT_BY(size, "f16", names, last, __VA_ARGS__);  \
  } else {                                                 \
    FB_PRODUCT_BY(size, "bf16", names, last, __VA_ARGS__); \
  }
template <typename T, bool kTurned>
__device__ __forceinline__ void add_rows(float (&d)[12][4], std::uint64_t w, std::uint64_t x) {
  FB_PRODUCT_BY_ROWS("96", FB_NAMES_48, "%48, %49, 1, 1, 1, %50", FB_SUMS_32(0), FB_SUMS_8(8), FB_SUMS_8(10))
}
template <typename T, bool kTurned>
__device__ __forceinline__ void add_rows(float (&d)[18][4], std::uint64_t w, std::uint64_t x) {
  FB_PRODUCT_BY_ROWS("144", FB_NAMES_72, "%72, %73, 1, 1, 1, %74", FB_SUMS_32(0), FB_SUMS_32(8), FB_SUMS_8(16))
}
template <typename T, bool kTurned>
__device__ __forceinline__ void add_rows(float (&d)[24][4], std::uint64_t w, std::uint64_t x){
    FB_PRODUCT_BY_ROWS("192", FB_NAMES_96, "%96, %97, 1, 1, 1, %98", FB_SUMS_32(0), FB_SUMS_32(8), FB_SUMS_32(16))}

// ---- the thread that fetches ----

// To the same place of both blocks; each one's barrier counts what comes to it.
__device__ inline void fetch_for_both(unsigned to, const CUtensorMap* map, int column, int row, unsigned barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;\n" ::
          "r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(static_cast<unsigned short>(3))
      : "memory");
}
template <typename Form, bool kTurned>
__device__ __forceinline__ void fetch_pair(const BulkGroup& group, Ring<Form> ring, int tiles) {
  const int each = static_cast<int>(gridDim.x) / 2, half = static_cast<int>(blockIdx.x) % 2;
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&group.x) : "memory");
  bool first = true;
  for (int index = static_cast<int>(blockIdx.x) / 2; index < tiles; index += each) {
    const BulkTile<Form> tile(group, index);
    const BulkTask& task = group.tasks[tile.member];
    WeightFetcher<Form, kTurned> w(group, task, tile);
    const int bytes = Form::kXBytes + w.bytes();
    int ahead = tile.from;  // depth whose W is on its way before x may be
    if (first) {
      if (!group.tasks[0].constant) after_previous();
      ahead = fetch_ahead(ring, w, task, tile, bytes);
      if (group.tasks[0].constant) after_previous();
      await_cluster();  // before anything goes to the other block: its barriers are ready
      first = false;
    }
#pragma unroll 1
    for (int k = tile.from, deep = 0; k < tile.to; k += deep, ring.next()) {
      deep = step_at<kTurned>(task, k, tile.to);
      if (k >= ahead) {
        await_turn(ring.freed(), ring.turn - 1);  // the first time around: passes at once
        expect_bytes(ring.filled(), bytes);
        w.fetch(ring, k, deep);
      }
      fetch_for_both(ring.x() + static_cast<unsigned>(half * (Form::kXBytes / 2)), &group.x, k, tile.m0 + half * (Form::kRows / 2),
                     ring.filled());
    }
  }
  // Nobody leaves while the other block's signs come: the last ones say that each stage is free.
  for (int i = 0; i < Form::kStages; ++i, ring.next()) await_turn(ring.freed(), ring.turn - 1);
}

// ---- the multiplying warpgroups ----

// To both blocks, whose halves of x a stage holds. Not released for the cluster, which would wait for all that this thread has written:
// what the products have read is done when they are.
template <typename Form>
__device__ __forceinline__ void release_both(const Ring<Form>& ring) {
  const unsigned lane = threadIdx.x % 32;
  if (lane >= 2) return;
  asm volatile("{\n.reg .b32 place;\nmapa.shared::cluster.u32 place, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [place];\n}\n" ::"r"(
                   ring.freed()),
               "r"(lane)
               : "memory");
}

template <typename Form, bool kTurned>
__device__ __forceinline__ void multiply_rows_16(PairSums<Form>& sums, unsigned x, unsigned w, int k) {
  const std::uint64_t rows = product_matrix(x + static_cast<unsigned>(k * 2), 16);
#pragma unroll
  for (int u = 0; u < Form::kUnits; ++u) {
    const unsigned own = w + static_cast<unsigned>(u * Form::kUnitBytes);
    const std::uint64_t columns = kTurned ? product_matrix(own + static_cast<unsigned>(k * 128), kStep * 128)
                                          : product_matrix(own + static_cast<unsigned>(k * 2), 16);
    add_rows<typename Form::Type, kTurned>(sums[u], columns, rows);
  }
}

template <typename Form, bool kTurned>
__device__ __forceinline__ void multiply_pair_steps(Ring<Form>& ring, int depth, unsigned own, PairSums<Form>& sums) {
  const int whole = depth / kStep;
  Ring<Form> before = ring;
#pragma unroll 1
  for (int step = 0; step < whole; ++step) {
    await_turn(ring.filled(), ring.turn);
    fence_products();
#pragma unroll
    for (int k = 0; k < kStep; k += 16) multiply_rows_16<Form, kTurned>(sums, ring.x(), ring.w() + own, k);
    commit_products();
    await_products<1>();
    if (step > 0) {
      release_both(before);
      before.next();
    }
    ring.next();
  }
  await_products<0>();
  if (whole > 0) release_both(before);
  if (whole * kStep == depth) return;
  // No products with what lies behind the end: adding zeros would change the sign of a zero.
  await_turn(ring.filled(), ring.turn);
#pragma unroll 1
  for (int k = 0; k < depth - whole * kStep; k += 16) {
    fence_products();
    multiply_rows_16<Form, kTurned>(sums, ring.x(), ring.w() + own, k);
    commit_products();
    await_products<0>();
  }
  release_both(ring);
  ring.next();
}

__device__ __forceinline__ unsigned turn_matrix(unsigned pairs) {
  unsigned turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(turned) : "r"(pairs));
  return turned;
}

// A thread has columns c and c + 8 of W, two rows of x at a time; turned, it has two columns of a row, and four threads gather what they
// have of two rows by 16 columns to 16 bytes each.
template <typename Form, Finish kFinish>
__device__ __forceinline__ void write_unit(const BulkTask& task, int m0, int column0, const float (&sums)[Form::kRows / 8][4]) {
  using T = typename Form::Type;
  const int lane = static_cast<int>(threadIdx.x) % 32, quad = lane % 4;
  float bias[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int c = column0 + lane / 4 + i * 8;
    bias[i] = task.bias != nullptr && c < task.columns ? widen(static_cast<const T*>(task.bias)[task.first + c]) : 0.0f;
  }
  const int row = m0 + quad / 2 * 8 + lane / 4, column = column0 + quad % 2 * 8;
  const int rows = held(column < task.columns ? task.rows - row : 0);
  T* const to = held(static_cast<T*>(task.y) + static_cast<std::int64_t>(row) * task.all_columns + task.first + column);
  const std::int64_t sixteen_rows = held(std::int64_t{16} * task.all_columns);
#pragma unroll
  for (int j = 0; j < Form::kRows / 8; j += 2) {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float(&s)[4] = sums[j + i];
      const float4 y = activate_four<kFinish>(task, make_float4(s[0] + bias[0], s[1] + bias[0], s[2] + bias[1], s[3] + bias[1]));
      words[i * 2] = turn_matrix(pair_word<T>(y.x, y.y));
      words[i * 2 + 1] = turn_matrix(pair_word<T>(y.z, y.w));
    }
    const uint4 run = gather_run(words[0], words[1], words[2], words[3]);
    if (j * 8 < rows) *reinterpret_cast<uint4*>(to + j / 2 * sixteen_rows) = run;
  }
}
template <typename Form, Finish kFinish>
__device__ __forceinline__ void write_units(const BulkTask& task, int m0, int column0, const PairSums<Form>& sums) {
#pragma unroll
  for (int u = 0; u < Form::kUnits; ++u) write_unit<Form, kFinish>(task, m0, column0 + u * 64, sums[u]);
}

template <typename Form, bool kTurned>
__device__ __forceinline__ void compute_pair(const BulkGroup& group, Ring<Form> ring, int tiles) {
  const int thread = static_cast<int>(threadIdx.x), unit = thread / 128 * Form::kUnits;
  after_previous();
  await_cluster();
#pragma unroll 1
  for (int index = static_cast<int>(blockIdx.x) / 2; index < tiles; index += static_cast<int>(gridDim.x) / 2) {
    const BulkTile<Form> tile(group, index);
    const BulkTask& task = group.tasks[tile.member];
    const int column0 = tile.n0 + unit * 64 + thread % 128 / 32 * 16;
    PairSums<Form> sums = {};
    for (int k = tile.from, run = 0; k < tile.to; k += run) {
      run = run_at<kTurned>(task, k, tile.to);
      multiply_pair_steps<Form, kTurned>(ring, run, static_cast<unsigned>(unit * Form::kUnitBytes), sums);
    }
    switch (task.activation) {
      case Activation::none:
        write_units<Form, Finish::plain>(task, tile.m0, column0, sums);
        break;
      case Activation::gelu:
        write_units<Form, Finish::gelu>(task, tile.m0, column0, sums);
        break;
      case Activation::swish:
        write_units<Form, Finish::swish>(task, tile.m0, column0, sums);
        break;
      default:
        write_units<Form, Finish::other>(task, tile.m0, column0, sums);
    }
  }
}

template <typename Form, bool kTurned>
__global__ void __launch_bounds__(Form::kThreads, 1) linear_pairs(const __grid_constant__ BulkGroup group) {
  extern __shared__ uint4 memory[];
  __shared__ std::uint64_t barriers[2 * Form::kStages];
  Ring<Form> ring;
  ring.tiles = (shared_place(memory) + 1023) / 1024 * 1024;
  ring.full = shared_place(barriers);
  ring.empty = ring.full + Form::kStages * 8;
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < Form::kStages; ++i) {
      begin_barrier(ring.full + i * 8, 1);
      begin_barrier(ring.empty + i * 8, Form::kComputing / 32 * 2);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  __syncthreads();
  greet_cluster();
  const int tiles = group.ends[group.count - 1];
  if (threadIdx.x < Form::kComputing) {
    if constexpr (Form::kGives) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kComputeRegisters));
    compute_pair<Form, kTurned>(group, ring, tiles);
  } else {
    if constexpr (Form::kGives) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kFetchRegisters));
    if (threadIdx.x == Form::kComputing) {
      fetch_pair<Form, kTurned>(group, ring, tiles);
    } else {
      await_cluster();
    }
  }
}

template <typename T, LinearTile tile, int stages>
cudaError_t start_pairs(BulkGroup& group, bool turned, int multiprocessors, cudaStream_t stream) {
  constexpr LinearShape kShape = linear_shape(tile);
  using Form = PairForm<T, kShape.rows, kShape.columns, stages>;
  const int blocks = 2 * std::min(count_tiles<Form>(group), multiprocessors / 2);
  return launch_linear(turned ? linear_pairs<Form, true> : linear_pairs<Form, false>, blocks, Form::kThreads, Form::kBytes, group, stream,
                       2);
}

template <typename T>
cudaError_t start_form(BulkGroup& group, bool turned, LinearTile tile, int multiprocessors, cudaStream_t stream) {
  switch (tile) {
    case LinearTile::p96x64:
      return start_pairs<T, LinearTile::p96x64, 5>(group, turned, multiprocessors, stream);
    case LinearTile::p144x64:
      return start_pairs<T, LinearTile::p144x64, 8>(group, turned, multiprocessors, stream);
    case LinearTile::p144x256:
      return start_pairs<T, LinearTile::p144x256, 4>(group, turned, multiprocessors, stream);
    case LinearTile::p192x128:
      return start_pairs<T, LinearTile::p192x128, 5>(group, turned, multiprocessors, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_linear_pairs(BulkGroup& group, DType type, bool turned, LinearTile tile, int multiprocessors, cudaStream_t stream) {
  return type == DType::f16 ? start_form<__half>(group, turned, tile, multiprocessors, stream)
                            : start_form<__nv_bfloat16>(group, turned, tile, multiprocessors, stream);
}

}  // namespace forebay::cuda
