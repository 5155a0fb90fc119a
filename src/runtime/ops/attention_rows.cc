#include "runtime/ops/attention_rows.h"

#include <cstddef>

#include "runtime/cpu/convert_floats.h"

#define FB_ATTENTION_INLINE inline __attribute__((always_inline))

// Wide vectors are passed between functions that are inlined, so their calling convention does not
// matter.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace forebay::ops {

namespace rows_v2 {
namespace {
#define FB_LANES 4
#include "runtime/ops/attention_rows.inl"
#undef FB_LANES
}  // namespace
}  // namespace rows_v2

#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#pragma GCC target("avx,avx2,bmi,bmi2,fma")
namespace rows_v3 {
namespace {
#define FB_LANES 8
#include "runtime/ops/attention_rows.inl"
#undef FB_LANES
}  // namespace
}  // namespace rows_v3
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#pragma GCC target( \
    "avx,avx2,bmi,bmi2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
namespace rows_v4 {
namespace {
#define FB_LANES 16
#include "runtime/ops/attention_rows.inl"
#undef FB_LANES
}  // namespace
}  // namespace rows_v4
#pragma GCC pop_options

const AttentionLoops& attention_loops() {
  switch (cpu::cpu_instruction_set()) {
    case cpu::InstructionSet::avx512:
      return rows_v4::kLoops;
    case cpu::InstructionSet::avx2:
      return rows_v3::kLoops;
    case cpu::InstructionSet::baseline:
      break;
  }
  return rows_v2::kLoops;
}

}  // namespace forebay::ops
