// Attention of one query with few keys: decoding. All of it is one launch: the keys of a unit are split among the blocks of a cluster, a
// block's warps have a row each, and of its keys a slice; a key is read by as many lanes as its head has runs of eight. Each warp has a
// running softmax in f32; slices are joined in order, then the cluster's blocks. Little code on purpose: between two products most of a
// small kernel's time is fetching its instructions.
#include <cooperative_groups.h>

#include <algorithm>

#include "runtime/cuda/attention_unit.cuh"

namespace forebay::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kMostWidth = 256;
static_assert(kMostOneRows <= kWarps);

struct OneShared {
  float most[kWarps], total[kWarps], mixed[kWarps][kMostWidth];
  float part_most[kWarps], part_total[kWarps], part[kWarps * kMostWidth];  // of this block's rows, for the others of its cluster
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900  // clusters
constexpr int kRun = 8;
constexpr int kPer = 4;  // keys and values a lane has under way

// Eight numbers from `column` on; zeros beyond `width`, or where they are not `wanted`.
template <typename T>
__device__ inline uint4 load_run(const T* from, int column, int width, bool wanted, bool aligned) {
  uint4 bits{};
  if (!wanted || column >= width) return bits;
  if (aligned) return *reinterpret_cast<const uint4*>(from + column);
  std::uint16_t* const to = reinterpret_cast<std::uint16_t*>(&bits);
  for (int i = 0; i < kRun; ++i) to[i] = reinterpret_cast<const std::uint16_t*>(from)[column + i];
  return bits;
}
template <typename T>
__device__ inline float number_of(const uint4& run, int i) {
  const std::uint32_t word = i < 2 ? run.x : i < 4 ? run.y : i < 6 ? run.z : run.w;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(i % 2 == 0 ? word & 0xffffu : word >> 16)));
}

// What a mask says of a key, as it lies: a switch of types in between would wait for each.
__device__ inline std::uint32_t mask_bits(const AttentionTask& t, std::int64_t at) {
  if (t.mask_type == DType::f32) return static_cast<const std::uint32_t*>(t.mask)[at];
  if (t.mask_type == DType::boolean) return static_cast<const std::uint8_t*>(t.mask)[at];
  return static_cast<const std::uint16_t*>(t.mask)[at];
}
__device__ inline float mask_number(const AttentionTask& t, std::uint32_t bits) {
  if (t.mask_type == DType::f32) return __uint_as_float(bits);
  if (t.mask_type == DType::boolean) return bits != 0 ? 0.0f : -INFINITY;
  if (t.mask_type == DType::bf16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// In powers of two. The largest negative numbers stay finite: a row of nothing else is an even mixture.
__device__ inline float power_score(const AttentionTask& t, std::uint32_t mask, float dot) {
  float x = capped(t, dot);
  if (t.mask != nullptr) x = masked_by(t, mask_number(t, mask), x);
  const float power = x * kLog2E;
  return power == -INFINITY && x != -INFINITY ? -3.402823466e38f : power;
}
__device__ inline float two_to(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

template <typename T>
struct OneWarp {
  float most = -INFINITY, total = 0, mixed[kRun] = {};

  // Keys [at, end) of this step; `lanes` lanes have a key.
  __device__ inline void step(const AttentionTask& t, const Unit& unit, int row, const uint4& q, int at, int end, int least, int lanes) {
    const int lane = static_cast<int>(threadIdx.x) % 32, column = lane % lanes * kRun, groups = 32 / lanes;
    uint4 keys[kPer], values[kPer];
    std::uint32_t marks[kPer] = {};
    float scores[kPer], top = most;
#pragma unroll
    for (int u = 0; u < kPer; ++u) {
      const int j = at + u * groups + lane / lanes, from = j < end ? j : at;
      keys[u] = load_run(unit.key<T>(t, t.k, t.past_key, t.k_strides, from, t.head), column, static_cast<int>(t.head), j < end, t.aligned);
      values[u] = load_run(unit.key<T>(t, t.v, t.past_value, t.v_strides, from, t.value_head), column, static_cast<int>(t.value_head),
                           j < end, t.aligned);
      if (t.mask != nullptr) marks[u] = mask_bits(t, unit.mask_row(t, row) + from * t.mask_strides[3]);
    }
#pragma unroll
    for (int u = 0; u < kPer; ++u) {
      const int j = at + u * groups + lane / lanes;
      float dot = 0;
#pragma unroll
      for (int i = 0; i < kRun; ++i) dot = fmaf(number_of<T>(q, i), number_of<T>(keys[u], i), dot);
      for (int half = lanes / 2; half > 0; half /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, half);
      scores[u] = j < end && j >= least ? power_score(t, marks[u], dot) : -INFINITY;
      top = fmaxf(top, scores[u]);  // passes over what is not a number: the weights show it
    }
    for (int half = 16; half >= lanes; half /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, half));
    const float level = finite_or_zero(top), factor = two_to(most - level);
    most = top;
    total *= factor;
#pragma unroll
    for (int i = 0; i < kRun; ++i) mixed[i] *= factor;
#pragma unroll
    for (int u = 0; u < kPer; ++u) {
      const float weight = two_to(scores[u] - level);
      total += weight;
#pragma unroll
      for (int i = 0; i < kRun; ++i) mixed[i] = fmaf(weight, number_of<T>(values[u], i), mixed[i]);
    }
  }

  // The warp's keys together, in the first `lanes` lanes, to shared memory.
  __device__ inline void share(OneShared& shared, int lanes) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    for (int half = 16; half >= lanes; half /= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, half);
#pragma unroll
      for (int i = 0; i < kRun; ++i) mixed[i] += __shfl_xor_sync(0xffffffffu, mixed[i], half);
    }
    if (lane == 0) {
      shared.most[warp] = most;
      shared.total[warp] = total;
    }
    if (lane >= lanes) return;
#pragma unroll
    for (int i = 0; i < kRun; ++i) shared.mixed[warp][lane * kRun + i] = mixed[i];
  }
};

// Sums of `count` parts under their largest level, in order.
struct Joined {
  float most = -INFINITY, total = 0, mixed = 0;
  // As below, of parts that lie far away: all are under way at once.
  template <int kMost, typename Most, typename Total, typename Mixed>
  __device__ inline void of_far(int count, const Most& tops, const Total& totals, const Mixed& parts) {
    float top[kMost], sums[kMost], mixture[kMost];
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const int from = i < count ? i : 0;
      top[i] = tops(from);
      sums[i] = totals(from);
      mixture[i] = parts(from);
    }
#pragma unroll
    for (int i = 0; i < kMost; ++i) most = i < count ? fmaxf(most, top[i]) : most;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= count) break;
      const float factor = two_to(top[i] - finite_or_zero(most));
      total = fmaf(sums[i], factor, total);
      mixed = fmaf(mixture[i], factor, mixed);
    }
  }
  template <typename Most, typename Total, typename Mixed>
  __device__ inline void of(int count, const Most& tops, const Total& totals, const Mixed& parts) {
    for (int i = 0; i < count; ++i) most = fmaxf(most, tops(i));
    for (int i = 0; i < count; ++i) {
      const float factor = two_to(tops(i) - finite_or_zero(most));
      total = fmaf(totals(i), factor, total);
      mixed = fmaf(parts(i), factor, mixed);
    }
  }
};

template <typename T>
__device__ inline void put_one(const AttentionTask& t, const Unit& unit, int row, int column, bool sees, const Joined& sum) {
  const float all = divisor(t, unit.head(t, row), sum.total, sum.most, kLn2);
  static_cast<T*>(t.y)[unit.place(t, t.y_strides, row) + column] = narrow<T>(settle(t, sees, sum.mixed, all));
}
#endif

template <typename T>
__global__ void __launch_bounds__(kWarps * 32, 2) attend_one(const __grid_constant__ AttentionTask t) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __shared__ OneShared shared;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int rows = static_cast<int>(t.q_heads) / static_cast<int>(t.kv_heads), slices = kWarps / rows, row = warp % rows,
            slice = warp / rows;
  const int width = static_cast<int>(t.value_head), wide = static_cast<int>(max(t.head, t.value_head));
  const int lanes = wide > 128 ? 32 : wide > 64 ? 16 : 8, step = kPer * (32 / lanes);
  const Unit unit(t, blockIdx.y);
  after_previous();
  const int all = static_cast<int>(unit.visible(t, 0)), least = t.window > 0 ? max(0, all - static_cast<int>(t.window)) : 0;
  const int from = static_cast<int>(blockIdx.x * t.split_keys), end = min(all, from + static_cast<int>(t.split_keys));
  const uint4 q = load_run(static_cast<const T*>(t.q) + unit.place(t, t.q_strides, row), lane % lanes * kRun, static_cast<int>(t.head),
                           true, t.aligned);
  OneWarp<T> own;
  for (int at = from + slice * step; slice < slices && at < end; at += slices * step) own.step(t, unit, row, q, at, end, least, lanes);
  own.share(shared, lanes);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * width; i += kWarps * 32) {
    const int own_row = i / width, column = i % width;
    Joined sum;
    sum.of(
        slices, [&](int s) { return shared.most[s * rows + own_row]; }, [&](int s) { return shared.total[s * rows + own_row]; },
        [&](int s) { return shared.mixed[s * rows + own_row][column]; });
    if (t.splits == 1) {
      put_one<T>(t, unit, own_row, column, all > 0, sum);
      continue;
    }
    shared.part[i] = sum.mixed;
    if (column > 0) continue;
    shared.part_most[own_row] = sum.most;
    shared.part_total[own_row] = sum.total;
  }
  if (t.splits == 1) return;
  const auto cluster = cooperative_groups::this_cluster();
  cluster.sync();
  const int splits = static_cast<int>(t.splits);
  for (int i = static_cast<int>(blockIdx.x) * kWarps * 32 + static_cast<int>(threadIdx.x); i < rows * width; i += splits * kWarps * 32) {
    const int own_row = i / width;
    const auto of = [&](float* place) {
      return [&, place](int block) { return *cluster.map_shared_rank(place, static_cast<unsigned>(block)); };
    };
    Joined sum;
    sum.of_far<kMostOneSplits>(splits, of(&shared.part_most[own_row]), of(&shared.part_total[own_row]), of(&shared.part[i]));
    put_one<T>(t, unit, own_row, i % width, all > 0, sum);
  }
  cluster.sync();  // what the others read stays until then
#endif
}

template <typename T>
cudaError_t start(const AttentionTask& t, cudaStream_t stream) {
  cudaLaunchAttribute wanted[2] = {};
  wanted[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  wanted[0].val.programmaticStreamSerializationAllowed = 1;
  wanted[1].id = cudaLaunchAttributeClusterDimension;
  wanted[1].val.clusterDim.x = static_cast<unsigned>(t.splits);
  wanted[1].val.clusterDim.y = wanted[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(t.splits), static_cast<unsigned>(t.batch * t.kv_heads));
  config.blockDim = dim3(kWarps * 32);
  config.stream = stream;
  config.attrs = wanted;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, attend_one<T>, t);
}

}  // namespace

bool serves_attention_one(const AttentionTask& t) {
  if (t.queries != 1 || t.q_heads / t.kv_heads > kMostOneRows || t.past + t.keys > kMostOneKeys || t.batch * t.kv_heads > kMostOneUnits)
    return false;
  cudaFuncAttributes made;  // clusters exist from 9.0 on, in the device and in the code made for it
  int device = 0, major = 0;
  const bool known = cudaFuncGetAttributes(&made, attend_one<__half>) == cudaSuccess && cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess;
  return known && made.ptxVersion >= 90 && major >= 9;
}

cudaError_t launch_attention_one(const AttentionTask& task, cudaStream_t stream) {
  return task.type == DType::f16 ? start<__half>(task, stream) : start<__nv_bfloat16>(task, stream);
}

}  // namespace forebay::cuda
