// Products by a packed weight, and its rows gathered. Up to 8 rows of A: values are made in registers, with the bits of the CPU's kernels.
// More: a slab's values are written into the workspace, and the float product takes them from there.
#include <algorithm>
#include <string>

#include "runtime/choosing_kernel.h"
#include "runtime/cuda/cuda_kernels.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/packed_group.h"
#include "runtime/cuda/row_around.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/product_plain.h"
#include "runtime/ops/quant_layout.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kFewRows = 8;
static_assert(PackedSlabs::kMost >= kMostMerged);

// The views that the CPU's kernels take, one a slab, as the device's kernels take them.
PackedScales scales_of(const cpu::QuantScales& from, bool cut) {
  return {from.data == nullptr ? DType::none : from.dtype, from.row_stride, from.col_stride, cut};
}
PackedWeight weight_of(const cpu::QuantView& view, bool scale_cut, bool zero_cut) {
  PackedWeight weight;
  weight.code = view.dtype;
  weight.value = view.value;
  weight.stride = view.stride;
  weight.first_row = view.first_row;
  weight.row_block = view.row_block;
  weight.col_block = std::max<std::int64_t>(1, view.col_block);
  weight.scale = scales_of(view.scale, scale_cut);
  weight.zero = scales_of(view.zero, zero_cut);
  weight.zero_default = view.zero_default;
  return weight;
}

class PackedProduct final : public MergedKernel, public GroupedKernel, public WeightReader, public ChoosingKernel {
 public:
  PackedProduct(const NodeView& node, StatePtr state) : state_(std::move(state)) {
    spec_.packed = true;
    spec_.trans_b = node.op() == "MatMulNBits" || node.integer("transB", 0) != 0;
    spec_.alpha = node.real("alpha", 1.0f);
    spec_.beta = node.real("beta", 1.0f);
    spec_.c_input = node.op() == "MatMulNBits" ? 5 : 4;
  }

  Status prepare(const PrepareContext& context) override {
    whole_.assign(context.inputs.begin(), context.inputs.end());
    FB_ASSIGN(packed_, ops::quant_layout(context.node, whole_));
    const TypeShape* c = there(whole_, spec_.c_input) ? &whole_[spec_.c_input] : nullptr;
    FB_ASSIGN(layout_, product_layout(context.node, whole_[0], packed_.matrix(), c, spec_));
    if (context.sliced_input != plan::kNone && context.sliced_input != 1)
      return context.node.unsupported("only the weight may come in slabs");
    consumption_ = context.sliced_input == plan::kNone ? plan::Consumption::whole : context.consumption;
    if (consumption_ != plan::Consumption::whole && (consumption_ == plan::Consumption::by_output) != spec_.trans_b)
      return context.node.unsupported("slabs of another form");
    even_slabs_ = consumption_ == plan::Consumption::by_output;
    for (std::size_t i = 0; i + 1 < context.slab_rows.size(); ++i)
      even_slabs_ = even_slabs_ && context.slab_rows[i] == context.slab_rows[0];
    even_slabs_ = even_slabs_ && context.slab_rows.back() <= context.slab_rows[0];
    set_task(context, c);
    few_ = layout_.m <= kFewRows && layout_.a_col == 1 && layout_.a_offsets.size() == 1;
    if (few_) {
      inner_.reset();
      bytes_ = consumption_ == plan::Consumption::by_reduction ? float_bytes(layout_.m * layout_.n) : 0;
      return {};
    }
    return prepare_inner(context);
  }

  std::uint64_t workspace_bytes() const override { return bytes_; }
  std::string_view id() const override {
    return !few_ ? std::string_view(inner_id_) : spec_.trans_b ? "cuda.packed.gemv256" : "cuda.packed.gemv_axpy";
  }

  Status run(const KernelCall& call) override {
    if (!few_) return run_inner(call);
    return spec_.trans_b ? row_dot({&call, 1})
                         : check(launch_packed_axpy(task_of(call), weight_of_call(call), slabs_of({&call, 1}), queue_stream()));
  }
  // Many rows: the ways of the float product.
  std::string problem() const override {
    const ChoosingKernel* inner = inner_choice();
    return inner == nullptr ? std::string() : "packed " + std::string(dtype_name(packed_.code)) + " " + inner->problem();
  }
  std::vector<KernelWay> ways() const override {
    const ChoosingKernel* inner = inner_choice();
    return inner == nullptr ? std::vector<KernelWay>() : inner->ways();
  }
  Status take(const KernelWay& way) override {
    ChoosingKernel* inner = inner_choice();
    if (inner == nullptr) return Status(Code::unsupported, "there is one way");
    FB_TRY(inner->take(way));
    settle_inner();
    return {};
  }
  void load() override {
    if (ChoosingKernel* inner = inner_choice(); inner != nullptr) inner->load();
  }
  // The row product reads them ahead where all three are weights.
  void reads_weight(std::size_t input) override {
    if (input < 4) constant_[input] = true;
    task_.constant_b = constant_[1] && constant_[2] && (constant_[3] || !there(whole_, 3));
  }
  bool merges() const override { return few_ && spec_.trans_b && even_slabs_; }
  Status run_merged(std::span<const KernelCall> calls) override { return row_dot(calls); }

  // As queries, keys and values, or gate and up of a gated layer.
  Result<std::size_t> run_group(std::span<const Member> members) override {
    const PackedGroup group = group_of(members);
    if (group.count < 2) return std::size_t{0};
    FB_ASSIGN(const bool taken, stream(group));
    return taken ? static_cast<std::size_t>(group.count) : 0;
  }
  // The norm of the activations.
  Result<Done> run_between(const Member* before, std::span<const Member> members, const Member*) override {
    const auto* const norm = before != nullptr ? dynamic_cast<const RowNorm*>(before->kernel) : nullptr;
    if (norm == nullptr) return Done{};
    PackedGroup group = group_of(members);
    if (group.count == 0) return Done{};
    group.normed = true;
    group.norm = norm->norm_task(before->calls[0]);
    FB_ASSIGN(const bool taken, stream(group));
    return taken ? Done{static_cast<std::size_t>(group.count), false} : Done{};
  }

 private:
  static std::uint64_t float_bytes(std::int64_t count) { return ops::float_bytes(count); }
  Status check(cudaError_t error) const { return error == cudaSuccess ? Status() : state_->errors.check(error, id()); }

  void set_task(const PrepareContext& context, const TypeShape* c) {
    task_ = ProductTask();
    task_.a_type = context.inputs[0].dtype;
    task_.y_type = context.outputs[0].dtype;
    task_.m = layout_.m;
    task_.a_row = layout_.a_row;
    task_.y_row = layout_.n;
    task_.alpha = spec_.alpha;
    task_.beta = spec_.beta;
    if (c != nullptr && spec_.beta != 0.0f) {
      task_.c_type = c->dtype;
      task_.c_row = layout_.c_row;
      task_.c_col = layout_.c_col;
    }
  }

  // The float product of A and the values, in A's type; it sees the values in place of the weight and C behind them.
  Status prepare_inner(const PrepareContext& context) {
    std::vector<plan::Attribute> attributes{{"transB", std::int64_t{spec_.trans_b}}, {"alpha", spec_.alpha}, {"beta", spec_.beta}};
    inner_inputs_ = {whole_[0], packed_.matrix()};
    inner_inputs_[1].dtype = whole_[0].dtype;
    has_c_ = there(whole_, spec_.c_input);
    if (has_c_) inner_inputs_.push_back(whole_[spec_.c_input]);
    const plan::Plan none;
    const NodeView node(context.node.name(), "", "Gemm", 13, attributes, none, inner_inputs_.size(), 1);
    FB_ASSIGN(inner_, make_cuda_kernel(node, inner_inputs_, context.outputs, state_));
    if (inner_ == nullptr) return context.node.unsupported("a product of these types");
    const std::vector<const HostTensor*> values(inner_inputs_.size(), nullptr);
    PrepareContext inner = context;
    inner.node = node;
    inner.inputs = inner_inputs_;
    inner.values = values;
    FB_TRY(inner_->prepare(inner));
    std::int64_t rows = consumption_ == plan::Consumption::whole ? packed_.rows : 0;
    for (const std::int64_t slab : context.slab_rows) rows = std::max(rows, slab);
    values_bytes_ =
        ops::padded_bytes(static_cast<std::uint64_t>(rows * packed_.columns) * static_cast<std::uint64_t>(dtype_bits(whole_[0].dtype) / 8));
    settle_inner();
    return {};
  }
  void settle_inner() {
    inner_id_ = "cuda.packed+" + std::string(inner_->id());
    values_at_ = ops::padded_bytes(inner_->workspace_bytes());
    bytes_ = values_at_ + values_bytes_;
  }
  ChoosingKernel* inner_choice() const { return few_ ? nullptr : dynamic_cast<ChoosingKernel*>(inner_.get()); }

  Status run_inner(const KernelCall& call) {
    UnpackTask values;
    values.rows = consumption_ == plan::Consumption::whole ? packed_.rows : slab_rows(call);
    values.columns = packed_.columns;
    values.y = call.workspace + values_at_;
    values.y_type = whole_[0].dtype;
    FB_TRY(check(launch_unpack(values, weight_of_call(call), slabs_of({&call, 1}), queue_stream())));
    Shape shape{values.rows, values.columns};
    const ConstTensorView inputs[3] = {call.inputs[0], ConstTensorView(call.workspace + values_at_, values.y_type, shape),
                                       has_c_ ? call.inputs[spec_.c_input] : ConstTensorView()};
    KernelCall inner = call;
    inner.inputs = std::span(inputs).first(inner_inputs_.size());
    inner.workspace_bytes = inner_->workspace_bytes();
    return inner_->run(inner);
  }

  static std::int64_t slab_rows(const KernelCall& call) { return call.inputs[1].shape[0]; }
  PackedWeight weight_of_call(const KernelCall& call) const {
    const auto cut = [&](std::size_t i) {
      return i < call.inputs.size() && call.inputs[i].present() && !whole_[i].dims.empty() && call.inputs[i].shape[0] != whole_[i].dims[0];
    };
    return weight_of(packed_.view(call, whole_), cut(2), cut(3));
  }
  PackedSlabs slabs_of(std::span<const KernelCall> calls) const {
    PackedSlabs slabs;
    slabs.rows = std::max<std::int64_t>(1, consumption_ == plan::Consumption::whole ? packed_.rows : slab_rows(calls[0]));
    for (std::size_t i = 0; i < calls.size(); ++i) {
      slabs.codes[i] = calls[i].inputs[1].data;
      slabs.scales[i] = calls[i].inputs[2].data;
      slabs.zeros[i] = calls[i].inputs.size() > 3 && calls[i].inputs[3].present() ? calls[i].inputs[3].data : nullptr;
    }
    return slabs;
  }

  ProductTask task_of(const KernelCall& call) const {
    ProductTask task = task_;
    task.n = layout_.n;
    task.k = layout_.k;
    const std::byte* a = call.inputs[0].data + layout_.a_offsets[0] * (dtype_bits(task.a_type) / 8);
    std::int64_t column = 0;
    task.sums = reinterpret_cast<float*>(call.workspace);
    if (consumption_ == plan::Consumption::by_output) {
      column = call.row_begin;
      task.n = slab_rows(call);
    } else if (consumption_ == plan::Consumption::by_reduction) {
      a += call.row_begin * (dtype_bits(task.a_type) / 8);
      task.k = slab_rows(call);
      task.first = call.slab == 0;
      task.last = call.slab + 1 == call.slab_count;
    }
    task.a = a;
    task.y = call.outputs[0].data + column * (dtype_bits(task.y_type) / 8);
    if (task.c_type != DType::none) task.c = call.inputs[spec_.c_input].data + column * task.c_col * (dtype_bits(task.c_type) / 8);
    return task;
  }
  ProductTask joined(std::span<const KernelCall> calls) const {
    ProductTask task = task_of(calls[0]);
    for (std::size_t i = 1; i < calls.size(); ++i) task.n += slab_rows(calls[i]);
    return task;
  }
  Status row_dot(std::span<const KernelCall> calls) const {
    return check(launch_packed_row_dot(joined(calls), weight_of_call(calls[0]), slabs_of(calls), queue_stream()));
  }

  // What the first member may share a launch with, itself the first. A small weight comes as one piece.
  static PackedGroup group_of(std::span<const Member> members) {
    PackedGroup group;
    for (const Member& member : members.first(std::min(members.size(), std::size_t{PackedGroup::kMost}))) {
      const auto* const kernel = dynamic_cast<const PackedProduct*>(member.kernel);
      if (kernel == nullptr || !kernel->few_ || !kernel->spec_.trans_b || kernel->layout_.m != 1) break;
      if (!kernel->even_slabs_ && kernel->consumption_ != plan::Consumption::whole) break;
      group.tasks[group.count] = kernel->joined(member.calls);
      if (group.tasks[group.count].a != group.tasks[0].a) break;
      group.weights[group.count] = kernel->weight_of_call(member.calls[0]);
      group.slabs[group.count++] = kernel->slabs_of(member.calls);
    }
    return group;
  }
  // Whether the group was launched.
  Result<bool> stream(const PackedGroup& group) const {
    cudaError_t error = cudaSuccess;
    const bool taken = launch_packed_stream(group, queue_stream(), &error);
    FB_TRY(check(error));
    return taken;
  }

  ops::ProductSpec spec_;
  const StatePtr state_;
  std::vector<TypeShape> whole_, inner_inputs_;  // the inputs uncut; those of the float product
  ops::QuantLayout packed_;
  ops::ProductLayout layout_;
  plan::Consumption consumption_ = plan::Consumption::whole;
  ProductTask task_;
  bool constant_[4] = {};
  KernelPtr inner_;
  std::string inner_id_;
  bool few_ = false, even_slabs_ = false, has_c_ = false;
  std::uint64_t bytes_ = 0, values_at_ = 0, values_bytes_ = 0;
};

KernelPtr make_packed(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs, const StatePtr& state) {
  if (inputs.size() < 3 || !float_type(inputs[0].dtype) || !float_type(outputs[0].dtype)) return nullptr;
  return std::make_unique<PackedProduct>(node, state);
}

}  // namespace

std::span<const TableEntry> packed_table() {
  static constexpr TableEntry kTable[] = {{"forebay", "QuantLinear", make_packed}, {"com.microsoft", "MatMulNBits", make_packed}};
  return kTable;
}

}  // namespace forebay::cuda
