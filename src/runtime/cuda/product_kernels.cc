// MatMul, FusedMatMul and Gemm. Up to 8 rows: our matrix-vector kernels, with the bits of the
// CPU's. More: cuBLASLt for a constant B, else our tiles.
#include <algorithm>
#include <optional>

#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/lt_product.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/product_plain.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kFewRows = 8;

// The step from batch to batch; none when it is not one step.
std::optional<std::int64_t> even_step(std::span<const std::int64_t> offsets) {
  const std::int64_t step = offsets.size() > 1 ? offsets[1] - offsets[0] : 0;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] != offsets[0] + static_cast<std::int64_t>(i) * step) return std::nullopt;
  }
  return step;
}

class ProductKernel final : public MergedKernel {
 public:
  struct Finish {
    Activation activation = Activation::none;
    float alpha = 0, beta = 0;
  };
  ProductKernel(const ops::ProductSpec& spec, const Finish& finish, StatePtr state)
      : spec_(spec), finish_(finish), state_(std::move(state)) {}

  Status prepare(const PrepareContext& context) override {
    const TypeShape* c =
        context.inputs.size() > 2 && context.inputs[2].present() ? &context.inputs[2] : nullptr;
    FB_ASSIGN(layout_,
              product_layout(context.node, context.inputs[0], context.inputs[1], c, spec_));
    if (context.sliced_input != plan::kNone && context.sliced_input != 1)
      return context.node.unsupported("only the second operand may come in slabs");
    consumption_ =
        context.sliced_input == plan::kNone ? plan::Consumption::whole : context.consumption;
    const auto a_step = even_step(layout_.a_offsets), b_step = even_step(layout_.b_offsets);
    if (!a_step || !b_step || layout_.a_offsets.size() > 65535)
      return context.node.unsupported("uneven batches");
    type_ = context.inputs[1].dtype;
    y_type_ = context.outputs[0].dtype;
    task_ = ProductTask();
    task_.a_type = task_.b_type = type_;
    task_.y_type = y_type_;
    task_.m = layout_.m;
    task_.a_row = layout_.a_row;
    task_.a_col = layout_.a_col;
    task_.b_row = layout_.b_row;
    task_.b_col = layout_.b_col;
    task_.y_row = layout_.n;
    task_.batches = static_cast<std::int64_t>(layout_.a_offsets.size());
    task_.a_batch = *a_step;
    task_.b_batch = *b_step;
    task_.y_batch = layout_.m * layout_.n;
    task_.alpha = spec_.alpha;
    task_.beta = spec_.beta;
    task_.activation = finish_.activation;
    task_.activation_alpha = finish_.alpha;
    task_.activation_beta = finish_.beta;
    if (c != nullptr && spec_.beta != 0.0f) {
      task_.c_type = c->dtype;
      task_.c_row = layout_.c_row;
      task_.c_col = layout_.c_col;
    }
    const std::span<const std::int64_t> rows = context.slab_rows;
    even_slabs_ = true;
    for (std::size_t i = 0; i + 1 < rows.size(); ++i) even_slabs_ = even_slabs_ && rows[i] == rows[0];
    even_slabs_ = even_slabs_ && !rows.empty() && rows.back() <= rows[0];
    const bool few = layout_.m <= kFewRows && layout_.a_col == 1;
    way_ = !few ? Way::tiles : spec_.trans_b ? Way::row_dot : Way::axpy;
    library_.clear();
    if (way_ == Way::tiles) choose_library(context);
    const bool sums = consumption_ == plan::Consumption::by_reduction || (way_ == Way::library && with_sums());
    // A slab's sums are finished at once: room for one, small enough to stay in the device's cache.
    std::int64_t columns = layout_.n;
    if (consumption_ == plan::Consumption::by_output) columns = *std::max_element(rows.begin(), rows.end());
    sums_bytes_ = sums ? static_cast<std::uint64_t>(task_.batches * layout_.m * columns) * sizeof(float) : 0;
    return {};
  }

  std::uint64_t workspace_bytes() const override { return sums_bytes_; }
  std::string_view id() const override {
    constexpr std::string_view kNames[] = {"cuda.gemv256", "cuda.gemv_axpy", "cuda.gemm_tiles",
                                           "cuda.cublaslt"};
    return kNames[static_cast<int>(way_)];
  }

  Status run(const KernelCall& call) override {
    const ProductTask task = task_of(call);
    switch (way_) {
      case Way::row_dot: return check(launch_row_dot(task, queue_stream()));
      case Way::axpy: return check(launch_axpy(task, queue_stream()));
      case Way::tiles: return check(launch_tiles(task, queue_stream()));
      case Way::library: return run_library(call, task);
    }
    return {};
  }

  bool merges() const override { return way_ == Way::row_dot && consumption_ == plan::Consumption::by_output && even_slabs_; }
  Status run_merged(std::span<const KernelCall> calls) override {
    ProductTask task = task_of(calls[0]);
    SlabTable table;
    table.rows = calls[0].inputs[1].shape[0];
    task.n = 0;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      table.slabs[i] = calls[i].inputs[1].data;
      task.n += calls[i].inputs[1].shape[0];
    }
    return check(launch_row_dot_slabs(task, table, queue_stream()));
  }

 private:
  enum class Way : std::uint8_t { row_dot, axpy, tiles, library };

  ProductTask task_of(const KernelCall& call) const {
    ProductTask task = task_;
    const std::int64_t size = dtype_bits(type_) / 8, y_size = dtype_bits(y_type_) / 8;
    const std::byte* a = call.inputs[0].data + layout_.a_offsets[0] * size;
    std::int64_t column = 0;
    task.n = layout_.n;
    task.k = layout_.k;
    task.sums = reinterpret_cast<float*>(call.workspace);
    if (consumption_ == plan::Consumption::by_output) {
      column = call.row_begin;
      task.n = call.inputs[1].shape[0];
    } else if (consumption_ == plan::Consumption::by_reduction) {
      a += call.row_begin * layout_.a_col * size;
      task.k = call.inputs[1].shape[0];
      task.first = call.slab == 0;
      task.last = call.slab + 1 == call.slab_count;
    }
    task.a = a;
    task.b = call.inputs[1].data + layout_.b_offsets[0] * size;
    task.y = call.outputs[0].data + column * y_size;
    task.sums_row = consumption_ == plan::Consumption::by_output ? task.n : layout_.n;
    if (task.c_type != DType::none)
      task.c = call.inputs[2].data + column * task.c_col * (dtype_bits(task.c_type) / 8);
    return task;
  }

  Status check(cudaError_t error) const {
    return error == cudaSuccess ? Status() : state_->errors.check(error, id());
  }

  // f32 sums first where the library's own output would not do: C, or sums over slabs.
  bool with_sums() const {
    return task_.c_type != DType::none || task_.activation != Activation::none || consumption_ == plan::Consumption::by_reduction;
  }

  // A constant matrix of even strides: one product for each size of slab. Leaves library_ empty,
  // and the way as it is, when one is missing.
  void choose_library(const PrepareContext& context) {
    const bool b_rows = layout_.b_row == 1 && layout_.b_col == layout_.k,
               b_columns = layout_.b_col == 1 && layout_.b_row == layout_.n;
    if (task_.batches != 1 || layout_.a_col != 1 || (!b_rows && !b_columns) || layout_.k == 0)
      return;
    const bool output = consumption_ == plan::Consumption::by_output,
               reduction = consumption_ == plan::Consumption::by_reduction;
    std::vector<std::int64_t> sizes(context.slab_rows.begin(), context.slab_rows.end());
    if (!output && !reduction) sizes = {0};
    const DType d_type = with_sums() ? DType::f32 : y_type_;
    if (d_type != DType::f32 && d_type != type_) return;
    // The output's alignment is that of the worst slab's first column and of its rows.
    std::int64_t alignment = 16, column = 0;
    const std::int64_t d_size = dtype_bits(d_type) / 8;
    const bool own_rows = output && with_sums();
    for (const std::int64_t rows : sizes) {
      const std::int64_t begin = output && !own_rows ? column : 0, row = own_rows ? rows : layout_.n;
      while (alignment > d_size && (begin * d_size % alignment != 0 || row * d_size % alignment != 0)) alignment /= 2;
      // The part of A that meets the slab.
      if (reduction && column * (dtype_bits(type_) / 8) % 16 != 0) return;
      column += rows;
    }
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      LtShape shape;
      shape.m = layout_.m;
      shape.n = output ? sizes[i] : layout_.n;
      shape.k = reduction ? sizes[i] : layout_.k;
      shape.b_rows = b_rows;
      shape.a_row = layout_.a_row;
      shape.d_row = own_rows ? sizes[i] : layout_.n;
      shape.type = type_;
      shape.d_type = d_type;
      shape.add = reduction && i > 0;
      shape.d_alignment = static_cast<std::uint32_t>(alignment);
      if (find(shape) != nullptr) continue;
      auto product = make_lt_product(shape, state_);
      if (product == nullptr) {
        library_.clear();
        return;
      }
      library_.push_back(std::move(product));
    }
    way_ = Way::library;
  }
  const LtProduct* find(const LtShape& shape) const {
    for (const auto& product : library_) {
      if (product->shape() == shape) return product.get();
    }
    return nullptr;
  }

  Status run_library(const KernelCall& call, const ProductTask& task) const {
    LtShape shape = library_.front()->shape();
    shape.n = task.n;
    shape.k = task.k;
    shape.d_row = with_sums() ? task.sums_row : task.y_row;
    shape.add = !task.first;
    const LtProduct* product = find(shape);
    if (product == nullptr)
      return Status(Code::internal,
                    "slab " + std::to_string(call.slab) + " has a size that was not prepared");
    if (!with_sums()) return product->run(task.a, task.b, task.y, task.alpha, queue_stream());
    FB_TRY(product->run(task.a, task.b, task.sums, 1.0f, queue_stream()));
    return task.last ? check(launch_finish(task, queue_stream())) : Status();
  }

  const ops::ProductSpec spec_;
  const Finish finish_;
  const StatePtr state_;
  ops::ProductLayout layout_;
  plan::Consumption consumption_ = plan::Consumption::whole;
  DType type_ = DType::none, y_type_ = DType::none;
  ProductTask task_;
  Way way_ = Way::tiles;
  std::vector<std::unique_ptr<LtProduct>> library_;
  std::uint64_t sums_bytes_ = 0;
  bool even_slabs_ = false;
};
static_assert(SlabTable::kMost >= kMostMerged);

bool product_types(std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  if (inputs.size() < 2 || inputs[0].dtype != inputs[1].dtype || !float_type(inputs[0].dtype) || !float_type(outputs[0].dtype)) return false;
  return inputs.size() < 3 || !inputs[2].present() || float_type(inputs[2].dtype);
}

KernelPtr make_product(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs, const StatePtr& state) {
  if (!product_types(inputs, outputs)) return nullptr;
  ops::ProductSpec spec;
  spec.trans_a = node.integer("transA", 0) != 0;
  spec.trans_b = node.integer("transB", 0) != 0;
  spec.alpha = node.real("alpha", 1.0f);
  spec.beta = node.real("beta", 1.0f);
  return std::make_unique<ProductKernel>(spec, ProductKernel::Finish(), state);
}

// activation(x * W' + bias), W as [N,K] unless transB is 0.
KernelPtr make_linear(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs, const StatePtr& state) {
  static constexpr std::pair<std::string_view, Activation> kNames[] = {
      {"", Activation::none},           {"Relu", Activation::relu},       {"LeakyRelu", Activation::leaky_relu},      {"Clip", Activation::clip},
      {"Sigmoid", Activation::sigmoid}, {"Tanh", Activation::tanh},       {"HardSigmoid", Activation::hard_sigmoid},  {"HardSwish", Activation::hard_swish},
      {"Swish", Activation::swish},     {"Mish", Activation::mish},       {"Gelu", Activation::gelu},                 {"GeluTanh", Activation::gelu_tanh}};
  for (const auto& [name, activation] : kNames) {
    if (name != node.text("activation", "") || !product_types(inputs, outputs)) continue;
    ops::ProductSpec spec;
    spec.trans_b = node.integer("transB", 1) != 0;
    return std::make_unique<ProductKernel>(spec, ProductKernel::Finish{activation, node.real("activation_alpha", 0), node.real("activation_beta", 0)}, state);
  }
  return nullptr;
}

}  // namespace

std::span<const TableEntry> product_table() {
  static constexpr TableEntry kTable[] = {{"", "MatMul", make_product},
                                          {"", "Gemm", make_product},
                                          {"com.microsoft", "FusedMatMul", make_product},
      {"forebay", "Linear", make_linear}};
  return kTable;
}

}  // namespace forebay::cuda
