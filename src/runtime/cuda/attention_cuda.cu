// Attention. A block has up to 8 rows that read the same keys and values, and a stretch of the keys: a tile of 64 keys at a time it makes
// scores, weights them by a running softmax and mixes the values, all in f32. Where rows are few and keys many the keys are split among
// blocks, and a second kernel joins the splits. How rows and keys are divided depends on shapes alone, and so does every order of
// additions.
#include <algorithm>

#include "runtime/cuda/attention_short.h"
#include "runtime/cuda/attention_unit.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 128, kTile = 64, kColumns = 128;
constexpr int kLanes = 8, kGroups = kThreads / kLanes,
              kPer = kTile / kGroups;  // a key is multiplied by 8 lanes, each group takes 4 of a tile
constexpr int kMostRows = 8, kMostSplits = 64;

template <typename T>
struct Pack {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
  float x[kSize];
  // The first `count` of them; zeros beyond.
  template <bool kWide>
  __device__ void load(const T* from, std::int64_t count) {
    if (kWide && count >= kSize) {
      const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
      const T* values = reinterpret_cast<const T*>(&bits);
#pragma unroll
      for (int i = 0; i < kSize; ++i) x[i] = widen(values[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kSize; ++i) x[i] = i < count ? widen(from[i]) : 0.0f;
    }
  }
};

template <int kRows>
struct Shared {
  float scores[kRows][kTile];
  float factor[kRows], most[kRows], total[kRows];
  float columns[kThreads * 8];  // values of key groups meet here
};

// Scores of a tile's keys [at, end) into shared memory; minus infinity where a row does not see.
template <typename T, int kRows, bool kWide>
__device__ inline void score_tile(const AttentionTask& t, const Unit& unit, const float* q, std::int64_t first,
                                  const std::int64_t (&limits)[kRows], std::int64_t at, std::int64_t end, Shared<kRows>& shared) {
  constexpr int kSize = Pack<T>::kSize;
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  float dots[kPer][kRows] = {};
  const T* keys[kPer];
#pragma unroll
  for (int u = 0; u < kPer; ++u) keys[u] = unit.key<T>(t, t.k, t.past_key, t.k_strides, min(at + group + u * kGroups, end - 1), t.head);
  for (std::int64_t e = lane * kSize; e < t.head; e += kLanes * kSize) {
    Pack<T> packs[kPer];
#pragma unroll
    for (int u = 0; u < kPer; ++u) packs[u].template load<kWide>(keys[u] + e, t.head - e);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float x = e + i < t.head ? q[r * t.head + e + i] : 0.0f;
#pragma unroll
        for (int u = 0; u < kPer; ++u) dots[u][r] = fmaf(x, packs[u].x[i], dots[u][r]);
      }
    }
  }
#pragma unroll
  for (int u = 0; u < kPer; ++u) {
    const std::int64_t j = at + group + u * kGroups;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum = dots[u][r];
      for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (lane != r) continue;
      float score = -INFINITY;
      if (j < limits[r] && (t.window == 0 || j >= limits[r] - t.window)) {
        score = capped(t, sum);
        if (t.mask != nullptr) score = masked(t, unit.mask_row(t, first + r) + j * t.mask_strides[3], score);
      }
      shared.scores[r][group + u * kGroups] = score;
    }
  }
}

// Scores to weights under the largest score so far. A warp has each fourth row; its state stays in shared memory.
template <int kRows>
__device__ inline void weigh_tile(Shared<kRows>& shared) {
  const int lane = threadIdx.x % 32;
  for (int r = static_cast<int>(threadIdx.x) / 32; r < kRows; r += kThreads / 32) {
    const float a = shared.scores[r][lane], b = shared.scores[r][lane + 32];
    const float before = shared.most[r];
    float most = fmaxf(before, fmaxf(a, b));  // passes over what is not a number: the weights show it
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    const float level = finite_or_zero(most), x = expf(a - level), y = expf(b - level);
    float sum = x + y;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    __syncwarp();  // every lane has read what is overwritten now
    shared.scores[r][lane] = x;
    shared.scores[r][lane + 32] = y;
    if (lane == 0) {
      const float factor = expf(before - level);
      shared.factor[r] = factor;
      shared.most[r] = most;
      shared.total[r] = fmaf(shared.total[r], factor, sum);
    }
  }
}

// One column chunk of a block's rows: which columns a thread mixes, of which keys of a tile.
struct Lot {
  std::int64_t column;
  int count, key, keys;  // columns of the chunk; this thread's first key, and the step
  bool idle;
  __device__ Lot(std::int64_t begin, std::int64_t width, int size) {
    count = static_cast<int>(min(width - begin, std::int64_t{kColumns}));
    const int across = (count + size - 1) / size;
    keys = kThreads / across;
    key = static_cast<int>(threadIdx.x) / across;
    column = begin + static_cast<int>(threadIdx.x) % across * size;
    idle = key >= keys;
  }
};

template <typename T, int kRows, bool kWide>
__device__ inline void mix_tile(const AttentionTask& t, const Unit& unit, const Lot& lot, const Shared<kRows>& shared, std::int64_t at,
                                std::int64_t end, float (&sums)[kRows][Pack<T>::kSize]) {
  if (lot.idle) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) sums[r][i] *= shared.factor[r];
  }
  const int count = static_cast<int>(min(end - at, std::int64_t{kTile}));
#pragma unroll 4
  for (int j = lot.key; j < count; j += lot.keys) {
    Pack<T> values;
    values.template load<kWide>(unit.key<T>(t, t.v, t.past_value, t.v_strides, at + j, t.value_head) + lot.column,
                                t.value_head - lot.column);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float weight = shared.scores[r][j];
#pragma unroll
      for (int i = 0; i < Pack<T>::kSize; ++i) sums[r][i] = fmaf(weight, values.x[i], sums[r][i]);
    }
  }
}

// The key groups' sums, joined in their order, to the output or to this split's part.
template <typename T, int kRows>
__device__ inline void write_rows(const AttentionTask& t, const Unit& unit, std::int64_t unit_index, std::int64_t first, std::int64_t rows,
                                  const Lot& lot, std::int64_t begin, Shared<kRows>& shared, const float (&sums)[kRows][Pack<T>::kSize]) {
  constexpr int kSize = Pack<T>::kSize;
  const int stride = (lot.count + kSize - 1) / kSize * kSize;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    __syncthreads();
    if (!lot.idle) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) shared.columns[lot.key * stride + static_cast<int>(lot.column - begin) + i] = sums[r][i];
    }
    __syncthreads();
    const int column = static_cast<int>(threadIdx.x);
    if (first + r >= rows || column >= lot.count) continue;
    float sum = 0;
    for (int g = 0; g < lot.keys; ++g) sum += shared.columns[g * stride + column];
    if (t.splits == 1) {
      const float all = divisor(t, unit.head(t, first + r), shared.total[r], shared.most[r], 1.0f);
      static_cast<T*>(t.y)[unit.place(t, t.y_strides, first + r) + begin + column] =
          narrow<T>(settle(t, unit.visible(t, first + r) > 0, sum, all));
      continue;
    }
    float* part = t.parts + ((unit_index * rows + first + r) * t.splits + blockIdx.y) * (t.value_head + 2);
    part[2 + begin + column] = sum;
    if (begin == 0 && column == 0) {
      part[0] = shared.most[r];
      part[1] = shared.total[r];
    }
  }
}

template <typename T, int kRows, bool kWide>
__global__ void __launch_bounds__(kThreads) attend(const __grid_constant__ AttentionTask t) {
  extern __shared__ float queries[];
  __shared__ Shared<kRows> shared;
  const std::int64_t rows = t.queries * (t.q_heads / t.kv_heads), chunks = (t.value_head + kColumns - 1) / kColumns;
  const std::int64_t blocks = (rows + kRows - 1) / kRows, index = blockIdx.x;
  const std::int64_t unit_index = index / (blocks * chunks), first = index / chunks % blocks * kRows, begin = index % chunks * kColumns;
  const Unit unit(t, unit_index);
  std::int64_t limits[kRows], end = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    limits[r] = first + r < rows ? unit.visible(t, first + r) : 0;
    end = max(end, limits[r]);
    for (std::int64_t e = threadIdx.x; e < t.head; e += kThreads) {
      queries[r * t.head + e] = first + r < rows ? widen(static_cast<const T*>(t.q)[unit.place(t, t.q_strides, first + r) + e]) : 0.0f;
    }
  }
  if (threadIdx.x < kRows) {
    shared.most[threadIdx.x] = -INFINITY;
    shared.total[threadIdx.x] = 0;
  }
  const Lot lot(begin, t.value_head, Pack<T>::kSize);
  float sums[kRows][Pack<T>::kSize] = {};
  const std::int64_t from = blockIdx.y * t.split_keys;
  end = min(end, from + t.split_keys);
  for (std::int64_t at = from; at < end; at += kTile) {
    __syncthreads();
    score_tile<T, kRows, kWide>(t, unit, queries, first, limits, at, end, shared);
    __syncthreads();
    weigh_tile<kRows>(shared);
    __syncthreads();
    mix_tile<T, kRows, kWide>(t, unit, lot, shared, at, end, sums);
  }
  write_rows<T, kRows>(t, unit, unit_index, first, rows, lot, begin, shared, sums);
}

// A block joins the splits of a row: weights by one warp, then each quarter of the threads takes each fourth split of 128 columns.
constexpr int kJoinThreads = 512, kQuarters = kJoinThreads / kColumns;  // few splits: one quarter

template <typename T>
__global__ void __launch_bounds__(kJoinThreads) join_splits(const __grid_constant__ AttentionTask t) {
  __shared__ float weights[kMostSplits], sums[kQuarters][kColumns], whole;
  const int rows = static_cast<int>(t.queries * (t.q_heads / t.kv_heads)), row = static_cast<int>(blockIdx.x) % rows;
  const int splits = static_cast<int>(t.splits), lane = static_cast<int>(threadIdx.x), stride = static_cast<int>(t.value_head) + 2;
  const Unit unit(t, static_cast<int>(blockIdx.x) / rows);
  const float* parts = t.parts + static_cast<std::int64_t>(blockIdx.x) * splits * stride;
  if (threadIdx.x < 32) {
    float tops[2], totals[2], most = -INFINITY, total = 0;
    for (int i = 0; i < 2; ++i) {
      const int s = lane + i * 32;
      tops[i] = s < splits ? parts[s * stride] : -INFINITY;
      totals[i] = s < splits ? parts[s * stride + 1] : 0.0f;
    }
    most = fmaxf(tops[0], tops[1]);
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    const float level = finite_or_zero(most);
    for (int i = 0; i < 2; ++i) {
      const float weight = t.way == AttentionWay::rows ? expf(tops[i] - level) : exp2f(tops[i] - level);
      weights[lane + i * 32] = weight;
      total = fmaf(totals[i], weight, total);
    }
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
    if (lane == 0) whole = divisor(t, unit.head(t, row), total, most, t.way == AttentionWay::rows ? 1.0f : kLn2);
  }
  __syncthreads();
  const bool sees = unit.visible(t, row) > 0;
  const int own = static_cast<int>(threadIdx.x) % kColumns, quarter = static_cast<int>(threadIdx.x) / kColumns,
            quarters = static_cast<int>(blockDim.x) / kColumns;
  for (int begin = 0; begin < t.value_head; begin += kColumns) {
    const int e = begin + own;
    float sum = 0;
    if (e < t.value_head) {
#pragma unroll 4
      for (int s = quarter; s < splits; s += quarters) sum = fmaf(parts[s * stride + 2 + e], weights[s], sum);
    }
    sums[quarter][own] = sum;
    __syncthreads();
    if (quarter == 0 && e < t.value_head) {
      for (int i = 1; i < quarters; ++i) sum += sums[i][own];
      static_cast<T*>(t.y)[unit.place(t, t.y_strides, row) + e] = narrow<T>(settle(t, sees, sum, whole));
    }
    __syncthreads();
  }
}

std::int64_t rows_of_unit(const AttentionTask& t) {
  return t.queries * (t.q_heads / t.kv_heads);
}
int rows_of_block(const AttentionTask& t) {
  const std::int64_t rows = rows_of_unit(t), fit = 8192 / std::max<std::int64_t>(1, t.head);  // 32 KiB of queries
  return rows > 4 && fit >= kMostRows ? kMostRows : rows > 1 && fit >= 4 ? 4 : 1;
}
std::int64_t blocks_of(const AttentionTask& t) {
  const std::int64_t rows = rows_of_block(t);
  return t.batch * t.kv_heads * ((rows_of_unit(t) + rows - 1) / rows) * ((t.value_head + kColumns - 1) / kColumns);
}

template <typename T, int kRows>
void start(const AttentionTask& t, bool wide, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks_of(t)), static_cast<unsigned>(t.splits));
  const std::size_t bytes = static_cast<std::size_t>(kRows * t.head) * sizeof(float);
  if (wide) {
    attend<T, kRows, true><<<grid, kThreads, bytes, stream>>>(t);
  } else {
    attend<T, kRows, false><<<grid, kThreads, bytes, stream>>>(t);
  }
}

template <typename T>
cudaError_t start_by_rows(const AttentionTask& t, cudaStream_t stream) {
  bool wide = t.head % Pack<T>::kSize == 0 && t.value_head % Pack<T>::kSize == 0;
  for (int i = 0; i < 3; ++i) wide = wide && t.k_strides[i] % Pack<T>::kSize == 0 && t.v_strides[i] % Pack<T>::kSize == 0;
  for (const void* p : {t.k, t.v, t.past_key, t.past_value}) wide = wide && reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
  switch (rows_of_block(t)) {
    case 1:
      start<T, 1>(t, wide, stream);
      break;
    case 4:
      start<T, 4>(t, wide, stream);
      break;
    default:
      start<T, kMostRows>(t, wide, stream);
      break;
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t join(const AttentionTask& t, cudaStream_t stream) {
  const int threads = t.splits > 8 ? kJoinThreads : kColumns;
  join_splits<T><<<static_cast<unsigned>(t.batch * t.kv_heads * rows_of_unit(t)), threads, 0, stream>>>(t);
  return cudaGetLastError();
}

AttentionWay way_of(const AttentionTask& t) {
  constexpr std::int64_t kMostHead = 256, kMostKeys = 1 << 30, kFewRows = 16;
  const auto fits = [](std::int64_t head) { return head > 0 && head % 8 == 0 && head <= kMostHead; };
  for (const auto* strides : {&t.q_strides, &t.k_strides, &t.v_strides, &t.y_strides}) {
    for (const std::int64_t stride : *strides) {
      if (stride % 8 != 0) return AttentionWay::rows;
    }
  }
  if (t.type == DType::f32 || !fits(t.head) || !fits(t.value_head) || t.past + t.keys > kMostKeys) return AttentionWay::rows;
  if (serves_attention_one(t)) return AttentionWay::one;
  return rows_of_unit(t) <= kFewRows ? AttentionWay::few : AttentionWay::many;
}

// Of a mask: by 64 queries and 64 keys, for each batch and head that it tells apart.
std::int64_t plan_kinds(AttentionTask* t) {
  const std::int64_t queries = (t->queries + kKindTile - 1) / kKindTile, keys = (t->mask_length + kKindTile - 1) / kKindTile;
  if (t->way != AttentionWay::many || t->joined || keys > kMostKindTiles) return 0;
  const std::int64_t batches = t->mask_strides[0] != 0 ? t->batch : 1, heads = t->mask_strides[1] != 0 ? t->q_heads : 1;
  if (queries > 65535 || batches * heads > 65535) return 0;
  const std::int64_t dims[4] = {batches, heads, queries, keys};
  std::copy(dims, dims + 4, t->kind_dims);
  t->kind_strides[0] = batches > 1 ? heads * queries * keys : 0;
  t->kind_strides[1] = heads > 1 ? queries * keys : 0;
  t->kind_strides[2] = keys;
  return batches * heads * queries * keys;
}

}  // namespace

AttentionSpace plan_attention(AttentionTask* task) {
  task->way = way_of(*task);
  task->joined = task->queries < kKindTile;
  const std::int64_t total = std::max<std::int64_t>(1, task->past + task->keys), rows = rows_of_unit(*task);
  std::int64_t blocks = blocks_of(*task), most_blocks = 1024, least_keys = 2 * kTile;
  if (task->way != AttentionWay::rows) blocks = task->batch * task->kv_heads * ((rows + 127) / 128);
  if (task->way == AttentionWay::many) {  // enough to give each processor one
    most_blocks = 128;
    least_keys = 8 * kTile;
  }
  if (task->way == AttentionWay::one) {
    most_blocks = std::min<std::int64_t>(2 * 128, blocks * kMostOneSplits);
    least_keys = kTile;
  }
  const std::int64_t wanted =
      std::clamp<std::int64_t>(std::min(most_blocks / std::max<std::int64_t>(1, blocks), total / least_keys), 1, kMostSplits);
  const std::int64_t step = task->way == AttentionWay::many ? kKeyStep : task->way == AttentionWay::one ? kTile / 4 : kTile;
  task->split_keys = (total + wanted * step - 1) / (wanted * step) * step;
  task->splits = (total + task->split_keys - 1) / task->split_keys;
  AttentionSpace space;
  if (task->splits > 1 && task->way != AttentionWay::one) space.parts = task->batch * task->kv_heads * rows * task->splits * (task->value_head + 2);
  space.kinds = plan_kinds(task);
  return space;
}

cudaError_t launch_attention(const AttentionTask& task, cudaStream_t stream) {
  if (blocks_of(task) == 0) return cudaSuccess;
  AttentionTask t = task;
  t.aligned = true;
  for (const void* p : {t.q, t.k, t.v, t.past_key, t.past_value, static_cast<const void*>(t.y)}) {
    t.aligned = t.aligned && reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
  }
  if (serves_attention_short(t)) return launch_attention_short(t, stream);
  cudaError_t error = t.kinds != nullptr ? launch_mask_kinds(t, stream) : cudaSuccess;
  if (error == cudaSuccess) {
    switch (t.way) {
      case AttentionWay::one:
        return launch_attention_one(t, stream);
      case AttentionWay::few:
        error = launch_attention_few(t, stream);
        break;
      case AttentionWay::many:
        error = launch_attention_many(t, stream);
        break;
      case AttentionWay::rows:
        error = t.type == DType::f32   ? start_by_rows<float>(t, stream)
                : t.type == DType::f16 ? start_by_rows<__half>(t, stream)
                                       : start_by_rows<__nv_bfloat16>(t, stream);
        break;
    }
  }
  if (error != cudaSuccess || t.splits == 1) return error;
  return t.type == DType::f32 ? join<float>(t, stream) : t.type == DType::f16 ? join<__half>(t, stream) : join<__nv_bfloat16>(t, stream);
}

}  // namespace forebay::cuda
