#include "runtime/ops/vector_loops.h"

#include <array>
#include <cstddef>

#define FB_LOOP_INLINE inline __attribute__((always_inline))

namespace forebay::ops {

namespace loops_v2 {
namespace {
#include "runtime/ops/vector_loops.inl"
constexpr VectorLoops kLoops = make_loops("x86-64-v2");
}  // namespace
}  // namespace loops_v2

#pragma GCC push_options
#pragma GCC target("avx,avx2,bmi,bmi2,fma,f16c,lzcnt,movbe")
namespace loops_v3 {
namespace {
#include "runtime/ops/vector_loops.inl"
constexpr VectorLoops kLoops = make_loops("avx2");
}  // namespace
}  // namespace loops_v3
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx,avx2,bmi,bmi2,fma,f16c,lzcnt,movbe,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,prefer-vector-width=512")
namespace loops_v4 {
namespace {
#include "runtime/ops/vector_loops.inl"
constexpr VectorLoops kLoops = make_loops("avx512");
}  // namespace
}  // namespace loops_v4
#pragma GCC pop_options

namespace {

struct Available {
  std::array<const VectorLoops*, 3> sets{};
  std::size_t count = 0;
};

Available probe() {
  Available found;
  found.sets[found.count++] = &loops_v2::kLoops;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    found.sets[found.count++] = &loops_v3::kLoops;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      found.sets[found.count++] = &loops_v4::kLoops;
    }
  }
  return found;
}

const Available& available() {
  static const Available found = probe();
  return found;
}

}  // namespace

const VectorLoops& vector_loops() { return *available().sets[available().count - 1]; }
std::span<const VectorLoops* const> available_vector_loops() { return {available().sets.data(), available().count}; }

}  // namespace forebay::ops
