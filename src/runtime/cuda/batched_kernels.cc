// Batched products of activations: MatMul and FusedMatMul, any batch dimensions. Batches that lie at even steps are one call; where
// broadcasting makes the steps uneven, there is a call for each run of even ones. Up to 8 rows have the bits of the CPU.
#include <algorithm>
#include <string>

#include "runtime/choosing_kernel.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/lt_product.h"
#include "runtime/ops/product_plain.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kFewRows = 8, kMostBatches = 65535;

class BatchedProduct final : public Kernel, public ChoosingKernel {
 public:
  BatchedProduct(const ops::ProductSpec& spec, StatePtr state) : spec_(spec), state_(std::move(state)) {}

  Status prepare(const PrepareContext& context) override {
    if (context.sliced_input != plan::kNone) return context.node.unsupported("operands in slabs");
    FB_ASSIGN(layout_, product_layout(context.node, context.inputs[0], context.inputs[1], nullptr, spec_));
    type_ = context.inputs[1].dtype;
    find_run();
    task_ = ProductTask();
    task_.a_type = task_.b_type = task_.y_type = type_;
    task_.m = layout_.m;
    task_.n = layout_.n;
    task_.k = layout_.k;
    task_.a_row = layout_.a_row;
    task_.a_col = layout_.a_col;
    task_.b_row = layout_.b_row;
    task_.b_col = layout_.b_col;
    task_.y_row = layout_.n;
    task_.batches = run_;
    task_.a_batch = step(layout_.a_offsets);
    task_.b_batch = step(layout_.b_offsets);
    task_.y_batch = layout_.m * layout_.n;
    task_.alpha = spec_.alpha;
    few_ = layout_.m <= kFewRows && layout_.a_col == 1;
    library_.reset();
    find_shape();
    if (shape_.m > 0) library_ = make_lt_product(shape_, state_);
    return {};
  }

  // Few rows have one way.
  std::string problem() const override {
    if (few_) return {};
    return "products " + std::to_string(run_) + " m=" + std::to_string(layout_.m) + " n=" + std::to_string(layout_.n) +
           " k=" + std::to_string(layout_.k) + " " + std::string(dtype_name(type_)) + (layout_.b_row == 1 ? " [n,k]" : " [k,n]");
  }
  std::vector<KernelWay> ways() const override {
    std::vector<KernelWay> all;
    if (few_) return all;
    if (shape_.m > 0) {
      for (std::string& config : lt_configs(shape_, state_, kMostAlgorithms / 2)) all.push_back({kLibrary, std::move(config)});
    }
    all.push_back({kTiles, ""});
    return all;
  }
  Status take(const KernelWay& way) override {
    if (way.kernel == kTiles && !few_) {
      library_.reset();
      return {};
    }
    auto product = way.kernel == kLibrary && shape_.m > 0 ? make_lt_product(shape_, state_, way.config) : nullptr;
    if (product == nullptr) return Status(Code::unsupported, "'" + way.kernel + " " + way.config + "' is not to be had here");
    library_ = std::move(product);
    return {};
  }
  void load() override {
    if (library_ != nullptr) library_->load();
  }
  std::string_view id() const override {
    if (few_) return spec_.trans_b ? kRowDot : kAxpy;
    return library_ != nullptr ? kLibrary : kTiles;
  }

  Status run(const KernelCall& call) override {
    const std::int64_t size = dtype_bits(type_) / 8;
    const auto all = static_cast<std::int64_t>(layout_.a_offsets.size());
    for (std::int64_t first = 0; first < all; first += run_) {
      ProductTask task = task_;
      task.a = call.inputs[0].data + layout_.a_offsets[static_cast<std::size_t>(first)] * size;
      task.b = call.inputs[1].data + layout_.b_offsets[static_cast<std::size_t>(first)] * size;
      task.y = call.outputs[0].data + first * task.y_batch * size;
      if (library_ != nullptr) {
        FB_TRY(library_->run(task.a, task.b, task.y, task.alpha, queue_stream()));
        continue;
      }
      const cudaError_t error = !few_           ? launch_tiles(task, queue_stream())
                                : spec_.trans_b ? launch_row_dot(task, queue_stream())
                                                : launch_axpy(task, queue_stream());
      if (error != cudaSuccess) return state_->errors.check(error, id());
    }
    return {};
  }

 private:
  static constexpr const char *kLibrary = "cuda.cublaslt.batched", *kTiles = "cuda.gemm_tiles.batched";
  static constexpr const char *kRowDot = "cuda.gemv256.batched", *kAxpy = "cuda.gemv_axpy.batched";

  std::int64_t step(std::span<const std::int64_t> offsets) const { return run_ > 1 ? offsets[1] - offsets[0] : 0; }

  // The longest run of batches, of all alike, that lie at one step.
  void find_run() {
    const std::size_t all = layout_.a_offsets.size();
    const auto even = [&](std::span<const std::int64_t> offsets, std::size_t run) {
      for (std::size_t i = 0; i < all; ++i) {
        const std::size_t first = i / run * run;
        if (offsets[i] - offsets[first] != static_cast<std::int64_t>(i - first) * (offsets[1] - offsets[0])) return false;
      }
      return true;
    };
    run_ = 1;
    for (std::size_t run = std::min<std::size_t>(all, kMostBatches); run > 1; --run) {
      if (all % run != 0 || !even(layout_.a_offsets, run) || !even(layout_.b_offsets, run)) continue;
      run_ = static_cast<std::int64_t>(run);
      return;
    }
  }

  // What the library is asked for; m is 0 where it does not serve these strides.
  void find_shape() {
    shape_ = LtShape();
    const bool rows = layout_.b_row == 1 && layout_.b_col == layout_.k, columns = layout_.b_col == 1 && layout_.b_row == layout_.n;
    const std::int64_t size = dtype_bits(type_) / 8;
    if (few_ || layout_.a_col != 1 || (!rows && !columns) || layout_.k == 0 || layout_.n == 0) return;
    for (const std::vector<std::int64_t>* offsets : {&layout_.a_offsets, &layout_.b_offsets})
      for (const std::int64_t offset : *offsets)
        if (offset * size % 16 != 0) return;
    shape_.m = layout_.m;
    shape_.n = layout_.n;
    shape_.k = layout_.k;
    shape_.b_rows = rows;
    shape_.a_row = layout_.a_row;
    shape_.d_row = layout_.n;
    shape_.type = shape_.d_type = type_;
    shape_.batches = run_;
    shape_.a_batch = task_.a_batch;
    shape_.b_batch = task_.b_batch;
    shape_.d_batch = task_.y_batch;
    // Of every output: its rows, its batches and its runs of them.
    while (shape_.d_alignment > size && (layout_.n * size % shape_.d_alignment != 0 || task_.y_batch * size % shape_.d_alignment != 0))
      shape_.d_alignment /= 2;
  }

  const ops::ProductSpec spec_;
  const StatePtr state_;
  ops::ProductLayout layout_;
  DType type_ = DType::none;
  std::int64_t run_ = 1;
  bool few_ = false;
  ProductTask task_;
  LtShape shape_;
  std::shared_ptr<const LtProduct> library_;
};

// One step from batch to batch: product_kernels.cc has few rows of these.
bool even(std::span<const std::int64_t> offsets) {
  for (std::size_t i = 1; i < offsets.size(); ++i)
    if (offsets[i] - offsets[i - 1] != offsets[1] - offsets[0]) return false;
  return true;
}

KernelPtr make_batched(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs, const StatePtr& state) {
  if (inputs.size() != 2 || !float_type(inputs[0].dtype) || inputs[1].dtype != inputs[0].dtype || outputs[0].dtype != inputs[0].dtype)
    return nullptr;
  if (!inputs[0].known() || !inputs[1].known() || inputs[1].dims.size() < 3) return nullptr;
  ops::ProductSpec spec;
  spec.trans_a = node.integer("transA", 0) != 0;
  spec.trans_b = node.integer("transB", 0) != 0;
  spec.alpha = node.real("alpha", 1.0f);
  const auto layout = product_layout(node, inputs[0], inputs[1], nullptr, spec);
  if (!layout.ok() || layout->a_offsets.size() < 2) return nullptr;
  const bool serves = layout->m > kFewRows || !even(layout->a_offsets) || !even(layout->b_offsets);
  return serves ? std::make_unique<BatchedProduct>(spec, state) : nullptr;
}

}  // namespace

std::span<const TableEntry> batched_table() {
  static constexpr TableEntry kTable[] = {{"", "MatMul", make_batched}, {"com.microsoft", "FusedMatMul", make_batched}};
  return kTable;
}

}  // namespace forebay::cuda
