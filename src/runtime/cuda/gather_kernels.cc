// Rows gathered by index, also from the slabs of a table, and rows of packed tables as values. Indices that no shape decides are brought to
// the host and checked before anything is read: a few bytes, where the CPU's kernel would take the table.
#include <algorithm>
#include <string>

#include "runtime/cuda/gather_task.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/packed_launch.h"
#include "runtime/ops/indices.h"
#include "runtime/ops/quant_gather.h"
#include "runtime/row_table.h"

namespace forebay::cuda {
namespace {

class CheckedIndices {
 public:
  // unsupported where the indices are known and one is outside: the CPU's kernel names it.
  Status prepare(const PrepareContext& context, std::size_t input, std::int64_t table) {
    input_ = input;
    table_ = table;
    label_ = ops::node_label(context.node);
    const TypeShape& type = context.inputs[input];
    wide_ = type.dtype == DType::i64;
    count_ = type.shape().elements();
    host_ = HostTensor();
    known_ = context.values[input] != nullptr;
    if (!known_) {
      host_ = HostTensor(type.dtype, type.shape());
      return {};
    }
    const ConstTensorView view(*context.values[input]);
    return ops::check_indices(label_, ops::IndexReader(view), count_, table_).ok() ? Status()
                                                                                   : context.node.unsupported("an index outside");
  }
  // Waits for the device, once a pass, where the indices were computed.
  Status check(const KernelCall& call, CudaState& state) {
    if (known_ || call.slab > 0 || count_ == 0) return {};
    const cudaStream_t stream = queue_stream();
    FB_TRY(state.errors.check(cudaMemcpyAsync(host_.data(), call.inputs[input_].data, host_.bytes(), cudaMemcpyDefault, stream),
                              "reading indices"));
    FB_TRY(state.errors.check(cudaStreamSynchronize(stream), "work of the device"));
    const ConstTensorView view(host_);
    return ops::check_indices(label_, ops::IndexReader(view), count_, table_);
  }
  bool known() const { return known_; }
  bool wide() const { return wide_; }
  std::int64_t count() const { return count_; }
  // Ids of kernels that wait for the host begin with "host.".
  std::string id(std::string_view name) const { return (known_ ? "" : "host.indices+") + std::string(name); }

 private:
  std::size_t input_ = 0;
  std::int64_t table_ = 0, count_ = 0;
  bool known_ = false, wide_ = true;
  std::string label_;
  HostTensor host_;
};

class GatherKernel final : public Kernel, public RowTable {
 public:
  explicit GatherKernel(StatePtr state) : state_(std::move(state)) {}
  Status prepare(const PrepareContext& context) override {
    const std::vector<std::int64_t>& in = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 0), static_cast<int>(in.size())));
    sliced_ = context.sliced_input != plan::kNone;
    if (sliced_ && (context.sliced_input != 0 || axis != 0)) return context.node.unsupported("slabs of another axis");
    const auto d = static_cast<std::size_t>(axis);
    const int bits = dtype_bits(context.inputs[0].dtype);
    task_ = GatherTask();
    task_.table = task_.rows = in[d];
    for (std::size_t i = 0; i < in.size(); ++i) (i < d ? task_.outer : task_.inner) *= i == d ? 1 : in[i];
    if (task_.inner * bits % 8 != 0) return context.node.unsupported("rows that end within a byte");
    FB_TRY(indices_.prepare(context, 1, task_.table));
    task_.count = indices_.count();
    task_.wide = indices_.wide();
    // Rows move in the largest pieces that they are multiples of; slabs and tensors begin at multiples of 64 bytes.
    const std::int64_t row_bytes = task_.inner * bits / 8;
    for (element_bytes_ = 16; row_bytes % element_bytes_ != 0; element_bytes_ /= 2) {
    }
    task_.inner = row_bytes / element_bytes_;
    id_ = indices_.id("cuda.gather");
    return {};
  }
  std::string_view id() const override { return id_; }
  Status run(const KernelCall& call) override {
    FB_TRY(indices_.check(call, *state_));
    return run_checked(call);
  }
  Status run_checked(const KernelCall& call) override {
    GatherTask task = task_;
    if (sliced_) {
      task.first = call.row_begin;
      task.rows = call.inputs[0].shape[0];
    }
    const cudaError_t error =
        launch_gather(element_bytes_, task, call.outputs[0].data, call.inputs[0].data, call.inputs[1].data, queue_stream());
    return error == cudaSuccess ? Status() : state_->errors.check(error, id_);
  }

 private:
  const StatePtr state_;
  CheckedIndices indices_;
  GatherTask task_;
  bool sliced_ = false;
  int element_bytes_ = 1;
  std::string id_ = "cuda.gather";
};

// com.microsoft.GatherBlockQuantized and forebay.DequantRows.
class PackedRows final : public CudaKernel {
 public:
  explicit PackedRows(StatePtr state) : CudaKernel("cuda.packed.rows", std::move(state)) {}
  std::string_view id() const override { return id_text_; }
  Status run(const KernelCall& call) override {
    if (rows_.gathers) FB_TRY(indices_.check(call, *state_));
    UnpackTask task = task_;
    task.y = call.outputs[0].data;
    task.indices = rows_.gathers ? call.inputs[1].data : nullptr;
    PackedSlabs slabs;
    slabs.rows = rows_.table * rows_.each;
    slabs.codes[0] = call.inputs[0].data;
    slabs.scales[0] = call.inputs[rows_.scale].data;
    slabs.zeros[0] = weight_.zero.type != DType::none ? call.inputs[rows_.zero].data : nullptr;
    return check(launch_unpack(task, weight_, slabs, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(rows_, ops::packed_table(context.node, context.inputs));
    weight_ = PackedWeight();
    weight_.code = rows_.code;
    weight_.value = context.outputs[0].dtype;
    weight_.stride = rows_.columns;
    weight_.col_block = rows_.block;
    weight_.scale = {context.inputs[rows_.scale].dtype, rows_.blocks, 1, false};
    if (rows_.zero < context.inputs.size() && context.inputs[rows_.zero].present())
      weight_.zero = {rows_.code, rows_.zero_stride, 1, false};
    weight_.zero_default = rows_.zero_default;
    if (rows_.gathers) FB_TRY(indices_.prepare(context, 1, rows_.table));
    task_.rows = (rows_.gathers ? indices_.count() : rows_.table) * rows_.each;
    task_.columns = rows_.columns;
    task_.y_type = context.outputs[0].dtype;
    task_.each = rows_.each;
    task_.table = rows_.table;
    task_.wide = rows_.gathers && indices_.wide();
    id_text_ = rows_.gathers ? indices_.id(id_) : id_;
    return {};
  }

  CheckedIndices indices_;
  ops::PackedTable rows_;
  PackedWeight weight_;
  UnpackTask task_;
  std::string id_text_;
};

KernelPtr make_gather(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  if (dtype_bits(inputs[0].dtype) == 0) return nullptr;
  return std::make_unique<GatherKernel>(state);
}
KernelPtr make_packed_rows(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape> outputs, const StatePtr& state) {
  if (!float_type(outputs[0].dtype)) return nullptr;
  return std::make_unique<PackedRows>(state);
}

}  // namespace

std::span<const TableEntry> gather_table() {
  static constexpr TableEntry kTable[] = {{"", "Gather", make_gather},
                                          {"com.microsoft", "GatherBlockQuantized", make_packed_rows},
                                          {"forebay", "DequantRows", make_packed_rows}};
  return kTable;
}

}  // namespace forebay::cuda
