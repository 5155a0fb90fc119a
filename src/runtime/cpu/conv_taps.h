// Sums of weighted rows: out[i] = bias + sum over taps of weight[t] * row[t][i], taps in order. The inner loop of depthwise convolutions.
#pragma once

#include <cstdint>

#include "runtime/cpu/gemv_isa.h"

namespace forebay::cpu {

struct TapRow {
  const float* const* rows = nullptr;
  const float* weights = nullptr;
  int taps = 0;
  float bias = 0.0f;
  float* out = nullptr;
  std::int64_t count = 0;
};
void conv_tap_row(InstructionSet set, const TapRow& row);

void conv_tap_row_avx2(const TapRow& row);
void conv_tap_row_avx512(const TapRow& row);

}  // namespace forebay::cpu
