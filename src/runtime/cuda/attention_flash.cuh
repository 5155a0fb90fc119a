// Attention on the tensor cores, for f16 and bf16. A block has kRows rows that read the same keys and values. A tile of keys at a time it
// makes scores, weights them by a running softmax in f32 and mixes the values; the next tile is copied meanwhile. Either each warp has rows
// of its own (prompts), or all warps have the same 16 rows and keys of their own, and are joined in order at the end (decoding).
//
// Scores are kept in powers of two: times log2(e). Tiles that the mask hides from all rows of a block are passed over. Where it hides by a
// large negative number instead of minus infinity that is right only for rows that see another key: a block with a row that sees none
// starts again without passing over any.
#pragma once

#include <algorithm>
#include <cfloat>
#include <climits>

#include "runtime/cuda/attention_tile.cuh"
#include "runtime/cuda/attention_unit.cuh"

namespace forebay::cuda {

template <typename T, int kHead_, int kRowWarps_, int kRowTiles_, int kKeyWarps_, int kTile_>
struct FlashForm {
  using Type = T;
  static constexpr int kHead = kHead_, kRowWarps = kRowWarps_, kRowTiles = kRowTiles_, kKeyWarps = kKeyWarps_, kTile = kTile_;
  static constexpr int kThreads = 32 * kRowWarps * kKeyWarps, kRows = 16 * kRowTiles * kRowWarps;
  static constexpr int kKeys = kTile / kKeyWarps;       // of a warp
  static constexpr int kTileBytes = kTile * kHead * 2;  // of keys, and of values
  static constexpr int kRowsBytes = kRows * kHead * 2;
  static constexpr int kBytes = kRowsBytes + 4 * kTileBytes;  // two tiles of both
  static_assert(kKeys % 16 == 0);
  static_assert(kKeyWarps == 1 || kKeyWarps * 16 * kHead * 4 <= 4 * kTileBytes);
};

struct FlashShared {
  float most[4][16], total[4][16];  // of key warps
  std::uint8_t kinds[kMostKindTiles];
};

// `present` rows of `pointer`, each of `width` elements, to a tile of kRows by kWidth; zeros elsewhere. `own` of kThreads threads.
template <int kRows, int kWidth, int kThreads, typename Pointer>
__device__ __forceinline__ void copy_rows(unsigned tile, int own, int present, int width, bool aligned, const Pointer& pointer) {
  constexpr int kPieces = kWidth / 8;
  for (int i = own; i < kRows * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    const bool there = row < present && piece * 8 < width;
    const auto* from = pointer(there ? row : 0) + (there ? piece * 8 : 0);
    const unsigned to = piece_of<kRows>(tile, row, piece);
    if (aligned) {
      copy_piece(to, from, there);
      continue;
    }
    unsigned words[4] = {};
    for (int e = 0; there && e < 8; ++e) {
      words[e / 2] |= static_cast<unsigned>(reinterpret_cast<const std::uint16_t*>(from)[e]) << (e % 2 * 16);
    }
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
  }
}

// As copy_rows, of kRows whole rows that lie `stride` elements apart: each thread takes one piece of each few rows, at even steps.
template <int kRows, int kWidth, int kThreads, typename T>
__device__ __forceinline__ void copy_whole_rows(unsigned tile, int own, const T* from, std::int64_t stride) {
  constexpr int kPieces = kWidth / 8, kStep = kThreads / kPieces;
  static_assert(kStep % 8 == 0 && kRows % kStep == 0);
  const unsigned to = piece_of<kRows>(tile, own / kPieces, own % kPieces);
  const T* at = from + own / kPieces * stride + own % kPieces * 8;
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i, at += kStep * stride) copy_piece(to + static_cast<unsigned>(i * kStep * 128), at, true);
}

// As copy_whole_rows: rows before `split` are read at `old`, the others at `now`; zeros behind the `present` ones.
template <int kRows, int kWidth, int kThreads, typename T>
__device__ __forceinline__ void copy_divided_rows(unsigned tile, int own, int present, int split, const T* old, const T* now,
                                                  std::int64_t stride) {
  constexpr int kPieces = kWidth / 8, kStep = kThreads / kPieces;
  const unsigned to = piece_of<kRows>(tile, own / kPieces, own % kPieces);
#pragma unroll 1
  for (int i = 0; i < kRows / kStep; ++i) {
    const int row = own / kPieces + i * kStep;
    const bool there = row < present;
    const T* const from = row < split ? old + row * kWidth : now + (there ? row : 0) * stride;
    copy_piece(to + static_cast<unsigned>(i * kStep * 128), from + own % kPieces * 8, there);
  }
}

// Which rows a block has: of a unit, or of one of its heads. What sees most comes first.
struct FlashPlace {
  std::int64_t unit, first, behind;
  __device__ __forceinline__ FlashPlace(const AttentionTask& t, int block_rows) {
    const int group = static_cast<int>(t.q_heads / t.kv_heads), rows = static_cast<int>(t.queries) * (t.joined ? group : 1);
    const int lots = static_cast<int>(t.batch * (t.joined ? t.kv_heads : t.q_heads)), blocks = (rows + block_rows - 1) / block_rows;
    const int index = static_cast<int>(blockIdx.x), lot = index % lots, base = t.joined ? 0 : lot % group * rows;
    const int begin = (blocks - 1 - index / lots) * block_rows;
    unit = t.joined ? lot : lot / group;
    first = base + begin;
    behind = base + min(begin + block_rows, rows);
  }
};

template <typename Form>
struct FlashBlock {
  using T = typename Form::Type;
  static constexpr int kHead = Form::kHead, kTiles = Form::kRowTiles, kParts = Form::kKeys / 8;

  const AttentionTask& t;
  const Unit unit;
  const std::int64_t first, behind;  // rows of the unit
  const int lane, row_warp, key_warp;
  const unsigned queries, stages;
  FlashShared& shared;
  int least, all;  // of the keys that the block's rows may see: the fewest, the most
  int limits[kTiles][2];
  float most[kTiles][2], total[kTiles][2], mixed[kTiles][kHead / 8][4];

  __device__ __forceinline__ FlashBlock(const AttentionTask& task, std::int64_t unit_index, std::int64_t from, std::int64_t to,
                                        unsigned memory, FlashShared& s)
      : t(task),
        unit(task, unit_index),
        first(from),
        behind(to),
        lane(static_cast<int>(threadIdx.x) % 32),
        row_warp(static_cast<int>(threadIdx.x) / 32 / Form::kKeyWarps),
        key_warp(static_cast<int>(threadIdx.x) / 32 % Form::kKeyWarps),
        queries(memory),
        stages(memory + Form::kRowsBytes),
        shared(s) {}

  // Of this thread's rows: half 0 is row lane / 4 of a tile of 16, half 1 the one eight below.
  __device__ __forceinline__ int row_of(int tile, int half) const { return (row_warp * kTiles + tile) * 16 + half * 8 + lane / 4; }
  __device__ __forceinline__ std::int64_t limit_of(int row) const { return first + row < behind ? unit.visible(t, first + row) : 0; }

  // How many keys the rows see.
  __device__ __forceinline__ void find_limits() {
    // What a row sees grows with its query. Rows of several heads hold first and last queries.
    const bool several = first / t.queries != (behind - 1) / t.queries;
    least = static_cast<int>(unit.visible(t, several ? 0 : first));
    all = static_cast<int>(unit.visible(t, several ? t.queries - 1 : behind - 1));
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) limits[tile][half] = static_cast<int>(limit_of(row_of(tile, half)));
    }
  }
  template <int kThreads>
  __device__ __forceinline__ void copy_queries(int own) const {
    copy_rows<Form::kRows, kHead, kThreads>(queries, own, static_cast<int>(behind - first), static_cast<int>(t.head), t.aligned,
                                            [&](int row) { return static_cast<const T*>(t.q) + unit.place(t, t.q_strides, first + row); });
  }

  // What the mask does to each 64 keys from `from` on, for the block's rows (of one head then). True where it hides by a number.
  __device__ __forceinline__ bool read_kinds(int from, int end) {
    if (t.kinds == nullptr) return false;
    const std::int64_t query = first % t.queries, head = unit.head(t, first);
    const std::uint8_t* const cells = t.kinds + unit.b * t.kind_strides[0] + head * t.kind_strides[1];
    bool numbers = false;
    for (int cell = static_cast<int>(threadIdx.x); cell * kKindTile < end - from; cell += static_cast<int>(blockDim.x)) {
      const std::int64_t column = from / kKindTile + cell;
      int kind = -1;
      for (std::int64_t row = query / kKindTile; row * kKindTile < query + (behind - first) && row * kKindTile < query + Form::kRows;
           ++row) {
        const int own = cells[row * t.kind_strides[2] + column];
        numbers = numbers || own == kHiddenByNumber;
        const bool both = kind >= kHiddenByNumber && own >= kHiddenByNumber;
        kind = kind < 0 || kind == own ? own : both ? kHiddenByNumber : kMixed;
      }
      shared.kinds[cell] = static_cast<std::uint8_t>(kind);
    }
    return __syncthreads_or(numbers) != 0;
  }
  // The keys of this block's split.
  __device__ __forceinline__ void range(int* from, int* end) const {
    *from = static_cast<int>(blockIdx.y * t.split_keys);
    *end = min(all, static_cast<int>(*from + t.split_keys));
    if (t.window > 0) *from = max(*from, static_cast<int>(max(least - t.window, std::int64_t{0})) / kKeyStep * kKeyStep);
  }

  // Of the tile that begins at `at`.
  __device__ __forceinline__ int kind_at(int from, int at, int end) const {
    if (t.kinds == nullptr) return kMixed;
    const int cell = (at - from) / kKindTile, kind = shared.kinds[cell];
    if (Form::kTile <= kKindTile || at + kKindTile >= end) return kind;
    const int second = shared.kinds[cell + 1];
    return kind == second ? kind : kind >= kHiddenByNumber && second >= kHiddenByNumber ? kHiddenByNumber : kMixed;
  }
  // The first tile from `at` on that is not hidden.
  __device__ __forceinline__ int next_tile(int from, int at, int end, bool skip) const {
    while (skip && at < end && kind_at(from, at, end) >= kHiddenByNumber) at += Form::kTile;
    return at;
  }

  // A tile of keys or values from `at` on: at once where it is whole and lies in one place, else piece by piece.
  template <int kThreads>
  __device__ __forceinline__ void copy_tile(unsigned to, int own, int at, const void* now, const void* past,
                                            const std::int64_t (&strides)[3], std::int64_t width) const {
    if constexpr (kThreads * 8 / kHead % 8 == 0 && kThreads * 8 / kHead <= Form::kTile) {
      const bool old = at + Form::kTile <= t.past;
      if (t.aligned && width == kHead) {
        if (at + Form::kTile <= all && (old || at >= t.past)) {
          return copy_whole_rows<Form::kTile, kHead, kThreads>(to, own, unit.key<T>(t, now, past, strides, at, width),
                                                               old ? width : strides[2]);
        }
        const int split = static_cast<int>(min(max(t.past - at, std::int64_t{0}), std::int64_t{Form::kTile}));
        const T* const before = split > 0 ? unit.key<T>(t, now, past, strides, at, width) : nullptr;
        return copy_divided_rows<Form::kTile, kHead, kThreads>(
            to, own, all - at, split, before, unit.key<T>(t, now, past, strides, t.past, width) + (at - t.past) * strides[2], strides[2]);
      }
    }
    copy_rows<Form::kTile, kHead, kThreads>(to, own, all - at, static_cast<int>(width), t.aligned,
                                            [&](int row) { return unit.key<T>(t, now, past, strides, at + row, width); });
  }
  template <int kThreads>
  __device__ __forceinline__ void copy_keys(unsigned to, int own, int at) const {
    copy_tile<kThreads>(to, own, at, t.k, t.past_key, t.k_strides, t.head);
  }
  template <int kThreads>
  __device__ __forceinline__ void copy_values(unsigned to, int own, int at) const {
    copy_tile<kThreads>(to, own, at, t.v, t.past_value, t.v_strides, t.value_head);
  }
  __device__ __forceinline__ void prefetch(int at, int stage) const {
    const unsigned to = stages + static_cast<unsigned>(stage * 2 * Form::kTileBytes);
    const int own = static_cast<int>(threadIdx.x);
    copy_keys<Form::kThreads>(to, own, at);
    copy_values<Form::kThreads>(to + Form::kTileBytes, own, at);
    close_copies();
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      most[tile][0] = most[tile][1] = -INFINITY;
      total[tile][0] = total[tile][1] = 0;
#pragma unroll
      for (int part = 0; part < kHead / 8; ++part)
        mixed[tile][part][0] = mixed[tile][part][1] = mixed[tile][part][2] = mixed[tile][part][3] = 0;
    }
  }

  __device__ __forceinline__ void multiply(unsigned keys, float (&scores)[kTiles][kParts][4]) const {
    const int key = key_warp * Form::kKeys + lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < kHead / 16; ++k) {
      unsigned a[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        load_fragments(a[tile], piece_of<Form::kRows>(queries, (row_warp * kTiles + tile) * 16 + lane % 16, 2 * k + lane / 16));
      }
#pragma unroll
      for (int pair = 0; pair < kParts / 2; ++pair) {
        unsigned b[4];
        load_fragments(b, piece_of<Form::kTile>(keys, key + pair * 16, 2 * k + lane / 8 % 2));
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          multiply_add<T>(scores[tile][2 * pair], a[tile], b[0], b[1]);
          multiply_add<T>(scores[tile][2 * pair + 1], a[tile], b[2], b[3]);
        }
      }
    }
  }

  // The steps below are apart so that none is large when it is unrolled over a tile's scores: few tiles need them, and what they need is
  // seldom more than one.
  template <typename F>
  __device__ __forceinline__ void each_score(float (&scores)[kTiles][kParts][4], const F& f) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        asm volatile("" ::: "memory");  // a row's reads at a time: registers
        const auto of_row = f(tile, half);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
#pragma unroll
          for (int e = 0; e < 2; ++e) of_row(part * 8 + e, scores[tile][part][half * 2 + e]);
        }
      }
    }
  }
  // The first key of this thread's scores.
  __device__ __forceinline__ int key_of(int at) const {
    return at + key_warp * Form::kKeys + lane % 4 * 2;
  }

  __device__ __forceinline__ void cap(float (&scores)[kTiles][kParts][4]) const {
    each_score(scores, [this](int, int) { return [this](int, float& score) { score = capped(t, score); }; });
  }
  // Scores to powers of two, with a mask of type M. The largest negative numbers stay finite: a row of nothing else is an even mixture.
  template <typename M>
  __device__ __forceinline__ void add_mask(int at, float scale, float (&scores)[kTiles][kParts][4]) const {
    constexpr bool kBoolean = std::is_same_v<M, std::uint8_t>;
    const int key = key_of(at);
    const std::int64_t step = t.mask_strides[3];
    const bool fills = kBoolean && t.mask_fill != -INFINITY;
    const float fill = fmaxf(t.mask_fill * kLog2E, -FLT_MAX);
    each_score(scores, [&](int tile, int half) {
      const int left = limits[tile][half] - key;
      const M* const row = static_cast<const M*>(t.mask) + (left > 0 ? unit.mask_row(t, first + row_of(tile, half)) + key * step : 0);
      return [=](int column, float& score) {
        float added = 0;
        if (column < left) {
          if constexpr (kBoolean) {
            added = row[column * step] != 0 ? 0.0f : -INFINITY;
          } else {
            added = widen(row[column * step]);
          }
        }
        const float power = fmaf(added, kLog2E, score * scale);
        score = fills && added != 0.0f ? fill : power == -INFINITY && added != -INFINITY ? -FLT_MAX : power;
      };
    });
  }
  // Minus infinity where a row does not see; the others times `scale`.
  __device__ __forceinline__ void hide(int at, float scale, float (&scores)[kTiles][kParts][4]) const {
    const int key = key_of(at);
    each_score(scores, [&](int tile, int half) {
      const int left = limits[tile][half] - key,
                passed = t.window > 0 ? static_cast<int>(max(left - t.window, std::int64_t{INT_MIN})) : INT_MIN;
      return [=](int column, float& score) { score = column < left && column >= passed ? score * scale : -INFINITY; };
    });
  }

  // Scores to weights. `scale` makes the scores powers of two; `factors` take what was mixed before to the new level.
  __device__ __forceinline__ void weigh(float scale, float (&scores)[kTiles][kParts][4], float (&factors)[kTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = -INFINITY;
#pragma unroll
        for (int part = 0; part < kParts; ++part) top = fmaxf(top, fmaxf(scores[tile][part][half * 2], scores[tile][part][half * 2 + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        top = fmaxf(most[tile][half], top * scale);  // passes over what is not a number: the weights show it
        const float level = finite_or_zero(top), factor = power_of_two(most[tile][half] - level);
        most[tile][half] = top;
        float sum = 0;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = scores[tile][part][half * 2 + e];
            score = power_of_two(fmaf(score, scale, -level));
            sum += score;
          }
        }
        total[tile][half] = fmaf(total[tile][half], factor, sum);
        factors[tile][half] = factor;
      }
    }
  }
  __device__ __forceinline__ void level_mixed(const float (&factors)[kTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (!__any_sync(0xffffffffu, factors[tile][half] != 1.0f)) continue;
#pragma unroll
        for (int part = 0; part < kHead / 8; ++part) {
          mixed[tile][part][half * 2] *= factors[tile][half];
          mixed[tile][part][half * 2 + 1] *= factors[tile][half];
        }
      }
    }
  }

  __device__ __forceinline__ void mix(unsigned values, const float (&weights)[kTiles][kParts][4]) {
    const int key = key_warp * Form::kKeys + lane % 16;
#pragma unroll
    for (int k = 0; k < Form::kKeys / 16; ++k) {
      unsigned a[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const float(&low)[4] = weights[tile][2 * k], (&high)[4] = weights[tile][2 * k + 1];
        a[tile][0] = pack_two<T>(low[0], low[1]);
        a[tile][1] = pack_two<T>(low[2], low[3]);
        a[tile][2] = pack_two<T>(high[0], high[1]);
        a[tile][3] = pack_two<T>(high[2], high[3]);
      }
#pragma unroll
      for (int pair = 0; pair < kHead / 16; ++pair) {
        unsigned b[4];
        load_turned(b, piece_of<Form::kTile>(values, key + k * 16, 2 * pair + lane / 16));
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          multiply_add<T>(mixed[tile][2 * pair], a[tile], b[0], b[1]);
          multiply_add<T>(mixed[tile][2 * pair + 1], a[tile], b[2], b[3]);
        }
      }
    }
  }

  // Scores to weights; see weigh. What hides a key, mask or limit, changes no bit of the others.
  __device__ __forceinline__ void settle_scores(int at, int kind, float (&scores)[kTiles][kParts][4], float (&factors)[kTiles][2]) {
    float scale = t.scale * kLog2E;
    if (t.softcap != 0.0f || t.scale <= 0) {
      cap(scores);
      scale = kLog2E;
    }
    if (t.mask != nullptr && kind != kPlain) {
      if (t.mask_type == DType::f32) {
        add_mask<float>(at, scale, scores);
      } else if (t.mask_type == DType::f16) {
        add_mask<__half>(at, scale, scores);
      } else if (t.mask_type == DType::bf16) {
        add_mask<__nv_bfloat16>(at, scale, scores);
      } else {
        add_mask<std::uint8_t>(at, scale, scores);
      }
      scale = 1;
    }
    if (at + Form::kTile > least || (t.window > 0 && at < all - t.window)) {
      hide(at, scale, scores);
      scale = 1;
    }
    weigh(scale, scores, factors);
  }

  __device__ __forceinline__ void one_tile(int at, int stage, int kind) {
    const unsigned keys = stages + static_cast<unsigned>(stage * 2 * Form::kTileBytes);
    float scores[kTiles][kParts][4] = {}, factors[kTiles][2];
    multiply(keys, scores);
    settle_scores(at, kind, scores, factors);
    level_mixed(factors);
    mix(keys + Form::kTileBytes, scores);
  }

  // The tiles of [from, end). With `skip` those that the mask hides are passed over.
  __device__ __forceinline__ void all_tiles(int from, int end, bool skip) {
    int at = next_tile(from, from, end, skip), stage = 0;
    if (at < end) prefetch(at, stage);
    while (at < end) {
      const int following = next_tile(from, at + Form::kTile, end, skip);
      wait_for_copies();
      __syncthreads();
      if (following < end) prefetch(following, stage ^ 1);
      one_tile(at, stage, skip ? kind_at(from, at, end) : kMixed);
      at = following;
      stage ^= 1;
    }
    wait_for_copies();
    __syncthreads();
  }

  __device__ __forceinline__ bool saw_nothing() const {
    bool found = false;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) found = found || (limits[tile][half] > 0 && most[tile][half] < kHiddenBelow / 4);
    }
    return found;
  }

  __device__ __forceinline__ void finish_totals() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& sum = total[tile][half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      }
    }
  }

  __device__ __forceinline__ float* part_of(std::int64_t unit_index, std::int64_t row) const {
    const std::int64_t rows = t.queries * (t.q_heads / t.kv_heads);
    return t.parts + ((unit_index * rows + row) * t.splits + blockIdx.y) * (t.value_head + 2);
  }
  __device__ __forceinline__ void put(std::int64_t unit_index, int row, int column, int limit, float top, float sum, float x) const {
    if (first + row >= behind || column >= t.value_head) return;
    if (t.splits == 1) {
      static_cast<T*>(t.y)[unit.place(t, t.y_strides, first + row) + column] =
          narrow<T>(settle(t, limit > 0, x, divisor(t, unit.head(t, first + row), sum, top, kLn2)));
      return;
    }
    float* const part = part_of(unit_index, first + row);
    part[2 + column] = x;
    if (column > 0) return;
    part[0] = top;
    part[1] = sum;
  }

  // Each warp has rows of its own.
  __device__ __forceinline__ void write(std::int64_t unit_index) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row_of(tile, half);
        if (first + row >= behind) continue;
        T* const y = static_cast<T*>(t.y) + unit.place(t, t.y_strides, first + row);
        const float all = divisor(t, unit.head(t, first + row), total[tile][half], most[tile][half], kLn2);
        float* const split = t.splits > 1 ? part_of(unit_index, first + row) : nullptr;
        const bool sees = limits[tile][half] > 0;
        if (split != nullptr && lane % 4 == 0) {
          split[0] = most[tile][half];
          split[1] = total[tile][half];
        }
#pragma unroll
        for (int part = 0; part < kHead / 8; ++part) {
          const int column = part * 8 + lane % 4 * 2;
          const float a = mixed[tile][part][half * 2], b = mixed[tile][part][half * 2 + 1];
          if (column >= t.value_head) continue;
          if (split != nullptr) {
            split[2 + column] = a;
            split[3 + column] = b;
            continue;
          }
          const unsigned two = pack_two<T>(settle(t, sees, a, all), settle(t, sees, b, all));
          if (t.aligned) {
            *reinterpret_cast<unsigned*>(y + column) = two;
          } else {
            reinterpret_cast<std::uint16_t*>(y)[column] = static_cast<std::uint16_t>(two);
            reinterpret_cast<std::uint16_t*>(y)[column + 1] = static_cast<std::uint16_t>(two >> 16);
          }
        }
      }
    }
  }

  // All warps have the same rows: their mixtures meet in the tiles' memory.
  __device__ __forceinline__ void join(std::int64_t unit_index, float* memory) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = half * 8 + lane / 4;
      if (lane % 4 == 0) {
        shared.most[key_warp][row] = most[0][half];
        shared.total[key_warp][row] = total[0][half];
      }
#pragma unroll
      for (int part = 0; part < kHead / 8; ++part) {
        float* const to = memory + (key_warp * 16 + row) * kHead + part * 8 + lane % 4 * 2;
        to[0] = mixed[0][part][half * 2];
        to[1] = mixed[0][part][half * 2 + 1];
      }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < 16 * kHead; i += Form::kThreads) {
      const int row = i / kHead, column = i % kHead;
      float top = -INFINITY, sum = 0, x = 0;
#pragma unroll
      for (int warp = 0; warp < Form::kKeyWarps; ++warp) top = fmaxf(top, shared.most[warp][row]);
#pragma unroll
      for (int warp = 0; warp < Form::kKeyWarps; ++warp) {
        const float factor = power_of_two(shared.most[warp][row] - finite_or_zero(top));
        sum = fmaf(shared.total[warp][row], factor, sum);
        x = fmaf(memory[(warp * 16 + row) * kHead + column], factor, x);
      }
      put(unit_index, row, column, static_cast<int>(limit_of(row)), top, sum, x);
    }
  }
};

template <typename Form, int kBlocks>
__global__ void __launch_bounds__(Form::kThreads, kBlocks) attend_tiles(const __grid_constant__ AttentionTask t) {
  extern __shared__ uint4 memory[];
  __shared__ FlashShared shared;
  const FlashPlace place(t, Form::kRows);
  FlashBlock<Form> block(t, place.unit, place.first, place.behind, shared_address(memory), shared);
  block.find_limits();
  block.template copy_queries<Form::kThreads>(static_cast<int>(threadIdx.x));
  int from = 0, end = 0;
  block.range(&from, &end);
  bool again = block.read_kinds(from, end), skip = t.kinds != nullptr;
  do {
    block.clear();
    block.all_tiles(from, end, skip);
    again = again && skip && __syncthreads_or(block.saw_nothing()) != 0;
    skip = false;
  } while (again);
  block.finish_totals();
  if constexpr (Form::kKeyWarps == 1) {
    block.write(place.unit);
  } else {
    block.join(place.unit, reinterpret_cast<float*>(memory + Form::kRowsBytes / 16));
  }
}

template <typename Form, int kBlocks>
cudaError_t start_tiles(const AttentionTask& t, cudaStream_t stream) {
  const std::int64_t rows = t.joined ? t.queries * (t.q_heads / t.kv_heads) : t.queries,
                     lots = t.batch * (t.joined ? t.kv_heads : t.q_heads);
  const dim3 grid(static_cast<unsigned>((rows + Form::kRows - 1) / Form::kRows * lots), static_cast<unsigned>(t.splits));
  const cudaError_t error = cudaFuncSetAttribute(attend_tiles<Form, kBlocks>, cudaFuncAttributeMaxDynamicSharedMemorySize, Form::kBytes);
  if (error != cudaSuccess) return error;
  attend_tiles<Form, kBlocks><<<grid, Form::kThreads, Form::kBytes, stream>>>(t);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
