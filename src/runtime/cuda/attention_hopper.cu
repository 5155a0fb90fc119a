// Prompts on GPUs of compute capability 9.0: as attention_flash.cuh has it, but the products are warpgroups' (wgmma), which read keys and
// values from shared memory by themselves. Two warpgroups have 64 rows each; a third copies tiles of 128 keys ahead of them.
#include "runtime/cuda/attention_flash.cuh"
#include "runtime/cuda/hopper_products.cuh"

namespace forebay::cuda {
namespace {

constexpr int kComputing = 256, kCopying = 128, kThreads = kComputing + kCopying;

// d[64 x 128] = a * b' (+ d), both in shared memory, 16 columns of them.
#define FB_SCORES(type)                                                                                                     \
  asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " {" FB_NAMES_64 "}, %64, %65, more, 1, 1, 0, 0;\n}\n"                                                        \
               : FB_SUMS_32(0), FB_SUMS_32(8)                                                                                   \
               : "l"(a), "l"(b), "r"(more))
template <typename T>
__device__ __forceinline__ void multiply_scores(float (&d)[16][4], std::uint64_t a, std::uint64_t b, int more) {
  if constexpr (sizeof(T) == 2 && std::is_same_v<T, __half>) {
    FB_SCORES("f16");
  } else {
    FB_SCORES("bf16");
  }
}

// d[64 x 64 or 128] += a * b: a in registers, 16 rows of b in shared memory.
#define FB_MIX_128(type)                                                                                                                  \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" FB_NAMES_64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n" \
               : FB_SUMS_32(0), FB_SUMS_32(8)                                                                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define FB_MIX_64(type)                                                                                                                  \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" FB_NAMES_32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n" \
               : FB_SUMS_32(0)                                                                                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
template <typename T>
__device__ __forceinline__ void mix_values(float (&d)[16][4], const unsigned (&a)[4], std::uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_MIX_128("f16");
  } else {
    FB_MIX_128("bf16");
  }
}
template <typename T>
__device__ __forceinline__ void mix_values(float (&d)[8][4], const unsigned (&a)[4], std::uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_MIX_64("f16");
  } else {
    FB_MIX_64("bf16");
  }
}

// Keys and values take turns in four places of a ring.
struct HopperRing {
  unsigned tiles, full, empty, tile_bytes;
  __device__ __forceinline__ unsigned place(int turn) const { return tiles + static_cast<unsigned>(turn % 4) * tile_bytes; }
  __device__ __forceinline__ void wait_full(int turn) const { await_turn(full + static_cast<unsigned>(turn % 4) * 8, turn / 4); }
  __device__ __forceinline__ void wait_empty(int turn) const {
    if (turn >= 4) await_turn(empty + static_cast<unsigned>(turn % 4) * 8, turn / 4 - 1);
  }
  __device__ __forceinline__ void filled(int turn, bool by_copies) const {
    const unsigned at = full + static_cast<unsigned>(turn % 4) * 8;
    if (by_copies) return arrive_behind_copies(at);
    arrive_at(at);
  }
  __device__ __forceinline__ void used(int turn) const { arrive_at(empty + static_cast<unsigned>(turn % 4) * 8); }
};

// Four barriers of each kind, then the queries and the ring, at multiples of 1024 bytes.
template <typename Form>
constexpr int kHopperBytes = Form::kRowsBytes + 4 * Form::kTileBytes + 2048;

template <typename Form>
__device__ __forceinline__ void compute(FlashBlock<Form>& block, const HopperRing& ring, int from, int end, bool skip, int* turn) {
  using T = typename Form::Type;
  block.clear();
  for (int at = block.next_tile(from, from, end, skip); at < end; at = block.next_tile(from, at + Form::kTile, end, skip)) {
    float scores[1][16][4], factors[1][2];
    ring.wait_full(*turn);
    show_copies();
    fence_products();
#pragma unroll
    for (int k = 0; k < Form::kHead / 16; ++k) {
      const unsigned column = static_cast<unsigned>(k % 4 * 32), rows = threadIdx.x / 128 * 64 * 128;
      multiply_scores<T>(scores[0], product_matrix(block.queries + static_cast<unsigned>(k / 4 * Form::kRows * 128) + rows + column, 16),
                         product_matrix(ring.place(*turn) + static_cast<unsigned>(k / 4 * Form::kTile * 128) + column, 16), k > 0);
    }
    commit_products();
    await_products<0>();
    ring.used(*turn);
    block.settle_scores(at, skip ? block.kind_at(from, at, end) : kMixed, scores, factors);
    block.level_mixed(factors);
    ring.wait_full(*turn + 1);
    show_copies();
    unsigned weights[Form::kTile / 16][4];
#pragma unroll
    for (int k = 0; k < Form::kTile / 16; ++k) {
      const float(&low)[4] = scores[0][2 * k], (&high)[4] = scores[0][2 * k + 1];
      weights[k][0] = pack_two<T>(low[0], low[1]);
      weights[k][1] = pack_two<T>(low[2], low[3]);
      weights[k][2] = pack_two<T>(high[0], high[1]);
      weights[k][3] = pack_two<T>(high[2], high[3]);
    }
    fence_products();
#pragma unroll
    for (int k = 0; k < Form::kTile / 16; ++k) {
      mix_values<T>(block.mixed[0], weights[k], product_matrix(ring.place(*turn + 1) + static_cast<unsigned>(k * 16 * 128), Form::kTile * 128));
    }
    commit_products();
    await_products<0>();
    ring.used(*turn + 1);
    *turn += 2;
  }
}

template <typename Form>
__device__ __forceinline__ void copy_ahead(const FlashBlock<Form>& block, const HopperRing& ring, int from, int end, bool skip, int* turn) {
  const int own = static_cast<int>(threadIdx.x) - kComputing;
  for (int at = block.next_tile(from, from, end, skip); at < end; at = block.next_tile(from, at + Form::kTile, end, skip)) {
    ring.wait_empty(*turn);
    block.template copy_keys<kCopying>(ring.place(*turn), own, at);
    ring.filled(*turn, block.t.aligned);
    ring.wait_empty(*turn + 1);
    block.template copy_values<kCopying>(ring.place(*turn + 1), own, at);
    ring.filled(*turn + 1, block.t.aligned);
    *turn += 2;
  }
}

template <typename Form>
__global__ void __launch_bounds__(kThreads, 1) attend_hopper(const __grid_constant__ AttentionTask t) {
  extern __shared__ uint4 memory[];
  __shared__ FlashShared shared;
  const FlashPlace place(t, Form::kRows);
  const unsigned barriers = shared_address(memory), queries = (barriers + 64 + 1023) / 1024 * 1024;
  FlashBlock<Form> block(t, place.unit, place.first, place.behind, queries, shared);
  const HopperRing ring{queries + Form::kRowsBytes, barriers, barriers + 32, Form::kTileBytes};
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < 4; ++i) {
      begin_barrier(ring.full + i * 8, kCopying);
      begin_barrier(ring.empty + i * 8, kComputing);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  block.find_limits();
  block.template copy_queries<kThreads>(static_cast<int>(threadIdx.x));
  close_copies();
  int from = 0, end = 0, turn = 0;
  block.range(&from, &end);
  wait_for_copies();
  show_copies();
  const bool numbers = block.read_kinds(from, end);
  __syncthreads();
  bool skip = t.kinds != nullptr, again = numbers;
  if (threadIdx.x >= kComputing) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;\n");
    do {
      copy_ahead(block, ring, from, end, skip, &turn);
      again = again && skip && __syncthreads_or(false) != 0;
      skip = false;
    } while (again);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;\n");
    do {
      compute(block, ring, from, end, skip, &turn);
      again = again && skip && __syncthreads_or(block.saw_nothing()) != 0;
      skip = false;
    } while (again);
    block.finish_totals();
    block.write(place.unit);
  }
}

template <typename Form>
cudaError_t start_hopper(const AttentionTask& t, cudaStream_t stream) {
  const std::int64_t rows = t.joined ? t.queries * (t.q_heads / t.kv_heads) : t.queries,
                     lots = t.batch * (t.joined ? t.kv_heads : t.q_heads);
  const dim3 grid(static_cast<unsigned>((rows + Form::kRows - 1) / Form::kRows * lots), static_cast<unsigned>(t.splits));
  const cudaError_t error = cudaFuncSetAttribute(attend_hopper<Form>, cudaFuncAttributeMaxDynamicSharedMemorySize, kHopperBytes<Form>);
  if (error != cudaSuccess) return error;
  attend_hopper<Form><<<grid, kThreads, kHopperBytes<Form>, stream>>>(t);
  return cudaGetLastError();
}

template <typename T>
cudaError_t start_by_head(const AttentionTask& t, cudaStream_t stream) {
  if (std::max(t.head, t.value_head) <= 64) return start_hopper<FlashForm<T, 64, 8, 1, 1, 128>>(t, stream);
  return start_hopper<FlashForm<T, 128, 8, 1, 1, 128>>(t, stream);
}

}  // namespace

cudaError_t launch_attention_hopper(const AttentionTask& task, cudaStream_t stream) {
  return task.type == DType::f16 ? start_by_head<__half>(task, stream) : start_by_head<__nv_bfloat16>(task, stream);
}

}  // namespace forebay::cuda
