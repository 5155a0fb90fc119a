// Attention of encoders: at most 256 keys of 64 numbers, all of them seen. A block has 64 queries of a head and all keys and values in
// shared memory, a warp 16 rows; a row's scores stay in registers, so its softmax is one pass. Little code: all of it is run once.
#include "runtime/cuda/attention_short.cuh"

namespace forebay::cuda {
namespace {

// Scores to weights; the sum of them of this thread's columns in `total`.
template <int kKeys>
__device__ __forceinline__ void weigh(const AttentionTask& t, float (&scores)[kKeys / 8][4], float (&total)[2]) {
  const int key = static_cast<int>(threadIdx.x) % 4 * 2, keys = static_cast<int>(t.keys);
  const float scale = t.scale * kLog2E;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = -INFINITY;
#pragma unroll
    for (int part = 0; part < kKeys / 8; ++part) {
#pragma unroll
      for (int e = half * 2; e < half * 2 + 2; ++e) {
        scores[part][e] = key + part * 8 + e % 2 < keys ? scores[part][e] * scale : -INFINITY;
        top = fmaxf(top, scores[part][e]);
      }
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float level = finite_or_zero(top);
    total[half] = 0;
#pragma unroll
    for (int part = 0; part < kKeys / 8; ++part) {
#pragma unroll
      for (int e = half * 2; e < half * 2 + 2; ++e) {
        scores[part][e] = power_of_two(scores[part][e] - level);
        total[half] += scores[part][e];
      }
    }
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
  }
}

template <typename T, int kKeys>
__global__ void __launch_bounds__(kThreads) attend_short(const __grid_constant__ AttentionTask t) {
  extern __shared__ uint4 memory[];
  const unsigned queries = (shared_address(memory) + 1023) / 1024 * 1024, keys = queries + kRows * kRowBytes,
                 values = keys + kKeys * kRowBytes;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const ShortUnit<T> unit(t, static_cast<int>((t.queries + kRows - 1) / kRows));
  after_previous();
  copy_head<kRows>(queries, unit.queries(t) + unit.first * t.q_strides[2], t.q_strides[2], static_cast<int>(t.queries) - unit.first);
  unit.template copy_keys<kKeys>(keys, t);
  close_copies();
  unit.template copy_values<kKeys>(values, t);
  close_copies();
  asm volatile("cp.async.wait_group 1;\n" ::: "memory");
  __syncthreads();
  float scores[kKeys / 8][4] = {};
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k) {
    unsigned a[4];
    load_fragments(a, piece_of<kRows>(queries, warp * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int pair = 0; pair < kKeys / 16; ++pair) {
      unsigned b[4];
      load_fragments(b, piece_of<kKeys>(keys, pair * 16 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
      multiply_add<T>(scores[2 * pair], a, b[0], b[1]);
      multiply_add<T>(scores[2 * pair + 1], a, b[2], b[3]);
    }
  }
  float total[2], mixed[kHead / 8][4] = {};
  weigh<kKeys>(t, scores, total);
  wait_for_copies();
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    const float(&low)[4] = scores[2 * k], (&high)[4] = scores[2 * k + 1];
    const unsigned a[4] = {pack_two<T>(low[0], low[1]), pack_two<T>(low[2], low[3]), pack_two<T>(high[0], high[1]),
                           pack_two<T>(high[2], high[3])};
#pragma unroll
    for (int pair = 0; pair < kHead / 16; ++pair) {
      unsigned b[4];
      load_turned(b, piece_of<kKeys>(values, k * 16 + lane % 16, 2 * pair + lane / 16));
      multiply_add<T>(mixed[2 * pair], a, b[0], b[1]);
      multiply_add<T>(mixed[2 * pair + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = unit.first + warp * 16 + lane / 4 + half * 8;
    if (row >= t.queries) continue;
    T* const to = static_cast<T*>(t.y) + unit.batch * t.y_strides[0] + unit.head * t.y_strides[1] + row * t.y_strides[2] + lane % 4 * 2;
#pragma unroll
    for (int part = 0; part < kHead / 8; ++part) {
      *reinterpret_cast<unsigned*>(to + part * 8) =
          pack_two<T>(settle(t, true, mixed[part][half * 2], total[half]), settle(t, true, mixed[part][half * 2 + 1], total[half]));
    }
  }
}

template <typename T, int kKeys>
cudaError_t start(const AttentionTask& t, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((t.queries + kRows - 1) / kRows * t.q_heads * t.batch);
  return launch_after(attend_short<T, kKeys>, dim3(blocks), kThreads, (kRows + 2 * kKeys) * kRowBytes + 1024, stream, t);
}
template <typename T>
cudaError_t by_keys(const AttentionTask& t, cudaStream_t stream) {
  if (t.keys <= 128) return start<T, 128>(t, stream);
  if (t.keys <= 208) return start<T, 208>(t, stream);
  return start<T, 256>(t, stream);
}

}  // namespace

bool serves_attention_short(const AttentionTask& t) {
  const auto pieces = [](const std::int64_t(&strides)[3]) { return (strides[0] | strides[1] | strides[2]) % 8 == 0; };
  return (t.type == DType::f16 || t.type == DType::bf16) && t.head == kHead && t.value_head == kHead && t.past == 0 && t.keys <= 256 &&
         t.keys > 0 && t.queries > 16 && t.mask == nullptr && t.lengths == nullptr && t.sinks == nullptr && !t.sink_of_zero && !t.causal &&
         t.softcap == 0 && t.aligned && pieces(t.q_strides) && pieces(t.k_strides) && pieces(t.v_strides) && pieces(t.y_strides) &&
         t.batch * t.q_heads * t.queries < (std::int64_t{1} << 31);
}

cudaError_t launch_attention_short(const AttentionTask& t, cudaStream_t stream) {
#ifdef FOREBAY_CUDA_HOPPER
  bool warpgroups = false;
  const cudaError_t error = find_warpgroups(&warpgroups);
  if (error != cudaSuccess) return error;
  if (warpgroups && t.scale > 0) return launch_attention_short_hopper(t, stream);
#endif
  return t.type == DType::f16 ? by_keys<__half>(t, stream) : by_keys<__nv_bfloat16>(t, stream);
}

}  // namespace forebay::cuda
