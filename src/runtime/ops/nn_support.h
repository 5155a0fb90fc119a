// What the neural-network families share: a kernel base that computes in f32 (or f64) whatever float type the graph has, and small helpers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/op.h"

namespace forebay::ops {

std::string dims_text(std::span<const std::int64_t> dims);  // "[1,?,3]"
inline bool narrow_float(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }
inline bool kernel_float(DType dtype) { return narrow_float(dtype) || dtype == DType::f64; }
// `dtype` is f32, f16, bf16 or f64; otherwise unsupported, naming the input.
Status require_float(const NodeView& node, DType dtype, std::string_view what);
inline std::uint64_t padded_bytes(std::uint64_t bytes) { return (bytes + 63) / 64 * 64; }
inline std::uint64_t float_bytes(std::int64_t count, std::uint64_t size = sizeof(float)) {
  return padded_bytes(static_cast<std::uint64_t>(count) * size);
}

// f16 and bf16 inputs are widened into the workspace, outputs narrowed from it: compute() sees f32 in their place (f64 and integers as they
// are). With slabs: whole inputs are widened at the first slab, outputs narrowed after the last.
class FloatKernel : public Kernel {
 public:
  Status prepare(const PrepareContext& context) final;
  std::uint64_t workspace_bytes() const final { return staged_bytes_ + scratch_bytes_; }
  Status run(const KernelCall& call) final;

 protected:
  virtual Status setup(const PrepareContext& context) = 0;
  virtual Status compute(const KernelCall& call) = 0;  // call.workspace is the scratch alone
  void set_scratch(std::uint64_t bytes) { scratch_bytes_ = padded_bytes(bytes); }

  // Set by constructors: a bit for each input and output that compute() takes as it is, f16 and bf16 too.
  std::uint32_t raw_inputs_ = 0, raw_outputs_ = 0;

 private:
  static constexpr std::size_t kMostInputs = 16, kMostOutputs = 8;
  static constexpr std::uint64_t kInPlace = ~std::uint64_t{0};
  std::vector<std::uint64_t> input_at_, output_at_;  // where staged in the workspace, or kInPlace
  std::uint32_t sliced_ = plan::kNone;
  std::uint64_t staged_bytes_ = 0, scratch_bytes_ = 0;
};

// Converts where the types differ.
void copy_floats(DType from_dtype, const std::byte* from, std::int64_t count, DType to_dtype, std::byte* to);

// f(double()) for f64 data, f(float()) for everything else that compute() may see.
template <typename F>
Status with_float_type(const KernelCall& call, F&& f) {
  if (call.inputs[0].dtype == DType::f64) {
    f(double());
  } else {
    f(float());
  }
  return {};
}

// The usual rules: dtype and dims of output i are those of input `from`.
void same_as_input(InferContext& context, std::size_t output, std::size_t from);

}  // namespace forebay::ops
