// The engine of elementwise kernels: broadcasting planned once in prepare, contiguous inner loops, f16 and bf16 in blocks through float.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/op.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/vector_loops.h"

namespace forebay::ops {

// How up to three dense inputs are read for every element of a dense output. Axes of size 1 are dropped and neighbours merged, so the
// innermost axis is as long as can be; there every stride is 0 or 1.
struct BroadcastPlan {
  static constexpr int kMaxInputs = 3;
  int rank = 1;
  std::int64_t total = 0;
  std::array<std::int64_t, kMaxRank> dims{};
  std::array<std::array<std::int64_t, kMaxRank>, kMaxInputs> strides{};

  // Inputs must broadcast to `out` (infer has checked).
  void plan(std::span<const std::int64_t> out, std::span<const std::span<const std::int64_t>> inputs);

  // Calls f(position in the output, offsets of the inputs, elements) for runs along the innermost axis that cover [begin, end).
  template <typename F>
  void walk(std::int64_t begin, std::int64_t end, F&& f) const {
    std::array<std::int64_t, kMaxRank> index{};
    std::array<std::int64_t, kMaxInputs> offset{};
    std::int64_t rest = begin;
    for (int d = rank - 1; d >= 0; --d) {
      const auto at = static_cast<std::size_t>(d);
      if (dims[at] == 0) return;
      index[at] = rest % dims[at];
      rest /= dims[at];
      for (std::size_t k = 0; k < kMaxInputs; ++k) offset[k] += index[at] * strides[k][at];
    }
    const auto last = static_cast<std::size_t>(rank - 1);
    for (std::int64_t position = begin; position < end;) {
      const std::int64_t left = dims[last] - index[last];
      const std::int64_t n = left < end - position ? left : end - position;
      f(position, offset, n);
      position += n;
      index[last] += n;
      for (std::size_t k = 0; k < kMaxInputs; ++k) offset[k] += n * strides[k][last];
      for (std::size_t d = last; d > 0 && index[d] == dims[d]; --d) {
        index[d] = 0;
        ++index[d - 1];
        for (std::size_t k = 0; k < kMaxInputs; ++k) offset[k] += strides[k][d - 1] - dims[d] * strides[k][d];
      }
    }
  }
};

// Elements converted at a time for f16 and bf16, on the stack.
inline constexpr std::int64_t kBlock = 1024;
void load_half(DType dtype, const void* in, float* out, std::int64_t n);
void store_half(DType dtype, const float* in, void* out, std::int64_t n);

// A binary operator with its element sizes. For f16 and bf16 inputs the loops are those of float.
struct BinaryFunction {
  BinaryLoops loops;
  DType a = DType::none, b = DType::none, out = DType::none;
  LoopParams params;
};
std::unique_ptr<Kernel> make_binary_kernel(std::string id, const BinaryFunction& function);
// out = f(a, b) over n elements; a_step and b_step are 1, or 0 for one element. In blocks where a dtype is f16 or bf16.
void apply_binary(const BinaryFunction& function, const std::byte* a, std::int64_t a_step, const std::byte* b, std::int64_t b_step,
                  std::byte* out, std::int64_t n);

struct UnaryFunction {
  LoopFn loop = nullptr;
  DType in = DType::none, out = DType::none;
  LoopParams params;
};
std::unique_ptr<Kernel> make_unary_kernel(std::string id, const UnaryFunction& function);
// The dtype that loops see: float for f16 and bf16.
inline DType loop_dtype(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16 ? DType::f32 : dtype; }

// Dims of input 1 of an opset 6 operator with `broadcast` and `axis`: ones appended so that it broadcasts as later opsets do.
// Other versions: the dims as they are.
std::vector<std::int64_t> aligned_second_dims(const NodeView& node, std::span<const std::int64_t> first, std::span<const std::int64_t> second);
// Output shape of inputs 0 and 1 broadcast together, of `dtype`; unranked when an input is.
Status infer_broadcast_pair(InferContext& ctx, DType dtype);
// elementwise when `input` alone has the whole output shape, so that rows of it are rows of the output; else whole.
plan::Consumption consume_elementwise(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs);

}  // namespace forebay::ops
