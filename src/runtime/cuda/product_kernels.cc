// MatMul, FusedMatMul and Gemm. Up to 8 rows: our matrix-vector kernels, with the bits of the
// CPU's. More: cuBLASLt for a constant B, else our tiles.
#include <algorithm>
#include <optional>

#include "runtime/choosing_kernel.h"
#include "runtime/cuda/activation_names.h"
#include "runtime/cuda/gemm_mma.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/lt_product.h"
#include "runtime/cuda/row_around.h"
#include "runtime/cuda/row_group.h"
#include "runtime/cuda/side_streams.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/product_plain.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kFewRows = 8;
constexpr std::int64_t kSmallSlab = 96;  // tiles of 128 by 128

// The step from batch to batch; none when it is not one step.
std::optional<std::int64_t> even_step(std::span<const std::int64_t> offsets) {
  const std::int64_t step = offsets.size() > 1 ? offsets[1] - offsets[0] : 0;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] != offsets[0] + static_cast<std::int64_t>(i) * step) return std::nullopt;
  }
  return step;
}

class ProductKernel final : public MergedKernel, public GroupedKernel, public WeightReader, public ChoosingKernel {
 public:
  ProductKernel(const ops::ProductSpec& spec, const NamedActivation& finish, StatePtr state)
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
    task_.constant_b = context.sliced_input == 1;  // or by reads_weight
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
    // A slab's sums are finished at once: room for one, small enough to stay in the device's cache.
    sums_columns_ = consumption_ == plan::Consumption::by_output ? *std::max_element(rows.begin(), rows.end()) : layout_.n;
    small_slabs_ = (layout_.m + 127) / 128 * ((sums_columns_ + 127) / 128) <= kSmallSlab;
    library_shapes_.clear();
    mma_serves_ = way_ == Way::tiles && serves_mma(context);
    if (way_ == Way::tiles) find_library_shapes(context);
    if (later_) return {};
    for (const std::string& config : whole_configs(1)) {
      if (use_library(config)) return {};
    }
    if (!library_shapes_.empty() && use_library({})) return {};
    if (mma_serves_) way_ = Way::mma;
    return {};
  }

  void reads_weight(std::size_t input) override { task_.constant_b = task_.constant_b || input == 1; }

  void choose_later() override { later_ = true; }
  // Few rows have one way: the bits of the CPU.
  std::string problem() const override {
    if (way_ == Way::row_dot || way_ == Way::axpy) return {};
    std::string text = "product m=" + std::to_string(layout_.m) + " n=" + std::to_string(layout_.n) + " k=" + std::to_string(layout_.k);
    if (consumption_ != plan::Consumption::whole && !library_shapes_.empty()) {
      const LtShape& first = library_shapes_.front();
      text += consumption_ == plan::Consumption::by_output ? " slab_n=" + std::to_string(first.n) : " slab_k=" + std::to_string(first.k);
    }
    return text + " " + std::string(dtype_name(type_)) + "->" + std::string(dtype_name(y_type_)) +
           (layout_.b_row == 1 ? " [n,k]" : " [k,n]") + (task_.c_type != DType::none ? " +c" : "") +
           (task_.activation != Activation::none ? " +activation" : "");
  }
  std::vector<KernelWay> ways() const override {
    std::vector<KernelWay> all;
    if (way_ == Way::row_dot || way_ == Way::axpy) return all;
    if (!library_shapes_.empty()) {
      std::vector<std::string> configs = whole_configs(kMostAlgorithms / 2);
      for (std::string& config : lt_configs(library_shapes_.front(), state_, kMostAlgorithms)) {
        if (std::find(configs.begin(), configs.end(), config) == configs.end()) configs.push_back(std::move(config));
      }
      for (std::string& config : configs) all.push_back({std::string(name_of(Way::library)), std::move(config)});
    }
    if (mma_serves_) all.push_back({std::string(name_of(Way::mma)), ""});
    all.push_back({std::string(name_of(Way::tiles)), ""});
    return all;
  }
  Status take(const KernelWay& way) override {
    if (way_ != Way::row_dot && way_ != Way::axpy) {
      for (const Way own : {Way::mma, Way::tiles}) {
        if (way.kernel != name_of(own) || (own == Way::mma && !mma_serves_)) continue;
        library_.clear();
        way_ = own;
        return {};
      }
    }
    if (way.kernel == name_of(Way::library) && !library_shapes_.empty() && use_library(way.config)) return {};
    return Status(Code::unsupported, "'" + way.kernel + " " + way.config + "' is not to be had here");
  }
  void load() override {
    for (const auto& product : library_) product->load();
  }

  std::uint64_t workspace_bytes() const override {
    return has_sums() ? static_cast<std::uint64_t>(task_.batches * layout_.m * sums_columns_) * sizeof(float) : 0;
  }
  std::string_view id() const override { return name_of(way_); }

  Status run(const KernelCall& call) override {
    const ProductTask task = task_of(call);
    switch (way_) {
      case Way::row_dot: return check(launch_row_dot(task, queue_stream()));
      case Way::axpy: return check(launch_axpy(task, queue_stream()));
      case Way::tiles: return check(launch_tiles(task, queue_stream()));
      case Way::mma: return check(launch_mma(task, queue_stream()));
      case Way::library: return run_library(call, task);
    }
    return {};
  }

  bool merges() const override {
    if (beside()) return true;
    if (!even_slabs_) return false;
    if (way_ == Way::axpy) return consumption_ == plan::Consumption::by_reduction;
    return way_ == Way::row_dot && consumption_ == plan::Consumption::by_output;
  }
  Status run_merged(std::span<const KernelCall> calls) override {
    if (beside()) return run_beside(*this, calls, kMostLanes, *state_);
    SlabTable table;
    const ProductTask task = joined(calls, &table);
    return check(way_ == Way::row_dot ? launch_row_dot_slabs(task, table, queue_stream()) : launch_axpy_slabs(task, table, queue_stream()));
  }

  // As queries, keys and values, or gate and up of a gated layer: several weights, the same activations.
  Result<std::size_t> run_group(std::span<const Member> members) override {
    const RowGroup group = row_group(members);
    if (group.count < 2) return std::size_t{0};
    FB_TRY(check(launch_row_dot_group(group, queue_stream())));
    return static_cast<std::size_t>(group.count);
  }

  // The norm of the activations, and the product of a gated layer's halves.
  Result<Done> run_between(const Member* before, std::span<const Member> members, const Member* behind) override {
    const RowGroup group = row_group(members);
    if (group.count == 0) return Done{};
    RowAround around;
    if (before != nullptr) {
      const auto* const norm = dynamic_cast<const RowNorm*>(before->kernel);
      if (norm == nullptr) return Done{};
      around.norm = norm->norm_task(before->calls[0]);
      around.normed = true;
    }
    const auto* const product =
        behind != nullptr && group.count == 2 && members.size() == 2 ? dynamic_cast<const PairProduct*>(behind->kernel) : nullptr;
    if (product != nullptr)
      around.both = product->product_of(behind->calls[0], y_type_, group.tasks[0].y, group.tasks[1].y, group.tasks[0].n);
    if (!around.normed && around.both == nullptr) return Done{};
    cudaError_t error = cudaSuccess;
    bool taken = launch_row_stream(group, around, queue_stream(), &error);
    if (!taken && around.normed && around.both != nullptr) {
      around.both = nullptr;
      taken = launch_row_stream(group, around, queue_stream(), &error);
    }
    FB_TRY(check(error));
    return taken ? Done{static_cast<std::size_t>(group.count), around.both != nullptr} : Done{};
  }

 private:
  enum class Way : std::uint8_t { row_dot, axpy, tiles, mma, library };
  static std::string_view name_of(Way way) {
    constexpr std::string_view kNames[] = {"cuda.gemv256", "cuda.gemv_axpy", "cuda.gemm_tiles", "cuda.gemm_mma", "cuda.cublaslt"};
    return kNames[static_cast<int>(way)];
  }

  // What the first member may share a launch with, itself the first.
  RowGroup row_group(std::span<const Member> members) const {
    RowGroup group;
    for (const Member& member : members.first(std::min(members.size(), std::size_t{RowGroup::kMost}))) {
      const auto* const kernel = dynamic_cast<const ProductKernel*>(member.kernel);
      if (kernel == nullptr || !kernel->groups() || kernel->type_ != type_) break;
      const ProductTask task = kernel->joined(member.calls, &group.tables[group.count]), &first = group.count > 0 ? group.tasks[0] : task;
      if (task.a != first.a || task.a_row != first.a_row || task.m != first.m || task.k != first.k || task.m == 0 || task.n == 0) break;
      group.tasks[group.count++] = task;
    }
    return group;
  }

  // A small weight comes as one piece.
  bool groups() const {
    const bool slabs = consumption_ == plan::Consumption::by_output && even_slabs_, whole = consumption_ == plan::Consumption::whole;
    return way_ == Way::row_dot && (slabs || whole) && task_.batches == 1 && layout_.b_offsets[0] == 0;
  }
  // Slabs that are launched apart, but need not wait for each other: where one does not fill the device, and nothing is in the workspace.
  bool beside() const {
    return way_ != Way::row_dot && way_ != Way::axpy && consumption_ == plan::Consumption::by_output && small_slabs_ && !has_sums();
  }
  bool has_sums() const { return consumption_ == plan::Consumption::by_reduction || (way_ == Way::library && with_sums()); }

  // The calls of slabs that follow each other as one task over the slabs of the table.
  ProductTask joined(std::span<const KernelCall> calls, SlabTable* table) const {
    ProductTask task = task_of(calls[0]);
    table->rows = calls[0].inputs[1].shape[0];
    std::int64_t& length = way_ == Way::row_dot ? task.n : task.k;
    length = 0;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      table->slabs[i] = calls[i].inputs[1].data;
      length += calls[i].inputs[1].shape[0];
    }
    if (way_ == Way::axpy) task.last = calls.back().slab + 1 == calls.back().slab_count;
    return task;
  }

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

  bool serves_mma(const PrepareContext& context) const {
    const bool rows = layout_.b_row == 1 && layout_.b_col == layout_.k, columns = layout_.b_col == 1 && layout_.b_row == layout_.n;
    bool aligned =
        layout_.a_row % 8 == 0 && (rows ? layout_.k : layout_.n) % 8 == 0 && layout_.a_offsets[0] % 8 == 0 && layout_.b_offsets[0] % 8 == 0;
    std::int64_t begin = 0;
    for (const std::int64_t slab : context.slab_rows) {  // the part of A that meets the slab
      aligned = aligned && (consumption_ != plan::Consumption::by_reduction || begin % 8 == 0);
      begin += slab;
    }
    return (type_ == DType::f16 || type_ == DType::bf16) && task_.batches == 1 && layout_.a_col == 1 && (rows || columns) && aligned &&
           layout_.m <= 65535 * 128;
  }

  // A constant matrix of even strides: a shape for each size of slab, the largest first.
  void find_library_shapes(const PrepareContext& context) {
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
      if (std::find(library_shapes_.begin(), library_shapes_.end(), shape) == library_shapes_.end()) library_shapes_.push_back(shape);
    }
  }
  // Slabs that run beside each other fill the device together: what serves the whole matrix serves them, while for one slab alone the
  // library would take small tiles. Empty elsewhere.
  std::optional<LtShape> whole_shape() const {
    if (library_shapes_.empty() || consumption_ != plan::Consumption::by_output || !small_slabs_ || with_sums()) return std::nullopt;
    LtShape whole = library_shapes_.front();
    if (whole.n == layout_.n) return std::nullopt;
    whole.n = layout_.n;
    return whole;
  }
  std::vector<std::string> whole_configs(std::size_t most) const {
    const std::optional<LtShape> whole = whole_shape();
    return whole ? lt_configs(*whole, state_, most) : std::vector<std::string>();
  }
  // One product for each shape, by the algorithm named; the smaller slabs, where it does not serve them, by the heuristics' own. False, and
  // nothing has changed, when one is missing. On a device that has not started (a build that only writes down what it knows) nothing runs:
  // the library is taken at its word.
  bool use_library(std::string_view config) {
    if (!state_->started()) {
      if (!lt_may_serve(library_shapes_.front(), config)) return false;
      library_.clear();
      way_ = Way::library;
      return true;
    }
    const std::optional<LtShape> whole = whole_shape();
    std::vector<std::shared_ptr<const LtProduct>> products;
    for (const LtShape& shape : library_shapes_) {
      auto product = make_lt_product(shape, state_, config, whole ? &*whole : nullptr);
      if (product == nullptr && !products.empty()) product = make_lt_product(shape, state_);
      if (product == nullptr) return false;
      products.push_back(std::move(product));
    }
    library_ = std::move(products);
    way_ = Way::library;
    return true;
  }
  const LtProduct* find(const LtShape& shape) const {
    for (const auto& product : library_) {
      if (product->shape() == shape) return product.get();
    }
    return nullptr;
  }

  Status run_library(const KernelCall& call, const ProductTask& task) const {
    if (library_.empty()) return Status(Code::internal, "a product was prepared before the device started");
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
  const NamedActivation finish_;
  const StatePtr state_;
  ops::ProductLayout layout_;
  plan::Consumption consumption_ = plan::Consumption::whole;
  DType type_ = DType::none, y_type_ = DType::none;
  ProductTask task_;
  std::int64_t sums_columns_ = 0;
  Way way_ = Way::tiles;
  std::vector<LtShape> library_shapes_;
  std::vector<std::shared_ptr<const LtProduct>> library_;
  bool even_slabs_ = false, small_slabs_ = false, mma_serves_ = false, later_ = false;
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
  return std::make_unique<ProductKernel>(spec, NamedActivation(), state);
}

// activation(x * W' + bias), W as [N,K] unless transB is 0.
KernelPtr make_linear(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs, const StatePtr& state) {
  const auto activation = node_activation(node);
  if (!activation || !product_types(inputs, outputs)) return nullptr;
  ops::ProductSpec spec;
  spec.trans_b = node.integer("transB", 1) != 0;
  return std::make_unique<ProductKernel>(spec, *activation, state);
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
