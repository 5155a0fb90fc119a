// Attention of one query: decoding. All of it is one launch: the keys of a unit are split among the blocks of a cluster, and a block's
// warps take 16 of them at a time, for up to 8 rows at once, on the tensor cores: scores turned about (keys by rows), mixtures turned about
// (columns by rows). Keys and values come from memory straight into the registers that the products want: which column or key is which of a
// product's is up to who reads it, as long as both operands agree. Weights are two numbers of 16 bits each, so that they are as good as
// f32. Each warp has a running softmax in f32; warps are joined in order, then the cluster's blocks. Where asked, the same launch rotates
// queries and the new key, and puts new keys and values behind those of earlier passes.
#include <cooperative_groups.h>

#include <algorithm>

#include "runtime/cuda/attention_around.h"
#include "runtime/cuda/attention_tile.cuh"
#include "runtime/cuda/attention_unit.cuh"

#pragma nv_diag_suppress 177  // names that only kernels for 9.0 use

namespace forebay::cuda {
namespace {

constexpr int kRows = 8, kStep = 16;  // of a product: rows, keys
constexpr int kWarps = 8, kThreads = kWarps * 32;

template <typename T_, int kHead_, bool kAligned_, bool kAround_>
struct OneForm {
  using T = T_;
  static constexpr int kHead = kHead_;
  static constexpr bool kAligned = kAligned_, kAround = kAround_;
  static constexpr bool kAhead = kHead <= 128;  // registers hold values beside keys
  static constexpr int kWide = kHead + 2;       // from row to row: fewer lanes meet in a bank
};

template <typename Form>
struct OneShared {
  float most[kWarps][kRows], total[kWarps][kRows];
  float mixed[kWarps][kRows][Form::kWide];
  float part_most[kRows], part_total[kRows], part[kRows * Form::kHead];  // of this block, for the others of its cluster
  // Queries and the new key, rotated; rows lie such that lanes do not meet in a bank.
  typename Form::T turned[Form::kAround ? kRows + 1 : 1][Form::kHead + 8];
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900  // clusters
// Eight numbers; zeros where they are not `wanted`.
template <bool kAligned, typename T>
__device__ __forceinline__ uint4 load_run(const T* from, bool wanted) {
  uint4 bits{};
  if (!wanted) return bits;
  if constexpr (kAligned) return *reinterpret_cast<const uint4*>(from);
  const auto* const x = reinterpret_cast<const std::uint16_t*>(from);
  const auto two = [&](int i) { return static_cast<unsigned>(x[i]) | static_cast<unsigned>(x[i + 1]) << 16; };
  return make_uint4(two(0), two(2), two(4), two(6));
}

__device__ __forceinline__ float table_at(const TurnedRows& by, const void* table, std::int64_t at) {
  if (by.table_type == DType::f32) return static_cast<const float*>(table)[at];
  if (by.table_type == DType::f16) return widen(static_cast<const __half*>(table)[at]);
  return widen(static_cast<const __nv_bfloat16*>(table)[at]);
}

// An 8 by 8 tile of 16-bit numbers turned about.
__device__ __forceinline__ unsigned turned(unsigned x) {
  unsigned y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
  return y;
}

// What a mask says of a key, as it lies, and what that is.
__device__ __forceinline__ std::uint32_t mask_bits(const AttentionTask& t, std::int64_t at) {
  if (t.mask_type == DType::f32) return static_cast<const std::uint32_t*>(t.mask)[at];
  if (t.mask_type == DType::boolean) return static_cast<const std::uint8_t*>(t.mask)[at];
  return static_cast<const std::uint16_t*>(t.mask)[at];
}
__device__ __forceinline__ float mask_number(const AttentionTask& t, std::uint32_t bits) {
  if (t.mask_type == DType::f32) return __uint_as_float(bits);
  if (t.mask_type == DType::boolean) return bits != 0 ? 0.0f : -INFINITY;
  if (t.mask_type == DType::bf16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// In powers of two. The largest negative numbers stay finite: a row of nothing else is an even mixture.
__device__ __forceinline__ float power_score(const AttentionTask& t, std::uint32_t mask, float dot) {
  float x = capped(t, dot);
  if (t.mask != nullptr) x = masked_by(t, mask_number(t, mask), x);
  const float power = x * kLog2E;
  return power == -INFINITY && x != -INFINITY ? -3.402823466e38f : power;
}

// Lane l has keys l / 4 and l / 4 + 8 of a step and rows l % 4 * 2 and the next; of the mixture columns 8 (l / 4) to 8 (l / 4) + 7 of
// each 64.
template <typename Form>
struct OneWarp {
  using T = typename Form::T;
  static constexpr int kHead = Form::kHead, kRuns = kHead / 32, kPieces = kHead / 64;

  const AttentionTask& t;
  const AttentionAround& a;
  const int lane = static_cast<int>(threadIdx.x) % 32, eighth = lane / 4, quarter = lane % 4;
  const T *old_keys, *old_values, *now_keys, *now_values;  // key 0 of either
  const int past, first, rows;                             // keys of old_keys; this block's first row, and where they end
  const std::int64_t plane;
  std::int64_t mask_rows[2];
  uint4 q[kRuns], keys[2][kRuns], values[4][kPieces];
  std::uint32_t marks[2][2] = {};
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {}, mixed[kPieces * 4][4] = {};

  __device__ __forceinline__ OneWarp(const AttentionTask& task, const AttentionAround& around, const Unit& unit, int begin, int behind)
      : t(task),
        a(around),
        past(static_cast<int>(Form::kAround ? around.keys.rows : task.past)),
        first(begin),
        rows(behind),
        plane(unit.b * task.kv_heads + unit.kv_head) {
    const auto row = [](const void* at, std::int64_t offset) { return static_cast<const T*>(at) + offset; };
    if constexpr (Form::kAround) {
      old_keys = row(a.keys.past, plane * a.keys.past_pitch);
      old_values = row(a.values.past, plane * a.values.past_pitch);
      now_keys = old_keys;  // the new one is in shared memory
      now_values = row(a.values.now, (plane - past) * t.value_head);
    } else {
      old_keys = row(t.past_key, plane * t.past * t.head);
      old_values = row(t.past_value, plane * t.past * t.value_head);
      now_keys = row(t.k, unit.b * t.k_strides[0] + unit.kv_head * t.k_strides[1] - t.past * t.k_strides[2]);
      now_values = row(t.v, unit.b * t.v_strides[0] + unit.kv_head * t.v_strides[1] - t.past * t.v_strides[2]);
    }
    for (int i = 0; i < 2; ++i) {
      const std::int64_t head = unit.kv_head * unit.group + min(first + quarter * 2 + i, rows - 1);
      mask_rows[i] = unit.b * t.mask_strides[0] + head * t.mask_strides[1];
    }
    if constexpr (Form::kAround) return;
    const T* const from = row(t.q, unit.b * t.q_strides[0] + (unit.kv_head * unit.group + first + eighth) * t.q_strides[1]);
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const int column = r * 32 + quarter * 8;
      q[r] = load_run<Form::kAligned>(from + column, first + eighth < rows && column < t.head);
    }
  }

  // A row that lies in the quarters' registers.
  __device__ __forceinline__ void store(T* to, const uint4 (&runs)[kRuns]) const {
#pragma unroll
    for (int r = 0; r < kRuns; ++r) *reinterpret_cast<uint4*>(to + r * 32 + quarter * 8) = runs[r];
  }
  // The block's queries, and the new key where it is this block's, into shared memory and where they would lie otherwise: little code, and
  // the same sums as the rotation's own kernel.
  __device__ __forceinline__ void turn(OneShared<Form>& shared, bool with_key) const {
    constexpr int kHalf = kHead / 2;
    const int own = min(rows - first, kRows);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < (own + (with_key ? 1 : 0)) * kHalf; i += kThreads) {
      const int row = i / kHalf, at = i % kHalf;
      const bool key = row == own;
      const TurnedRows& by = key ? a.turned_keys : a.turned_queries;
      const bool turns = by.rows > 0;
      const std::int64_t place = (key ? plane : plane * rows + first + row) * kHead + at;
      const T* const x = static_cast<const T*>(turns ? by.x : key ? a.keys.now : t.q) + place;
      T low = x[0], high = x[kHalf];
      if (turns) {
        const float x1 = widen(low), x2 = widen(high);
        low = narrow<T>(x1 * table_at(by, by.cos, at) - x2 * table_at(by, by.sin, at));
        high = narrow<T>(x2 * table_at(by, by.cos, at + by.cos_step) + x1 * table_at(by, by.sin, at + by.sin_step));
      }
      T* const to = shared.turned[key ? kRows : row];
      to[at] = low;
      to[at + kHalf] = high;
      if (!turns || (key ? first > 0 : blockIdx.x > 0)) continue;
      T* const y = static_cast<T*>(by.y) + place;
      y[0] = low;
      y[kHalf] = high;
    }
  }
  __device__ __forceinline__ void take_queries(const OneShared<Form>& shared) {
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      q[r] = first + eighth < rows ? *reinterpret_cast<const uint4*>(&shared.turned[eighth][r * 32 + quarter * 8]) : uint4{};
    }
  }
  // Keys from `at` on are there: what is to lie in the cache goes there. Keys that no row sees are left out of the mixture, whatever lies
  // there.
  __device__ __forceinline__ void append(const OneShared<Form>& shared, int at, int end, int last) {
    if constexpr (Form::kAround) {
      const bool owns = first == 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int j = at + half * 8 + eighth;
#pragma unroll
        for (int r = 0; r < kRuns; ++r) {
          if (j == past) keys[half][r] = *reinterpret_cast<const uint4*>(&shared.turned[kRows][r * 32 + quarter * 8]);
        }
        if (owns && j < last && (j == past || a.keys.whole)) {
          store(static_cast<T*>(a.keys.present) + plane * a.keys.present_pitch + static_cast<std::int64_t>(j) * kHead, keys[half]);
        }
      }
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const int j = at + u / 2 * 8 + quarter * 2 + u % 2;
        T* const to =
            static_cast<T*>(a.values.present) + plane * a.values.present_pitch + static_cast<std::int64_t>(j) * kHead + eighth * 8;
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
          if (owns && j < last && (j == past || a.values.whole)) *reinterpret_cast<uint4*>(to + p * 64) = values[u][p];
          if (j >= end) values[u][p] = uint4{};
        }
      }
    }
  }

  __device__ __forceinline__ void load_keys(int at, int end) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int j = at + half * 8 + eighth;
      const T* const from = j < past ? old_keys + j * t.head : now_keys + j * (Form::kAround ? t.head : t.k_strides[2]);
#pragma unroll
      for (int r = 0; r < kRuns; ++r) {
        const int column = r * 32 + quarter * 8;
        keys[half][r] = load_run<Form::kAligned>(from + column, j < (Form::kAround ? past : end) && column < t.head);
      }
    }
    if (t.mask == nullptr) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t j = min(at + half * 8 + eighth, end - 1);
#pragma unroll
      for (int i = 0; i < 2; ++i) marks[half][i] = mask_bits(t, mask_rows[i] + j * t.mask_strides[3]);
    }
  }
  __device__ __forceinline__ void load_values(int at, int end) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const int j = at + u / 2 * 8 + quarter * 2 + u % 2;
      const T* const from = j < past ? old_values + j * t.value_head : now_values + j * (Form::kAround ? t.value_head : t.v_strides[2]);
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const int column = p * 64 + eighth * 8;
        values[u][p] = load_run<Form::kAligned>(from + column, j < end && column < t.value_head);
      }
    }
  }

  // Of keys eighth and eighth + 8, rows quarter * 2 and the next.
  __device__ __forceinline__ void multiply(float (&scores)[4]) const {
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const unsigned low[4] = {keys[0][r].x, keys[1][r].x, keys[0][r].y, keys[1][r].y};
      multiply_add<T>(scores, low, q[r].x, q[r].y);
      const unsigned high[4] = {keys[0][r].z, keys[1][r].z, keys[0][r].w, keys[1][r].w};
      multiply_add<T>(scores, high, q[r].z, q[r].w);
    }
  }

  // Scores to weights under the largest score so far.
  __device__ __forceinline__ void weigh(int at, int least, int end, float (&scores)[4]) {
    float level[2], factor[2];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const int j = at + s / 2 * 8 + eighth;
      scores[s] = j < end && j >= least ? power_score(t, marks[s / 2][s % 2], scores[s]) : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = fmaxf(most[i], fmaxf(scores[i], scores[2 + i]));  // passes over what is not a number: the weights show it
      for (int step = 4; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
      level[i] = finite_or_zero(top);
      factor[i] = power_of_two(most[i] - level[i]);
      most[i] = top;
      total[i] *= factor[i];
    }
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      scores[s] = power_of_two(scores[s] - level[s % 2]);
      total[s % 2] += scores[s];
    }
#pragma unroll
    for (auto& tile : mixed) {
#pragma unroll
      for (int i = 0; i < 4; ++i) tile[i] *= factor[i % 2];
    }
  }

  __device__ __forceinline__ void mix(const float (&weights)[4]) {
    unsigned high[2], low[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float a = weights[half * 2], b = weights[half * 2 + 1];
      high[half] = turned(pack_two<T>(a, b));
      low[half] = turned(pack_two<T>(a - widen(narrow<T>(a)), b - widen(narrow<T>(b))));
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto word = [&](int u) {
          const uint4& run = values[u][p];
          return i == 0 ? run.x : i == 1 ? run.y : i == 2 ? run.z : run.w;
        };
        // Column 2 i of the eight is the product's row l / 4, column 2 i + 1 the one eight below.
        const unsigned columns[4] = {__byte_perm(word(0), word(1), 0x5410), __byte_perm(word(0), word(1), 0x7632),
                                     __byte_perm(word(2), word(3), 0x5410), __byte_perm(word(2), word(3), 0x7632)};
        multiply_add<T>(mixed[p * 4 + i], columns, high[0], high[1]);
        multiply_add<T>(mixed[p * 4 + i], columns, low[0], low[1]);
      }
    }
  }

  __device__ __forceinline__ void begin(int at, int last) {
    if (at >= last) return;
    load_keys(at, last);
    if (Form::kAhead) load_values(at, last);
  }
  // Keys at, at + step, ... below `last`, of which rows see those below `end`: the next ones are on their way while these are multiplied.
  __device__ __forceinline__ void run(const OneShared<Form>& shared, int at, int step, int least, int end, int last) {
#pragma unroll 1
    for (; at < last; at += step) {
      const int next = at + step;
      float scores[4] = {};
      append(shared, at, end, last);
      multiply(scores);
      if (!Form::kAhead) load_values(at, last);
      weigh(at, least, end, scores);
      if (Form::kAhead && next < last) load_keys(next, last);
      mix(scores);
      if (next >= last) break;
      if (Form::kAhead) {
        load_values(next, last);
      } else {
        load_keys(next, last);
      }
    }
  }

  __device__ __forceinline__ void share(OneShared<Form>& shared) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      for (int step = 4; step < 32; step *= 2) total[i] += __shfl_xor_sync(0xffffffffu, total[i], step);
      if (eighth > 0) continue;
      shared.most[warp][quarter * 2 + i] = most[i];
      shared.total[warp][quarter * 2 + i] = total[i];
    }
#pragma unroll
    for (int tile = 0; tile < kPieces * 4; ++tile) {
      const int column = tile / 4 * 64 + eighth * 8 + tile % 4 * 2;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<float2*>(&shared.mixed[warp][quarter * 2 + i][column]) = make_float2(mixed[tile][i], mixed[tile][2 + i]);
      }
    }
  }
};

// Sums of `count` parts under their largest level, in order; all are under way at once.
struct Joined {
  float most = -INFINITY, total = 0, mixed = 0;
  template <int kMost, typename Most, typename Total, typename Mixed>
  __device__ __forceinline__ void of(int count, const Most& tops, const Total& totals, const Mixed& parts) {
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
      const float factor = power_of_two(top[i] - finite_or_zero(most));
      total = fmaf(sums[i], factor, total);
      mixed = fmaf(mixture[i], factor, mixed);
    }
  }
};

template <typename T>
__device__ __forceinline__ void put_one(const AttentionTask& t, const Unit& unit, int row, int column, bool sees, const Joined& sum) {
  const std::int64_t head = unit.kv_head * unit.group + row;
  const float all = divisor(t, head, sum.total, sum.most, kLn2);
  static_cast<T*>(t.y)[unit.b * t.y_strides[0] + head * t.y_strides[1] + column] = narrow<T>(settle(t, sees, sum.mixed, all));
}
#endif

template <typename Form>
__global__ void __launch_bounds__(kThreads, 1)
    attend_one(const __grid_constant__ AttentionTask t, const __grid_constant__ AttentionAround around) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  using T = typename Form::T;
  extern __shared__ float4 memory[];
  auto& shared = *reinterpret_cast<OneShared<Form>*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / 32, heads = static_cast<int>(t.kv_heads);
  const int rows = static_cast<int>(t.q_heads) / heads, lots = (rows + kRows - 1) / kRows, lot = static_cast<int>(blockIdx.y);
  const int first = lot % lots * kRows, own_rows = min(rows - first, kRows), width = static_cast<int>(t.value_head);
  const Unit unit(lot / lots / heads, lot / lots % heads, rows);
  const int from = static_cast<int>(blockIdx.x) * static_cast<int>(t.split_keys);
  after_previous();
  const int all = static_cast<int>(unit.visible(t, 0)), least = t.window > 0 ? max(0, all - static_cast<int>(t.window)) : 0;
  const int most = from + static_cast<int>(t.split_keys), end = min(all, most);
  const int last = Form::kAround ? min(most, static_cast<int>(t.past + t.keys)) : end;
  OneWarp<Form> own(t, around, unit, first, rows);
  int at = from + warp * kStep;
  if (!Form::kAround && least > at) at += (least - at) / (kWarps * kStep) * (kWarps * kStep);  // steps that end before the window
  own.begin(at, last);
  if constexpr (Form::kAround) {
    own.turn(shared, from <= own.past && own.past < most);
    __syncthreads();
    own.take_queries(shared);
  }
  own.run(shared, at, kWarps * kStep, least, end, last);
  own.share(shared);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < own_rows * width; i += kThreads) {
    const int row = i / width, column = i % width;
    Joined sum;
    sum.of<kWarps>(
        kWarps, [&](int w) { return shared.most[w][row]; }, [&](int w) { return shared.total[w][row]; },
        [&](int w) { return shared.mixed[w][row][column]; });
    if (t.splits == 1) {
      put_one<T>(t, unit, first + row, column, all > 0, sum);
      continue;
    }
    shared.part[i] = sum.mixed;
    if (column > 0) continue;
    shared.part_most[row] = sum.most;
    shared.part_total[row] = sum.total;
  }
  if (t.splits == 1) return;
  const auto cluster = cooperative_groups::this_cluster();
  cluster.sync();
  const int splits = static_cast<int>(t.splits);
  for (int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x); i < own_rows * width; i += splits * kThreads) {
    const int row = i / width;
    const auto of = [&](float* place) {
      return [&, place](int block) { return *cluster.map_shared_rank(place, static_cast<unsigned>(block)); };
    };
    Joined sum;
    sum.of<kMostOneSplits>(splits, of(&shared.part_most[row]), of(&shared.part_total[row]), of(&shared.part[i]));
    put_one<T>(t, unit, first + row, i % width, all > 0, sum);
  }
  cluster.sync();  // what the others read stays until then
#endif
}

template <typename Form>
cudaError_t start_form(const AttentionTask& t, const AttentionAround& around, cudaStream_t stream) {
  cudaLaunchAttribute wanted[2] = {};
  wanted[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  wanted[0].val.programmaticStreamSerializationAllowed = 1;
  wanted[1].id = cudaLaunchAttributeClusterDimension;
  wanted[1].val.clusterDim.x = static_cast<unsigned>(t.splits);
  wanted[1].val.clusterDim.y = wanted[1].val.clusterDim.z = 1;
  constexpr std::size_t kBytes = sizeof(OneShared<Form>), kAlways = 48 << 10;  // more shared memory has to be asked for
  if (kBytes > kAlways) {
    const cudaError_t asked = cudaFuncSetAttribute(attend_one<Form>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kBytes));
    if (asked != cudaSuccess) return asked;
  }
  const std::int64_t lots = (t.q_heads / t.kv_heads + kRows - 1) / kRows;
  cudaLaunchConfig_t config{};
  config.dynamicSmemBytes = kBytes;
  config.gridDim = dim3(static_cast<unsigned>(t.splits), static_cast<unsigned>(t.batch * t.kv_heads * lots));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = wanted;
  config.numAttrs = t.splits > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, attend_one<Form>, t, around);
}

template <typename T>
cudaError_t start(const AttentionTask& t, cudaStream_t stream) {
  const std::int64_t head = std::max(t.head, t.value_head);
  const AttentionAround none;
  if (!t.aligned) return start_form<OneForm<T, 256, false, false>>(t, none, stream);  // the same sums, beside sums of zeros
  if (head <= 64) return start_form<OneForm<T, 64, true, false>>(t, none, stream);
  if (head <= 128) return start_form<OneForm<T, 128, true, false>>(t, none, stream);
  return start_form<OneForm<T, 256, true, false>>(t, none, stream);
}
template <typename T>
cudaError_t start_around(const AttentionTask& t, const AttentionAround& around, cudaStream_t stream) {
  return t.head == 64 ? start_form<OneForm<T, 64, true, true>>(t, around, stream)
                      : start_form<OneForm<T, 128, true, true>>(t, around, stream);
}

}  // namespace

bool serves_attention_one(const AttentionTask& t) {
  if (t.queries != 1 || t.q_heads / t.kv_heads > kMostOneRows || t.batch * t.q_heads > kMostOneLots) return false;
  cudaFuncAttributes made;  // clusters exist from 9.0 on, in the device and in the code made for it
  int device = 0, major = 0;
  const bool known = cudaFuncGetAttributes(&made, attend_one<OneForm<__half, 64, true, false>>) == cudaSuccess &&
                     cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess;
  return known && made.ptxVersion >= 90 && major >= 9;
}

bool serves_attention_around(const AttentionTask& t, const AttentionAround& a) {
  const auto turns = [&](const TurnedRows& rows) {
    return rows.rows == 0 || (rows.type == t.type && rows.half * 2 == t.head &&
                              (rows.table_type == DType::f32 || rows.table_type == DType::f16 || rows.table_type == DType::bf16));
  };
  for (const void* p :
       {t.q, a.keys.past, a.keys.now, a.values.past, a.values.now, a.turned_queries.x, a.turned_keys.x, static_cast<const void*>(t.y),
        static_cast<const void*>(a.keys.present), static_cast<const void*>(a.values.present), static_cast<const void*>(a.turned_queries.y),
        static_cast<const void*>(a.turned_keys.y), a.turned_queries.cos, a.turned_queries.sin, a.turned_keys.cos, a.turned_keys.sin}) {
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return false;
  }
  const std::int64_t planes = t.batch * t.kv_heads;
  for (const AppendedRow* rows : {&a.keys, &a.values}) {
    if (rows->planes != planes || rows->rows + 1 != t.keys || rows->width != t.head || (rows->past_pitch | rows->present_pitch) % 8 != 0)
      return false;
  }
  if (planes == 0 || (t.mask != nullptr && t.mask_length < t.keys)) return false;  // every key is read, also what no query sees
  return t.way == AttentionWay::one && t.past == 0 && t.window == 0 && (t.head == 64 || t.head == 128) && t.value_head == t.head &&
         turns(a.turned_queries) && turns(a.turned_keys);
}

cudaError_t launch_attention_around(const AttentionTask& task, const AttentionAround& around, cudaStream_t stream) {
  return task.type == DType::f16 ? start_around<__half>(task, around, stream) : start_around<__nv_bfloat16>(task, around, stream);
}

cudaError_t launch_attention_one(const AttentionTask& task, cudaStream_t stream) {
  return task.type == DType::f16 ? start<__half>(task, stream) : start<__nv_bfloat16>(task, stream);
}

}  // namespace forebay::cuda
