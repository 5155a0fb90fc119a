// The two products of softmax attention in f32 for a few query rows (decoding): they read each key
// and each value once, at memory speed. Built once for each instruction set and chosen at run time.
#pragma once

#include <cstdint>

namespace forebay::ops {

inline constexpr std::int64_t kFewAttentionRows = 8;

struct AttentionRows {
  const float* left = nullptr;  // queries, or weights of the values: `rows` rows
  std::int64_t left_stride = 0, rows = 0;
  const float* right = nullptr;  // keys or values: `count` rows of `width`
  std::int64_t right_stride = 0, count = 0, width = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
};

struct AttentionLoops {
  void (*scores)(const AttentionRows&);  // out[r][j] = left[r] . right[j]
  void (*mix)(const AttentionRows&);     // out[r] += sum over j of left[r][j] * right[j]
  // x[i] = x[i] * scale + added[i] (added may be null); gives the largest.
  float (*bias)(float* x, const float* added, float scale, std::int64_t count);
};
const AttentionLoops& attention_loops();

}  // namespace forebay::ops
