// Linear on GPUs of compute capability 9.0: one warpgroup copies tiles of x and W, 64 deep, ahead of those that multiply them (wgmma). A
// sum takes its products 16 at a time in order of depth; the blocks of a cluster share long sums, cut where the node's whole depth says.
#include <algorithm>

#include "runtime/cuda/hopper_products.cuh"
#include "runtime/cuda/linear_finish.cuh"

#pragma nv_diag_suppress 177  // names that only kernels for 9.0 use

namespace forebay::cuda {
namespace {

constexpr int kCopying = 128, kDeep = 64, kRowBytes = 2 * kDeep;
// Of a thread of large tiles, which start with 168 each: who multiplies waits until who copies has given enough of them.
constexpr int kCopyRegisters = 88, kComputeRegisters = 208;
static_assert(kCopyRegisters * 128 + kComputeRegisters * 256 <= 168 * 384);
constexpr int kTogether = 8;  // row tiles that take turns before the next column: their x and W stay in the second cache

// kDown x kAcross warpgroups multiply, each kUnits * 64 rows by kWide columns.
template <typename T, int units, int wide, int down, int across, int stages, int blocks>
struct LinearForm {
  using Type = T;
  static constexpr int kUnits = units, kWide = wide, kDown = down, kAcross = across, kStages = stages, kBlocks = blocks;
  static constexpr int kRows = down * units * 64, kColumns = across * wide, kComputing = down * across * 128,
                       kThreads = kComputing + kCopying;
  static constexpr int kStageBytes = (kRows + kColumns) * kRowBytes, kBytes = stages * kStageBytes + 1024;
  static constexpr int kPitch = wide + 8;  // floats from row to row of sums in shared memory: neither pairs nor fours of rows collide
  static_assert(kDown * kAcross * 64 * kPitch * 4 <= stages * kStageBytes);
};
template <typename T>
using Small = LinearForm<T, 1, 64, 1, 1, 6, 2>;
template <typename T>
using Middle = LinearForm<T, 1, 128, 2, 1, 5, 1>;
template <typename T>
using Large = LinearForm<T, 2, 128, 1, 2, 4, 1>;

template <typename Form>
struct LinearBlock {
  const LinearTask& task;
  unsigned tiles, full, empty;
  int split, m0, n0, from, to;  // from and to: of the call's depth

  __device__ __forceinline__ LinearBlock(const LinearTask& t, int index, unsigned memory, unsigned barriers)
      : task(t),
        tiles((memory + 1023) / 1024 * 1024),
        full(barriers),
        empty(barriers + Form::kStages * 8),
        split(static_cast<int>(blockIdx.z)) {
    const int down = (t.rows + Form::kRows - 1) / Form::kRows, across = (t.columns + Form::kColumns - 1) / Form::kColumns;
    const int group = index / (kTogether * across), rest = index % (kTogether * across);
    const int together = min(kTogether, down - group * kTogether);
    m0 = (group * kTogether + rest % together) * Form::kRows;
    n0 = rest / together * Form::kColumns;
    const std::int64_t deep = (t.all_depth + kDeep - 1) / kDeep;
    from = max(static_cast<int>(deep * split / t.splits) * kDeep, t.begin) - t.begin;
    to = min(min(static_cast<int>(deep * (split + 1) / t.splits) * kDeep, t.all_depth), t.begin + t.depth) - t.begin;
    to = max(from, to);
  }
  __device__ __forceinline__ bool carries_in() const {  // the split began in a call before
    const std::int64_t deep = (task.all_depth + kDeep - 1) / kDeep;
    return static_cast<int>(deep * split / task.splits) * kDeep < task.begin;
  }
  __device__ __forceinline__ int steps() const { return (to - from + kDeep - 1) / kDeep; }
  __device__ __forceinline__ unsigned x_tile(int step) const {
    return tiles + static_cast<unsigned>(step % Form::kStages * Form::kStageBytes);
  }
  __device__ __forceinline__ unsigned w_tile(int step) const { return x_tile(step) + Form::kRows * kRowBytes; }
};

// ---- the copying warpgroup ----

// A thread copies the same pieces of every tile: what does not change from step to step is found once, few instructions are left to a copy.
template <typename Form, bool kTurned>
struct LinearCopier {
  static constexpr int kXCopies = Form::kRows / 16, kWCopies = Form::kColumns / 16;
  static constexpr int kPieces = Form::kColumns / 8, kAtOnce = kCopying / kPieces, kDown = 16 / kAtOnce;  // turned: of 16 rows
  const LinearBlock<Form>& block;
  const int row, piece;
  const char* x;
  unsigned x_there = 0;       // bits: which rows of a tile there are
  int slab = 0, in_slab = 0;  // of the next 16 rows of W that are copied, or not turned: of the tile's first

  __device__ __forceinline__ LinearCopier(const LinearBlock<Form>& b, int own) : block(b), row(own / 8), piece(own % 8) {
    const LinearTask& task = b.task;
    x = static_cast<const char*>(task.x) + (static_cast<std::int64_t>(b.m0 + row) * task.x_row + b.from + piece * 8) * 2;
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) x_there |= (b.m0 + row + i * 16 < task.rows ? 1u : 0u) << i;
    slab = (kTurned ? b.from : b.n0) / static_cast<int>(task.w.rows);
    in_slab = (kTurned ? b.from : b.n0) - slab * static_cast<int>(task.w.rows);
  }
  __device__ __forceinline__ void copy_x(int step) const {
    const unsigned to = block.x_tile(step) + static_cast<unsigned>(row * kRowBytes + ((piece ^ (row & 7)) << 4));
    const bool deep = block.from + step * kDeep + piece * 8 < block.to;
    const char* at = x + step * kRowBytes;
    const std::int64_t next = std::int64_t{32} * block.task.x_row;
#pragma unroll
    for (int i = 0; i < kXCopies; ++i, at += next) copy_16(to + i * 16 * kRowBytes, at, deep && (x_there >> i & 1) != 0);
  }
  // In order of steps.
  __device__ __forceinline__ void copy_w(int step) {
    if constexpr (kTurned) return copy_turned(step);
    const LinearTask& task = block.task;
    const unsigned to = block.w_tile(step) + static_cast<unsigned>(row * kRowBytes + ((piece ^ (row & 7)) << 4));
    const int k = block.from + step * kDeep + piece * 8;
    int which = slab, in = in_slab;
#pragma unroll
    for (int i = 0; i < kWCopies; ++i) {
      const bool there = block.n0 + row + i * 16 < task.columns && k < block.to;
      const char* const at =
          static_cast<const char*>(task.w.slabs[there ? which : 0]) + 2 * (static_cast<std::int64_t>(in + row) * task.depth + k);
      copy_16(to + i * 16 * kRowBytes, at, there);
      next_rows(&which, &in);
    }
  }
  // Slabs hold a multiple of 16 rows, but for the last.
  __device__ __forceinline__ void next_rows(int* which, int* in) const {
    *in += 16;
    if (*in < static_cast<int>(block.task.w.rows)) return;
    *in = 0;
    ++*which;
  }
  // W as [depth, columns].
  __device__ __forceinline__ void copy_turned(int step) {
    const LinearTask& task = block.task;
    const int own = static_cast<int>(threadIdx.x) - Form::kComputing, down = own / kPieces, across = own % kPieces;
    const unsigned to = block.w_tile(step) + static_cast<unsigned>(across / 8 * kDeep * 128);
    const std::int64_t pitch = std::int64_t{2} * task.columns;
    const bool there = block.n0 + across * 8 < task.columns;
#pragma unroll
    for (int deep = 0; deep < kDeep; deep += 16) {
      const int k = block.from + step * kDeep + deep + down;
      const char* at =
          static_cast<const char*>(task.w.slabs[k - down < block.to ? slab : 0]) + (in_slab + down) * pitch + (block.n0 + across * 8) * 2;
#pragma unroll
      for (int i = 0; i < kDown; ++i, at += kAtOnce * pitch) {
        const int r = deep + down + i * kAtOnce;
        copy_16(to + static_cast<unsigned>(r * 128 + (((across % 8) ^ (r & 7)) << 4)), at, there && k + i * kAtOnce < block.to);
      }
      next_rows(&slab, &in_slab);
    }
  }
};

// Weights, which nobody writes, are on their way before what runs ahead of this kernel has ended.
template <typename Form, bool kTurned>
__device__ __forceinline__ void copy_ahead(const LinearBlock<Form>& block, int own) {
  LinearCopier<Form, kTurned> copier(block, own);
  const int steps = block.steps();
  if (!block.task.constant) after_previous();
#pragma unroll 1
  for (int step = 0; step < min(steps, Form::kStages); ++step) copier.copy_w(step);
  after_previous();
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const unsigned stage = static_cast<unsigned>(step % Form::kStages) * 8;
    if (step >= Form::kStages) {
      await_turn(block.empty + stage, step / Form::kStages - 1);
      copier.copy_w(step);
    }
    copier.copy_x(step);
    arrive_behind_copies(block.full + stage);
  }
}

// ---- the multiplying warpgroups ----

template <typename Form>
using Sums = float[Form::kUnits][Form::kWide / 8][4];

template <typename Form, bool kTurned>
__device__ __forceinline__ void multiply_deep(Sums<Form>& sums, unsigned x, unsigned w, int k) {
#pragma unroll
  for (int u = 0; u < Form::kUnits; ++u) {
    const std::uint64_t a = product_matrix(x + static_cast<unsigned>(u * 64 * kRowBytes + k * 2), 16);
    const std::uint64_t b =
        kTurned ? product_matrix(w + static_cast<unsigned>(k * 128), kDeep * 128) : product_matrix(w + static_cast<unsigned>(k * 2), 16);
    using T = typename Form::Type;
    add_product<T, kTurned>(sums[u], a, b);
  }
}

template <typename Form, bool kTurned>
__device__ __forceinline__ void multiply_all(const LinearBlock<Form>& block, int group, Sums<Form>& sums) {
  const int down = group / Form::kAcross, across = group % Form::kAcross, steps = block.steps();
  const unsigned x_own = static_cast<unsigned>(down * Form::kUnits * 64 * kRowBytes),
                 w_own = static_cast<unsigned>(across * Form::kWide * kRowBytes);
  const int whole = (block.to - block.from) / kDeep;
  const auto multiply_step = [&](int step) {
    await_turn(block.full + static_cast<unsigned>(step % Form::kStages) * 8, step / Form::kStages);
    show_copies();
    fence_products();
#pragma unroll
    for (int k = 0; k < kDeep; k += 16) multiply_deep<Form, kTurned>(sums, block.x_tile(step) + x_own, block.w_tile(step) + w_own, k);
    commit_products();
  };
  if (whole > 0) {
    multiply_step(0);  // by itself: sums that come from memory would make the compiler wait behind every product of the loop
    await_products<0>();
#pragma unroll 1
    for (int step = 1; step < whole; ++step) {
      multiply_step(step);
      await_products<1>();
      arrive_at(block.empty + static_cast<unsigned>((step - 1) % Form::kStages) * 8);
    }
    await_products<0>();
  }
  if (whole == steps) return;
  // No products with what lies behind the end: adding zeros would change the sign of a zero.
  await_turn(block.full + static_cast<unsigned>(whole % Form::kStages) * 8, whole / Form::kStages);
  show_copies();
#pragma unroll 1
  for (int k = 0; k < block.to - block.from - whole * kDeep; k += 16) {
    fence_products();
    multiply_deep<Form, kTurned>(sums, block.x_tile(whole) + x_own, block.w_tile(whole) + w_own, k);
    commit_products();
    await_products<0>();
  }
}

// A warpgroup's sums from memory or to it, between calls for parts of the depth.
template <typename Form, bool kStore>
__device__ __forceinline__ void carry(const LinearBlock<Form>& block, int row0, int column0, Sums<Form>& sums) {
  const LinearTask& task = block.task;
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
#pragma unroll
  for (int u = 0; u < Form::kUnits; ++u) {
#pragma unroll
    for (int j = 0; j < Form::kWide / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int m = row0 + u * 64 + thread / 32 * 16 + lane / 4 + e / 2 * 8, n = column0 + j * 8 + lane % 4 * 2 + e % 2;
        if (m >= task.rows || n >= task.columns) continue;
        float& kept = task.sums[(static_cast<std::int64_t>(block.split) * task.rows + m) * task.columns + n];
        (kStore ? kept : sums[u][j][e]) = kStore ? sums[u][j][e] : kept;
      }
    }
  }
}

// 64 rows of a warpgroup's sums, in shared memory, to y.
template <typename Form>
__device__ __forceinline__ void write_rows(const LinearTask& task, const float* tile, int m0, int n0) {
  using T = typename Form::Type;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  if ((task.first | task.columns | task.all_columns) % 8 == 0) {
    constexpr int kEach = Form::kWide / 8;
    for (int i = thread; i < 64 * kEach; i += 128) {
      const int row = i / kEach, column = i % kEach * 8;
      if (m0 + row < task.rows && n0 + column < task.columns)
        finish_linear<T, 8>(task, m0 + row, n0 + column, tile + row * Form::kPitch + column);
    }
    return;
  }
  for (int i = thread; i < 64 * Form::kWide; i += 128) {
    const int row = i / Form::kWide, column = i % Form::kWide;
    if (m0 + row < task.rows && n0 + column < task.columns)
      finish_linear<T, 1>(task, m0 + row, n0 + column, tile + row * Form::kPitch + column);
  }
}

// This block's share of the sums that a cluster's blocks have in their shared memory, added in the order of splits.
template <typename Form>
__device__ __forceinline__ void write_joined(const LinearBlock<Form>& block, const float* tile) {
  using T = typename Form::Type;
  const LinearTask& task = block.task;
  constexpr int kEach = Form::kWide / 4;
  const int share = 64 * kEach / task.splits;
  for (int i = block.split * share + static_cast<int>(threadIdx.x); i < (block.split + 1) * share; i += 128) {
    const int row = i / kEach, column = i % kEach * 4, m = block.m0 + row, n = block.n0 + column;
    if (m >= task.rows || n >= task.columns) continue;
    alignas(16) float sums[4] = {};
    for (int s = 0; s < task.splits; ++s) {
      const float4 more = peer_values(tile + row * Form::kPitch + column, s);
      sums[0] += more.x;
      sums[1] += more.y;
      sums[2] += more.z;
      sums[3] += more.w;
    }
    if ((task.first | task.columns | task.all_columns) % 4 == 0) {
      finish_linear<T, 4>(task, m, n, sums);
    } else {
      for (int e = 0; e < 4 && n + e < task.columns; ++e) finish_linear<T, 1>(task, m, n + e, &sums[e]);
    }
  }
}

template <typename Form>
__device__ __forceinline__ void write_sums(const LinearBlock<Form>& block, int group, int row0, int column0, float* memory,
                                           Sums<Form>& sums) {
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
  float* const tile = memory + group * 64 * Form::kPitch;
  meet_some(1, Form::kComputing);  // nobody multiplies what lies there any more
#pragma unroll
  for (int u = 0; u < Form::kUnits; ++u) {
    if (u > 0) meet_some(3 + group, 128);
#pragma unroll
    for (int j = 0; j < Form::kWide / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const int row = thread / 32 * 16 + lane / 4 + e / 2 * 8, column = j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(tile + row * Form::kPitch + column) = make_float2(sums[u][j][e], sums[u][j][e + 1]);
      }
    }
    if (block.task.splits > 1) {
      meet_cluster();
      write_joined(block, tile);
      return;
    }
    meet_some(3 + group, 128);
    write_rows<Form>(block.task, tile, row0 + u * 64, column0);
  }
}

template <typename Form, bool kTurned>
__device__ __forceinline__ void compute(const LinearBlock<Form>& block, float* memory) {
  const LinearTask& task = block.task;
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int row0 = block.m0 + group / Form::kAcross * Form::kUnits * 64, column0 = block.n0 + group % Form::kAcross * Form::kWide;
  Sums<Form> sums = {};
  after_previous();
  if (kTurned && block.carries_in()) carry<Form, false>(block, row0, column0, sums);
  multiply_all<Form, kTurned>(block, group, sums);
  if (kTurned && !task.last_part) return carry<Form, true>(block, row0, column0, sums);
  write_sums(block, group, row0, column0, memory, sums);
}

template <typename Form, bool kTurned>
__global__ void __launch_bounds__(Form::kThreads, Form::kBlocks) linear_hopper(const __grid_constant__ LinearGroup group) {
  extern __shared__ uint4 memory[];
  __shared__ std::uint64_t barriers[2 * Form::kStages];
  int member = 0, first = 0;  // the blocks of the first product come first
  while (static_cast<int>(blockIdx.x) >= group.ends[member]) first = group.ends[member++];
  const LinearTask& task = group.tasks[member];
  const LinearBlock<Form> block(task, static_cast<int>(blockIdx.x) - first, shared_place(memory), shared_place(barriers));
  if (kTurned && !task.last_part && block.from == block.to) return after_previous();
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < Form::kStages; ++i) {
      begin_barrier(block.full + i * 8, kCopying);
      begin_barrier(block.empty + i * 8, Form::kComputing);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x >= Form::kComputing) {
    if constexpr (Form::kUnits > 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCopyRegisters));
    copy_ahead<Form, kTurned>(block, static_cast<int>(threadIdx.x) - Form::kComputing);
    if (task.splits > 1 && task.last_part) meet_cluster();
  } else {
    if constexpr (Form::kUnits > 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kComputeRegisters));
    compute<Form, kTurned>(block, reinterpret_cast<float*>(reinterpret_cast<char*>(memory) + (block.tiles - shared_place(memory))));
  }
  if (task.splits > 1 && task.last_part) meet_cluster();  // nobody leaves while others read
}

template <typename Form, bool kTurned>
cudaError_t start(LinearGroup& group, cudaStream_t stream) {
  int blocks = 0;
  for (int i = 0; i < group.count; ++i) {
    const LinearTask& task = group.tasks[i];
    blocks += (task.rows + Form::kRows - 1) / Form::kRows * ((task.columns + Form::kColumns - 1) / Form::kColumns);
    group.ends[i] = blocks;
  }
  return launch_linear(linear_hopper<Form, kTurned>, blocks, Form::kThreads, Form::kBytes, group, stream);
}

template <typename T>
cudaError_t start_form(LinearGroup& group, LinearTile tile, cudaStream_t stream) {
  const bool turned = group.tasks[0].turned;
  const int columns = group.tasks[0].splits > 1 ? 64 : linear_shape(tile).columns;
  if (columns <= 64) return turned ? start<Small<T>, true>(group, stream) : start<Small<T>, false>(group, stream);
  if (columns <= 128) return turned ? start<Middle<T>, true>(group, stream) : start<Middle<T>, false>(group, stream);
  return turned ? start<Large<T>, true>(group, stream) : start<Large<T>, false>(group, stream);
}

}  // namespace

cudaError_t launch_linear_hopper(LinearGroup& group, LinearTile tile, cudaStream_t stream) {
  if (static_cast<std::int64_t>(group.tasks[0].rows) * group.tasks[0].columns == 0) return cudaSuccess;
  return group.tasks[0].type == DType::f16 ? start_form<__half>(group, tile, stream) : start_form<__nv_bfloat16>(group, tile, stream);
}

}  // namespace forebay::cuda
