// Products of one row with B as rows, for large constant B of 16-bit numbers: the sums of row_dot_cuda.cu in the same order, the same bits.
// A block a multiprocessor, and each of its warps takes rows by turns, whose weights come through a ring in shared memory by bulk copies:
// what is under way does not depend on registers, and a ring runs on from row to row. No two blocks fit a multiprocessor: where they do,
// launches that begin early put two blocks on one and none on another (6.4 ms a token of an 8B decoder in place of 4.6). Registers are few,
// so that the small kernels between products begin beside a block. A norm ahead is made by every block for itself, in norm_cuda.cu's order;
// a pair's rows come to one warp one after the other, so that it has both results.
#include <algorithm>

#include "runtime/cuda/norm_parts.cuh"
#include "runtime/cuda/row_around.h"
#include "runtime/cuda/row_group.h"
#include "runtime/cuda/row_parts.cuh"

#pragma nv_diag_suppress 177  // names that only kernels for 9.0 use

namespace forebay::cuda {
namespace {

constexpr int kWarps = 16, kStages = 3, kStageBytes = 2048;
constexpr int kRingBytes = kWarps * kStages * kStageBytes, kBarrierBytes = kWarps * kStages * 8;
constexpr std::size_t kLeastShared = 116 << 10;  // above half of a multiprocessor's
constexpr std::int64_t kLeastDepth = kStageBytes / 2, kMostDepth = 32 << 10, kLeastRows = 1024;

constexpr int kNormRuns = 2;  // of a thread, in registers
static_assert(kWarps * 32 == kMostNormThreads);

struct StreamWork {
  RowGroup group;
  RowAround around;
  int ends[RowGroup::kMost] = {};  // rows of the products up to each
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900  // bulk copies
constexpr int kRunBytes = 512;                      // 256 numbers

struct StreamRow {
  int product = 0, row = 0;
  __device__ inline StreamRow(const StreamWork& work, int index) {
    if (work.around.both != nullptr) {
      product = index % 2;
      row = index / 2;
      return;
    }
    while (index >= work.ends[product]) ++product;
    row = product > 0 ? index - work.ends[product - 1] : index;
  }
  __device__ inline const std::byte* weights(const StreamWork& work) const {
    const SlabTable& table = work.group.tables[product];
    const int rows = static_cast<int>(table.rows), slab = row / rows;
    return static_cast<const std::byte*>(table.slabs[slab]) +
           static_cast<std::int64_t>(row - slab * rows) * work.group.tasks[product].k * 2;
  }
};

// A warp's rows begin at this one's and go on from each to the next.
__device__ inline int first_row(const StreamWork& work) {
  const int turn = static_cast<int>(threadIdx.x) / 32 * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  return work.around.both != nullptr ? 2 * turn : turn;
}
__device__ inline int next_row(const StreamWork& work, int index) {
  const int step = static_cast<int>(gridDim.x) * kWarps;
  if (work.around.both == nullptr) return index + step;
  return index % 2 == 0 ? index + 1 : index + 2 * step - 1;
}

__device__ inline unsigned shared_at(const void* place) {
  return static_cast<unsigned>(__cvta_generic_to_shared(place));
}

// A warp's rows, stage by stage; the first lane asks for them.
struct StreamSource {
  const StreamWork& work;
  int index, total, bytes, at = 0;  // of what is asked for next
  const std::byte* row = nullptr;
  __device__ inline explicit StreamSource(const StreamWork& w) : work(w), index(first_row(w)) {
    total = w.ends[w.group.count - 1];
    bytes = static_cast<int>(w.group.tasks[0].k) * 2;
    if (index < total) row = StreamRow(work, index).weights(work);
  }
  __device__ inline void ask(std::byte* to, std::uint64_t* barrier) {
    if (row == nullptr) return;
    const int count = min(kStageBytes, bytes - at);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(barrier)), "r"(count) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_at(to)),
                 "l"(row + at), "r"(count), "r"(shared_at(barrier))
                 : "memory");
    at += count;
    if (at < bytes) return;
    at = 0;
    index = next_row(work, index);
    row = index < total ? StreamRow(work, index).weights(work) : nullptr;
  }
};

__device__ inline void await_stage(std::uint64_t* barrier, unsigned phase) {
  asm volatile(
      "{\n.reg .pred there;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 there, [%0], %1;\n"
      "@there bra done;\nbra again;\ndone:\n}" ::"r"(shared_at(barrier)),
      "r"(phase)
      : "memory");
}

template <typename T>
__device__ inline float number_at(const uint4& run, int i) {
  const std::uint32_t word = i < 2 ? run.x : i < 4 ? run.y : i < 6 ? run.z : run.w;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(i % 2 == 0 ? word & 0xffffu : word >> 16)));
}

template <typename T>
__device__ inline void norm_to(const StreamWork& work, const float (&scales)[kNormRuns][kNormRun], uint4* values) {
  const NormTask& task = work.around.norm;
  norm_row<T, T>(task, true, 0, scales, [&](std::int64_t at, const float(&x)[kNormRun], const float(&y)[kNormRun]) {
    write_run<T>(values, at, kNormRun, true, y);
    if (blockIdx.x > 0) return;
    if (task.sum != nullptr) write_run<T>(task.sum, at, kNormRun, true, x);
    write_run<T>(task.y, at, kNormRun, true, y);
  });
}

// As put() of one row; `other` holds the value of the row before, of the other product.
template <typename T>
__device__ inline void put_pair(const StreamWork& work, const StreamRow& row, float sum, T& other) {
  const ProductTask& task = work.group.tasks[row.product];
  const T value = narrow<T>(finished(task, 0, row.row, sum));
  static_cast<T*>(task.y)[row.row] = value;
  if (row.product == 1) static_cast<T*>(work.around.both)[row.row] = narrow<T>(widen(other) * widen(value));
  other = value;
}
#endif

template <typename T, bool kNormed>
__global__ void __launch_bounds__(kWarps * 32, 2) row_stream(const __grid_constant__ StreamWork work) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte memory[];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  std::byte* const ring = memory + warp * kStages * kStageBytes;
  auto* const barriers = reinterpret_cast<std::uint64_t*>(memory + kRingBytes) + warp * kStages;
  auto* const values = reinterpret_cast<uint4*>(memory + kRingBytes + kBarrierBytes);
  StreamSource source(work);
  if (lane == 0) {
    for (int s = 0; s < kStages; ++s) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_at(barriers + s)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    for (int s = 0; s < kStages; ++s) source.ask(ring + s * kStageBytes, barriers + s);  // no kernel writes weights
  }
  __syncwarp();
  const int runs = source.bytes / 16;
  if constexpr (kNormed) {
    const NormTask& norm = work.around.norm;
    float scales[kNormRuns][kNormRun];
    if (norm.constant_scale) read_scales<T>(norm, true, scales);
    after_previous();
    if (!norm.constant_scale) read_scales<T>(norm, true, scales);
    norm_to<T>(work, scales, values);
  } else {
    after_previous();
    const uint4* const x = static_cast<const uint4*>(work.group.tasks[0].a);
    for (int i = static_cast<int>(threadIdx.x); i < runs; i += kWarps * 32) values[i] = x[i];
  }
  __syncthreads();
  T other{};
  int stage = 0;
  unsigned phase = 0;
  for (int index = first_row(work); index < source.total; index = next_row(work, index)) {
    float sums[1][8] = {};
    for (int at = 0; at < runs; at += kStageBytes / 16) {
      await_stage(barriers + stage, phase);
      const uint4* const from = reinterpret_cast<const uint4*>(ring + stage * kStageBytes);
      uint4 weights[kStageBytes / kRunBytes];
#pragma unroll
      for (int u = 0; u < kStageBytes / kRunBytes; ++u) weights[u] = from[u * 32 + lane];
      __syncwarp();
      if (lane == 0) source.ask(ring + stage * kStageBytes, barriers + stage);
#pragma unroll
      for (int u = 0; u < kStageBytes / kRunBytes; ++u) {
        const int run = at + u * 32 + lane;
        if (run >= runs) break;
        const uint4 value = values[run];
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[0][i] = __fmaf_rn(number_at<T>(weights[u], i), number_at<T>(value, i), sums[0][i]);
      }
      if (++stage == kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
    const StreamRow row(work, index);
    if (work.around.both == nullptr) {
      finish_row<1>(work.group.tasks[row.product], sums, row.row, 0);
    } else if (const float sum = row_sum(sums[0]); lane == 0) {
      put_pair<T>(work, row, sum, other);
    }
  }
#endif
}

template <typename T>
cudaError_t start(const StreamWork& work, int processors, cudaStream_t stream) {
  const std::size_t bytes = kRingBytes + kBarrierBytes + static_cast<std::size_t>(work.group.tasks[0].k) * 2;
  const auto kernel = work.around.normed ? row_stream<T, true> : row_stream<T, false>;
  return launch_after(kernel, dim3(static_cast<unsigned>(processors)), kWarps * 32, std::max(bytes, kLeastShared), stream, work);
}

bool takes(const RowGroup& group, const RowAround& around) {
  const ProductTask& task = group.tasks[0];
  const auto aligned = [](std::initializer_list<const void*> all) {
    return std::all_of(all.begin(), all.end(), [](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; });
  };
  const bool pair = group.count == 2 && group.tasks[0].n == group.tasks[1].n && task.last && group.tasks[1].last &&
                    task.y_type == task.b_type && group.tasks[1].y_type == task.b_type;
  for (int t = 0; t < group.count; ++t) {
    for (std::int64_t i = 0; i * group.tables[t].rows < group.tasks[t].n; ++i) {
      if (!aligned({group.tables[t].slabs[i]})) return false;
    }
  }
  return task.k % 8 == 0 && aligned({task.a}) && (!around.normed || norm_fits(around.norm, task.b_type, task.a, task.k)) && (around.both == nullptr || pair);
}

bool streams(const RowGroup& group) {
  const ProductTask& task = group.tasks[0];
  std::int64_t rows = 0;
  for (int t = 0; t < group.count; ++t) {
    if (!group.tasks[t].constant_b) return false;
    rows += group.tasks[t].n;
  }
  const bool sixteen = task.b_type == DType::bf16 || task.b_type == DType::f16;
  return sixteen && task.m == 1 && task.batches == 1 && task.k >= kLeastDepth && task.k <= kMostDepth && rows >= kLeastRows &&
         rows < (1 << 30);
}

}  // namespace

bool launch_row_stream(const RowGroup& group, const RowAround& around, cudaStream_t stream, cudaError_t* error) {
  if (!streams(group) || !takes(group, around)) return false;
  cudaFuncAttributes made;  // bulk copies exist from 9.0 on
  int device = 0, processors = 0;
  *error = cudaFuncGetAttributes(&made, row_stream<__half, false>);
  if (*error != cudaSuccess || made.ptxVersion < 90) return false;
  *error = cudaGetDevice(&device);
  if (*error == cudaSuccess) *error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (*error != cudaSuccess) return false;
  StreamWork work;
  work.group = group;
  work.around = around;
  int rows = 0;
  for (int t = 0; t < group.count; ++t) work.ends[t] = rows += static_cast<int>(group.tasks[t].n);
  *error = group.tasks[0].b_type == DType::f16 ? start<__half>(work, processors, stream) : start<__nv_bfloat16>(work, processors, stream);
  return true;
}

}  // namespace forebay::cuda
