// attention_short.cu's task on GPUs of compute capability 9.0: a warpgroup has 64 queries of a head at a time and multiplies by itself
// (wgmma); all keys and values of the head stay in shared memory while its queries pass by. Other blocks of the multiprocessor multiply
// while this one weighs its scores.
#include <algorithm>

#include "runtime/cuda/attention_short.cuh"
#include "runtime/cuda/hopper_products.cuh"

namespace forebay::cuda {
namespace {

constexpr int kMultiprocessors = 132;

// Scores of 2 * kHalf keys, so that a product of half of them fits one instruction whose registers are named; kBlocks fit a multiprocessor.
template <typename T, int half, int blocks>
struct ShortForm {
  using Type = T;
  static constexpr int kHalf = half, kKeys = 2 * half, kParts = half / 8, kBlocks = blocks;
  static constexpr int kBytes = (2 * kKeys + 2 * kRows) * kRowBytes + 1024;
};

#define FB_SUMS_4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define FB_SUMS_52 FB_SUMS_32(0), FB_SUMS_8(8), FB_SUMS_8(10), FB_SUMS_4(12)
#define FB_NAMES_52 FB_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51"
// d[64 x n] = a * b' (+ d), 16 columns of both in shared memory.
#define FB_SCORES_OF(n, type, names, a_name, b_name, more_name, ...)                                                                    \
  asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, " more_name ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type \
               " {" names "}, " a_name ", " b_name ", more, 1, 1, 0, 0;\n}\n"                                                           \
               : __VA_ARGS__                                                                                                            \
               : "l"(a), "l"(b), "r"(more))
#define FB_SCORES_FOR(type)                                                                    \
  if constexpr (kParts == 8) {                                                                 \
    FB_SCORES_OF("64", type, FB_NAMES_32, "%32", "%33", "%34", FB_SUMS_32(0));                 \
  } else if constexpr (kParts == 13) {                                                         \
    FB_SCORES_OF("104", type, FB_NAMES_52, "%52", "%53", "%54", FB_SUMS_52);                   \
  } else {                                                                                     \
    FB_SCORES_OF("128", type, FB_NAMES_64, "%64", "%65", "%66", FB_SUMS_32(0), FB_SUMS_32(8)); \
  }
template <typename T, int kParts>
__device__ __forceinline__ void multiply_scores(float (&d)[kParts][4], std::uint64_t a, std::uint64_t b, int more) {
  static_assert(kParts == 8 || kParts == 13 || kParts == 16);
  if constexpr (std::is_same_v<T, __half>) {
    FB_SCORES_FOR("f16")
  } else {
    FB_SCORES_FOR("bf16")
  }
}

// d[64 x 64] = a * b (+ d): a in registers, 16 rows of b in shared memory.
#define FB_MIX(type)                                                                                                       \
  asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type \
               " {" FB_NAMES_32 "}, {%32, %33, %34, %35}, %36, more, 1, 1, 1;\n}\n"                                        \
               : FB_SUMS_32(0)                                                                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more))
template <typename T>
__device__ __forceinline__ void mix_values(float (&d)[8][4], const unsigned (&a)[4], std::uint64_t b, int more) {
  if constexpr (std::is_same_v<T, __half>) {
    FB_MIX("f16");
  } else {
    FB_MIX("bf16");
  }
}

// Scores to weights, and the sum of a row's. The scale is above 0.
template <int kParts>
__device__ __forceinline__ void weigh(const AttentionTask& t, float (&scores)[2][kParts][4], float (&total)[2]) {
  const int key = static_cast<int>(threadIdx.x) % 4 * 2, keys = static_cast<int>(t.keys);
  const float scale = t.scale * kLog2E;
  float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int part = 0; part < 2 * kParts; ++part) {
    float(&four)[4] = scores[part / kParts][part % kParts];
    if (part * 8 + 8 > keys) {
#pragma unroll
      for (int e = 0; e < 4; ++e) four[e] = part * 8 + key + e % 2 < keys ? four[e] : -INFINITY;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) top[e / 2] = fmaxf(top[e / 2], four[e]);
  }
  float level[2], sums[4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 1));
    top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 2));
    level[half] = -finite_or_zero(top[half]) * scale;
  }
#pragma unroll
  for (int part = 0; part < 2 * kParts; ++part) {
    float(&four)[4] = scores[part / kParts][part % kParts];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      four[e] = power_of_two(__fmaf_rn(four[e], scale, level[e / 2]));
      sums[e] += four[e];
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] = sums[half * 2] + sums[half * 2 + 1];
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
  }
}

// A warp's 16 rows through its own rows of `tile`, so that they leave 16 bytes a thread.
template <typename T>
__device__ __forceinline__ void write_rows(const AttentionTask& t, unsigned tile, char* y, int count, const float (&mixed)[8][4],
                                           const float (&total)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + lane / 4 + half * 8;
    const float inverse = settle(t, true, 1.0f, total[half]);  // 0: the row is 0, whatever is there
    const auto settled = [&](float sum) { return inverse == 0.0f ? 0.0f : sum * inverse; };
#pragma unroll
    for (int part = 0; part < 8; ++part) {
      const unsigned two = pack_two<T>(settled(mixed[part][half * 2]), settled(mixed[part][half * 2 + 1]));
      asm volatile("st.shared.u32 [%0], %1;\n" ::"r"(piece_of<kRows>(tile, row, part) + lane % 4 * 4), "r"(two) : "memory");
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = warp * 16 + i * 4 + lane / 8, piece = lane % 8;
    uint4 bits;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "r"(piece_of<kRows>(tile, row, piece))
                 : "memory");
    if (row < count) *reinterpret_cast<uint4*>(y + 2 * (row * t.y_strides[2] + piece * 8)) = bits;
  }
}

// `lots` blocks share the queries of a head, 64 at a time by turns.
template <typename Form>
__global__ void __launch_bounds__(kThreads, Form::kBlocks) attend_short_hopper(const __grid_constant__ AttentionTask t, int lots) {
  using T = typename Form::Type;
  constexpr int kParts = Form::kParts, kKeys = Form::kKeys;
  extern __shared__ uint4 memory[];
  const unsigned keys = (shared_address(memory) + 1023) / 1024 * 1024, values = keys + kKeys * kRowBytes,
                 queries = values + kKeys * kRowBytes;
  const ShortUnit<T> unit(t, lots);
  const int count = static_cast<int>(t.queries), step = lots * kRows;
  int first = unit.first;
  const T* const q = unit.queries(t);
  char* const y = static_cast<char*>(t.y) + 2 * (unit.batch * t.y_strides[0] + unit.head * t.y_strides[1]);
  after_previous();
  copy_head<kRows>(queries, q + first * t.q_strides[2], t.q_strides[2], count - first);
  unit.template copy_keys<kKeys>(keys, t);
  close_copies();
  unit.template copy_values<kKeys>(values, t);
  close_copies();
  asm volatile("cp.async.wait_group 1;\n" ::: "memory");
#pragma unroll 1
  for (int turn = 0; first < count; ++turn, first += step) {
    const unsigned own = queries + static_cast<unsigned>(turn % 2 * kRows * kRowBytes),
                   next = queries + static_cast<unsigned>((turn + 1) % 2 * kRows * kRowBytes);
    if (turn > 0) wait_for_copies();
    show_copies();
    __syncthreads();  // also: nobody reads what the last turn left in `next`
    if (first + step < count) copy_head<kRows>(next, q + (first + step) * t.q_strides[2], t.q_strides[2], count - first - step);
    close_copies();
    float scores[2][kParts][4], total[2], mixed[8][4];
    fence_products();
#pragma unroll
    for (int k = 0; k < kHead / 16; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        multiply_scores<T>(scores[half], product_matrix(own + k * 32, 16),
                           product_matrix(keys + static_cast<unsigned>(half * Form::kHalf * kRowBytes + k * 32), 16), k);
      }
    }
    commit_products();
    await_products<0>();
    weigh<kParts>(t, scores, total);
    unsigned weights[kKeys / 16][4];
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const float(&low)[4] = scores[2 * k / kParts][2 * k % kParts], (&high)[4] = scores[(2 * k + 1) / kParts][(2 * k + 1) % kParts];
      weights[k][0] = pack_two<T>(low[0], low[1]);
      weights[k][1] = pack_two<T>(low[2], low[3]);
      weights[k][2] = pack_two<T>(high[0], high[1]);
      weights[k][3] = pack_two<T>(high[2], high[3]);
    }
    if (turn == 0) {
      asm volatile("cp.async.wait_group 1;\n" ::: "memory");
      show_copies();
      __syncthreads();
    }
    fence_products();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
      mix_values<T>(mixed, weights[k], product_matrix(values + static_cast<unsigned>(k * 16 * kRowBytes), kKeys * kRowBytes), k);
    commit_products();
    await_products<0>();
    write_rows<T>(t, own, y + 2 * first * t.y_strides[2], count - first, mixed, total);
  }
}

// As few loads of keys and values as leave no multiprocessor idle.
template <typename Form>
cudaError_t start(const AttentionTask& t, cudaStream_t stream) {
  const std::int64_t units = t.q_heads * t.batch, tiles = (t.queries + kRows - 1) / kRows;
  const std::int64_t lots = std::clamp<std::int64_t>(kMultiprocessors * Form::kBlocks / units, 1, tiles), turns = (tiles + lots - 1) / lots;
  const auto even = static_cast<int>((tiles + turns - 1) / turns);
  return launch_after(attend_short_hopper<Form>, dim3(static_cast<unsigned>(units * even)), kThreads, Form::kBytes, stream, t, even);
}
template <typename T>
cudaError_t by_keys(const AttentionTask& t, cudaStream_t stream) {
  if (t.keys <= 128) return start<ShortForm<T, 64, 4>>(t, stream);
  if (t.keys <= 208) return start<ShortForm<T, 104, 3>>(t, stream);
  return start<ShortForm<T, 128, 2>>(t, stream);
}

}  // namespace

cudaError_t launch_attention_short_hopper(const AttentionTask& t, cudaStream_t stream) {
  return t.type == DType::f16 ? by_keys<__half>(t, stream) : by_keys<__nv_bfloat16>(t, stream);
}

}  // namespace forebay::cuda
