// What the device's kernels share.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "runtime/cuda/cuda_launch.h"
#include "runtime/cuda/cuda_queue.h"
#include "runtime/op.h"

namespace forebay::cuda {

using StatePtr = std::shared_ptr<CudaState>;
using KernelPtr = std::unique_ptr<Kernel>;

// A kernel whose operands come whole.
class CudaKernel : public Kernel {
 public:
  CudaKernel(std::string id, StatePtr state) : id_(std::move(id)), state_(std::move(state)) {}
  Status prepare(const PrepareContext& context) override {
    if (context.sliced_input != plan::kNone) return context.node.unsupported("operands in slabs");
    return setup(context);
  }
  std::string_view id() const override { return id_; }

 protected:
  virtual Status setup(const PrepareContext& context) = 0;
  Status check(cudaError_t error) const {
    return error == cudaSuccess ? Status() : state_->errors.check(error, id_);
  }

  const std::string id_;
  const StatePtr state_;
};

// A factory gives null where it has no kernel for the types.
using Factory = KernelPtr (*)(const NodeView& node, std::span<const TypeShape> inputs,
                              std::span<const TypeShape> outputs, const StatePtr& state);
struct TableEntry {
  std::string_view domain, op;
  Factory make;
};
std::span<const TableEntry> elementwise_table();
std::span<const TableEntry> movement_table();
std::span<const TableEntry> reduce_table();
std::span<const TableEntry> product_table();
std::span<const TableEntry> attention_table();
std::span<const TableEntry> packed_table();
std::span<const TableEntry> gather_table();
std::span<const TableEntry> integer_table();
std::span<const TableEntry> conv_table();
std::span<const TableEntry> axis_table();
std::span<const TableEntry> map_table();
std::span<const TableEntry> linear_table();
std::span<const TableEntry> nhwc_table();
std::span<const TableEntry> vendor_attention_table();
std::span<const TableEntry> quant_conv_table();
std::span<const TableEntry> integer_conv_table();
std::span<const TableEntry> index_table();
std::span<const TableEntry> sort_table();
std::span<const TableEntry> recurrent_table();
std::span<const TableEntry> expert_table();
std::span<const TableEntry> batched_table();
std::span<const TableEntry> arrange_table();
std::span<const TableEntry> response_table();
std::span<const TableEntry> number_table();  // of all types: asked last

inline bool there(std::span<const TypeShape> inputs, std::size_t i) {
  return i < inputs.size() && inputs[i].present();
}
inline bool float_type(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

// A walk over `dims`; strides of each operand in elements, the output's first. Neighbouring dims
// that all operands pass as one are merged.
Walk make_walk(std::span<const std::int64_t> dims,
               std::span<const std::vector<std::int64_t>> strides);
std::vector<std::int64_t> dense_strides(std::span<const std::int64_t> dims);
// Strides with which an operand of `own` dims is read when it is broadcast to `rank` dims.
std::vector<std::int64_t> broadcast_strides(std::span<const std::int64_t> own, std::size_t rank);

}  // namespace forebay::cuda
