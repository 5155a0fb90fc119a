// What the kernels share whose tiles of x and W the tensor copy engine fetches: where a tile is, the ring that tiles come through, the
// boxes of W, and sums on their way to outputs.
#pragma once

#include "runtime/cuda/hopper_products.cuh"
#include "runtime/cuda/linear_bulk.h"
#include "runtime/cuda/linear_finish.cuh"

namespace forebay::cuda {

constexpr int kStep = 64, kStepBytes = 2 * kStep;

// The blocks of a cluster meet, in two parts, without waiting for what they have written.
__device__ inline void greet_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed;\n" ::: "memory");
}
__device__ inline void await_cluster() {
  asm volatile("barrier.cluster.wait;\n" ::: "memory");
}

__device__ inline void expect_bytes(unsigned at, int bytes) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}\n" ::"r"(at), "r"(bytes) : "memory");
}
// A box of the matrix from (column, row) on; what lies outside is zeros.
__device__ inline void fetch_box(unsigned to, const CUtensorMap* map, int column, int row, unsigned barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];\n" ::"r"(to),
               "l"(map), "r"(column), "r"(row), "r"(barrier)
               : "memory");
}
constexpr int kAtOnce = 8;  // row tiles that take turns before the next column

// The kPair blocks of a cluster have the same rows, each columns of its own.
template <typename Form>
struct BulkTile {
  int member = 0, m0 = 0, n0 = 0, from = 0, to = 0;
  __device__ __forceinline__ BulkTile(const BulkGroup& group, int index) {
    int first = 0;
    while (index >= group.ends[member]) first = group.ends[member++];
    const BulkTask& task = group.tasks[member];
    constexpr int kWidth = Form::kWide * Form::kPair;
    const int down = (task.rows + Form::kRows - 1) / Form::kRows, across = (task.columns + kWidth - 1) / kWidth;
    const int own = index - first, run = own / (kAtOnce * across), rest = own % (kAtOnce * across);
    const int together = min(kAtOnce, down - run * kAtOnce);
    m0 = (run * kAtOnce + rest % together) * Form::kRows;
    n0 = rest / together * kWidth + static_cast<int>(blockIdx.x) % Form::kPair * Form::kWide;
    const int deep = (task.depth + kStep - 1) / kStep, split = static_cast<int>(blockIdx.z);
    from = deep * split / task.splits * kStep;
    to = min(deep * (split + 1) / task.splits * kStep, task.depth);
  }
  __device__ __forceinline__ int steps() const { return (to - from + kStep - 1) / kStep; }
};

// Where a block is in its ring of stages.
template <typename Form>
struct Ring {
  unsigned tiles, full, empty;
  int stage = 0, turn = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Form::kStages) {
      stage = 0;
      ++turn;
    }
  }
  __device__ __forceinline__ unsigned x() const { return tiles + static_cast<unsigned>(stage * Form::kStageBytes); }
  __device__ __forceinline__ unsigned w() const { return x() + Form::kXBytes; }
  __device__ __forceinline__ unsigned filled() const { return full + static_cast<unsigned>(stage) * 8; }
  __device__ __forceinline__ unsigned freed() const { return empty + static_cast<unsigned>(stage) * 8; }
};

// ---- the thread that fetches ----

// How deep the step from depth k on is. Slabs of a turned W end between steps.
template <bool kTurned>
__device__ __forceinline__ int step_at(const BulkTask& task, int k, int to) {
  const int deep = min(to - k, kStep);
  return kTurned ? min(deep, task.slab_rows - k % task.slab_rows) : deep;
}

// Until where steps of kStep follow each other.
template <bool kTurned>
__device__ __forceinline__ int run_at(const BulkTask& task, int k, int to) {
  return kTurned && task.slab_rows % kStep != 0 ? min(to - k, task.slab_rows - k % task.slab_rows) : to - k;
}

// What W's part of a tile takes to fetch: what does not change from step to step is found once.
template <typename Form, bool kTurned>
struct WeightFetcher {
  const CUtensorMap* map;  // of the next box, or not turned: of the tile's first
  const int n0, columns, box, slab_rows;
  int row;  // in its slab

  __device__ __forceinline__ WeightFetcher(const BulkGroup& group, const BulkTask& task, const BulkTile<Form>& tile)
      : n0(tile.n0), columns(min(task.columns - tile.n0, Form::kWide)), box(task.box_rows), slab_rows(task.slab_rows) {
    const int first = kTurned ? tile.from : n0;
    const int slab = first / slab_rows;
    map = group.w + task.first_map + slab;
    row = first - slab * slab_rows;
  }
  // Of any step: what lies outside comes as zeros.
  __device__ __forceinline__ int bytes() const {
    if constexpr (kTurned) return kStep * Form::kWide * 2;
    int there = 0;
    while (there < columns) there += box;
    return there * kStepBytes;
  }
  // In order of k.
  __device__ __forceinline__ void fetch(const Ring<Form>& ring, int k, int deep) {
    if constexpr (kTurned) {
#pragma unroll
      for (int i = 0; i < Form::kWide / 64; ++i)
        fetch_box(ring.w() + static_cast<unsigned>(i * kStep * 128), map, n0 + i * 64, row, ring.filled());
      row += deep;
      if (row < slab_rows) return;
      row = 0;
      ++map;
      return;
    }
    const CUtensorMap* at = map;
    int in = row;
    for (int r = 0; r < columns; r += box) {
      fetch_box(ring.w() + static_cast<unsigned>(r * kStepBytes), at, k, in, ring.filled());
      in += box;
      if (in < slab_rows) continue;
      in = 0;
      ++at;
    }
  }
};

// As much of W as the ring has room for, before x may be. Returns until which depth.
template <typename Form, bool kTurned>
__device__ __forceinline__ int fetch_ahead(Ring<Form> at, WeightFetcher<Form, kTurned>& w, const BulkTask& task, const BulkTile<Form>& tile,
                                           int bytes) {
  int ahead = tile.from;
  for (int i = 0; i < Form::kStages && ahead < tile.to; ++i, at.next()) {
    const int deep = step_at<kTurned>(task, ahead, tile.to);
    expect_bytes(at.filled(), bytes);
    w.fetch(at, ahead, deep);
    ahead += deep;
  }
  return ahead;
}

// Where each product's tiles end; returns how many there are, pairs of them where a cluster takes two.
template <typename Form>
int count_tiles(BulkGroup& group) {
  constexpr int kWidth = Form::kWide * Form::kPair;
  int tiles = 0;
  for (int i = 0; i < group.count; ++i) {
    const BulkTask& task = group.tasks[i];
    tiles += (task.rows + Form::kRows - 1) / Form::kRows * ((task.columns + kWidth - 1) / kWidth);
    group.ends[i] = tiles;
  }
  return tiles;
}

// Four lanes' words of four runs of 8 columns: lane i gets run i.
__device__ __forceinline__ uint4 gather_run(unsigned a, unsigned b, unsigned c, unsigned d) {
  const int lane = static_cast<int>(threadIdx.x);
  const bool odd = (lane & 1) != 0, high = (lane & 2) != 0;
  const unsigned ab = __shfl_xor_sync(~0u, odd ? a : b, 1), cd = __shfl_xor_sync(~0u, odd ? c : d, 1);
  const unsigned a1 = odd ? ab : a, b1 = odd ? b : ab, c1 = odd ? cd : c, d1 = odd ? d : cd;
  // Even lanes hold (a1, b1) of run 0 and (c1, d1) of run 2, odd ones those of runs 1 and 3.
  const unsigned low = __shfl_xor_sync(~0u, high ? a1 : c1, 2), top = __shfl_xor_sync(~0u, high ? b1 : d1, 2);
  return high ? make_uint4(low, top, c1, d1) : make_uint4(a1, b1, low, top);
}

static __device__ __noinline__ float4 activate_four(Activation activation, float alpha, float beta, float4 x) {
  return make_float4(activate_apart(activation, alpha, beta, x.x), activate_apart(activation, alpha, beta, x.y),
                     activate_apart(activation, alpha, beta, x.z), activate_apart(activation, alpha, beta, x.w));
}
// By kinds of code.
enum class Finish : int { plain, gelu, swish, other };
template <Finish kFinish>
__device__ __forceinline__ float4 activate_four(const BulkTask& task, float4 x) {
  if constexpr (kFinish == Finish::plain) return x;
  if constexpr (kFinish == Finish::gelu) return make_float4(gelu_of_16(x.x), gelu_of_16(x.y), gelu_of_16(x.z), gelu_of_16(x.w));
  if constexpr (kFinish == Finish::swish) {
    const float a = task.alpha;
    return make_float4(swish_of_16(a, x.x), swish_of_16(a, x.y), swish_of_16(a, x.z), swish_of_16(a, x.w));
  }
  return activate_four(task.activation, task.alpha, task.beta, x);
}
// Parameters found by an index: in registers from here on, or each use would fetch them again.
template <typename V>
__device__ __forceinline__ V held(V value) {
  if constexpr (sizeof(V) == 8) {
    asm volatile("" : "+l"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
  return value;
}

template <typename T>
__device__ __forceinline__ unsigned pair_word(float a, float b) {
  struct alignas(4) Pair {
    T values[2];
  };
  const Pair pair = {{narrow<T>(a), narrow<T>(b)}};
  return *reinterpret_cast<const unsigned*>(&pair);
}

}  // namespace forebay::cuda
