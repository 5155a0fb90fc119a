// forebay.Linear, and MatMul and Gemm that are one, of more than a few rows. Own kernels have one launch for the slabs that wait for
// nothing, where the library would be called for each, and finish what they sum; the library's products, those of product_kernels.cc, are
// ways beside them.
#include <algorithm>

#include "runtime/choosing_kernel.h"
#include "runtime/cuda/activation_names.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/linear_bulk.h"
#include "runtime/cuda/split_sums.h"
#include "runtime/merged_kernel.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kFewRows = 8;                // the matrix-vector kernels'
constexpr std::int64_t kMostWeightBytes = 6 << 20;  // slabs of larger ones fill the library's kernels: its way comes first there
constexpr std::int64_t kMostRows = 1 << 22;
constexpr std::int64_t kHopperDepth = 64, kMultiprocessors = 132;

struct HopperWay {
  LinearTile tile;
  int splits;
  int step;  // cycles of a block for 64 of depth
  const char* config;
};
constexpr HopperWay kHopperWays[] = {
    {LinearTile::t64x64, 1, 450, "64x64"},
    {LinearTile::t64x64, 2, 450, "64x64 splits=2"},
    {LinearTile::t64x64, 4, 450, "64x64 splits=4"},
    {LinearTile::t64x64, 8, 450, "64x64 splits=8"},
    {LinearTile::t128x128, 1, 640, "128x128"},
    {LinearTile::t128x128, 2, 640, "128x128 splits=2"},
    {LinearTile::t128x192, 1, 785, "128x192"},
    {LinearTile::t128x192, 2, 785, "128x192 splits=2"},
    {LinearTile::t192x192, 1, 1180, "192x192"},
    {LinearTile::t128x256, 1, 1040, "128x256"},
    {LinearTile::t128x256, 2, 1040, "128x256 splits=2"},
};

// W as [depth, columns].
bool turned(const NodeView& node) {
  return node.integer("transB", node.op() == "Linear" ? 1 : 0) == 0;
}

class LinearKernel final : public MergedKernel, public GroupedKernel, public ChoosingKernel {
 public:
  LinearKernel(const NamedActivation& activation, StatePtr state, KernelPtr product)
      : state_(std::move(state)), product_(std::move(product)) {
    task_.activation = activation.activation;
    task_.alpha = activation.alpha;
    task_.beta = activation.beta;
    choosing_ = dynamic_cast<ChoosingKernel*>(product_.get());
    merged_ = dynamic_cast<MergedKernel*>(product_.get());
  }

  Status prepare(const PrepareContext& context) override {
    if (context.sliced_input != plan::kNone && context.sliced_input != 1)
      return context.node.unsupported("only the second operand may come in slabs");
    sliced_ = task_.constant = context.sliced_input != plan::kNone;
    even_slabs_ = true;
    const std::span<const std::int64_t> slabs = context.slab_rows;
    for (std::size_t i = 0; i < slabs.size(); ++i)
      even_slabs_ = even_slabs_ && (slabs[i] == slabs[0] || (i + 1 == slabs.size() && slabs[i] < slabs[0]));
    const std::vector<std::int64_t>& w = context.inputs[1].dims;
    task_.type = context.inputs[1].dtype;
    task_.turned = turned(context.node);
    bool blocks = true;
    for (std::size_t i = 0; i + 1 < slabs.size(); ++i) blocks = blocks && slabs[i] % 16 == 0;
    own_ = blocks || !task_.turned;  // turned: slabs end between products
    task_.depth = task_.all_depth = static_cast<int>(w[task_.turned ? 0 : 1]);
    task_.all_columns = static_cast<int>(w[task_.turned ? 1 : 0]);
    task_.x_row = task_.depth;
    task_.rows = static_cast<int>(context.inputs[0].shape().elements() / task_.depth);
    several_slabs_ = sliced_ && slabs.size() > 1;
    slab_rows_ = several_slabs_ ? slabs[0] : 0;
    biased_ = context.inputs.size() > 2 && context.inputs[2].present();
    hopper_ = blocks && has_linear_hopper(state_->capability);
    FB_TRY(product_->prepare(context));
    way_ = Way::product;
    const std::vector<KernelWay> own = own_ways();
    return own.empty() || library_first(product_->id() == kLibrary) ? Status() : take(own.front());
  }

  std::string problem() const override {
    return "linear m=" + std::to_string(task_.rows) + " n=" + std::to_string(task_.all_columns) + " k=" + std::to_string(task_.all_depth) +
           (several_slabs_ ? " slab=" + std::to_string(slab_rows_) : "") + " " + std::string(dtype_name(task_.type)) +
           (task_.turned ? " [k,n]" : " [n,k]") + (biased_ ? " +bias" : "") + (task_.activation != Activation::none ? " +activation" : "");
  }
  std::vector<KernelWay> ways() const override {
    std::vector<KernelWay> own = own_ways(), all = choosing_->ways();
    all.insert(library_first(!all.empty() && all.front().kernel == kLibrary) ? all.begin() + 1 : all.begin(), own.begin(), own.end());
    return all;
  }
  Status take(const KernelWay& way) override {
    const std::vector<KernelWay> own = own_ways();
    if (std::find(own.begin(), own.end(), way) == own.end()) {
      FB_TRY(choosing_->take(way));
      way_ = Way::product;
      return {};
    }
    way_ = way.kernel == kHopper ? Way::hopper : Way::mma;
    task_.splits = 1;
    task_.clusters = false;
    if (way_ == Way::hopper) {
      const auto* const found =
          std::find_if(std::begin(kHopperWays), std::end(kHopperWays), [&](const HopperWay& one) { return way.config == one.config; });
      tile_ = found->tile;
      task_.splits = found->splits;
    } else if (!task_.turned) {  // turned: slabs are parts of the sums themselves
      // Of the whole node: a sum must not depend on what else a call holds.
      const std::int64_t blocks = tiles(task_.all_columns, large(task_.all_columns) ? 128 : 64);
      task_.splits = split_count(blocks, (task_.depth + kLinearDepth - 1) / kLinearDepth);
      task_.clusters = task_.splits > 1 && has_clusters(state_->capability);
    }
    return {};
  }

  std::uint64_t workspace_bytes() const override {
    if (way_ == Way::product) return product_->workspace_bytes();
    const bool joins = way_ == Way::mma && task_.splits > 1 && !task_.clusters;
    if (!joins && !(task_.turned && several_slabs_)) return 0;
    const std::int64_t sums = std::int64_t{task_.splits} * task_.rows * task_.all_columns;
    return static_cast<std::uint64_t>(sums) * sizeof(float);
  }
  std::string_view id() const override { return way_ == Way::product ? product_->id() : way_ == Way::hopper ? kHopper : kMma; }
  bool merges() const override { return way_ == Way::product ? merged_ != nullptr && merged_->merges() : sliced_ && even_slabs_; }
  Status run(const KernelCall& call) override { return way_ == Way::product ? product_->run(call) : run_merged({&call, 1}); }
  Status run_merged(std::span<const KernelCall> calls) override {
    if (way_ == Way::product) return merged_->run_merged(calls);
    if (way_ == Way::mma) {
      const LinearTask task = task_of(calls);
      return check(launch_linear_mma(task, large(task.columns), queue_stream()));
    }
    LinearGroup group;
    group.tasks[group.count++] = task_of(calls);
    return check(launch_hopper(group));
  }

  // Sums that carry from call to call alone.
  bool uses_workspace(std::span<const KernelCall> calls) const override {
    if (way_ != Way::hopper) return calls[0].workspace != nullptr;
    return task_.turned && (calls.front().slab > 0 || calls.back().slab + 1 < calls.back().slab_count);
  }
  // As queries, keys and values: several weights, the same x.
  Result<std::size_t> run_group(std::span<const Member> members) override {
    LinearGroup group;
    for (const Member& member : members.first(std::min<std::size_t>(members.size(), LinearGroup::kMost))) {
      const auto* const kernel = dynamic_cast<const LinearKernel*>(member.kernel);
      if (kernel == nullptr || kernel->way_ != Way::hopper) break;
      const LinearTask task = kernel->task_of(member.calls), &first = group.count > 0 ? group.tasks[0] : task;
      const bool same = task.x == first.x && task.rows == first.rows && task.depth == first.depth && task.type == first.type;
      if (!same || task.turned != first.turned || task.splits != first.splits || task.columns == 0) break;
      group.tasks[group.count++] = task;
    }
    if (group.count < 2) return std::size_t{0};
    FB_TRY(check(launch_hopper(group)));
    return static_cast<std::size_t>(group.count);
  }

 private:
  enum class Way : std::uint8_t { mma, hopper, product };
  static constexpr std::string_view kMma = "cuda.linear_mma", kHopper = "cuda.linear_hopper", kLibrary = "cuda.cublaslt";

  // The calls of slabs that follow each other.
  LinearTask task_of(std::span<const KernelCall> calls) const {
    const KernelCall& call = calls[0];
    LinearTask task = task_;
    task.x = call.inputs[0].data;
    task.bias = call.inputs.size() > 2 && call.inputs[2].present() ? call.inputs[2].data : nullptr;
    task.y = call.outputs[0].data;
    task.sums = reinterpret_cast<float*>(call.workspace);
    task.first = static_cast<int>(sliced_ && !task.turned ? call.row_begin : 0);
    if (task.turned) {
      task.columns = task.all_columns;
      task.depth = 0;
      task.begin = static_cast<int>(sliced_ ? call.row_begin : 0);
      task.x = call.inputs[0].data + std::int64_t{task.begin} * 2;
      task.first_part = call.slab == 0;
      task.last_part = calls.back().slab + 1 == calls.back().slab_count;
    }
    task.w.rows = call.inputs[1].shape[0];
    for (std::size_t i = 0; i < calls.size(); ++i) {
      task.w.slabs[i] = calls[i].inputs[1].data;
      (task.turned ? task.depth : task.columns) += static_cast<int>(calls[i].inputs[1].shape[0]);
    }
    return task;
  }
  cudaError_t launch_hopper(LinearGroup& group) const {
    BulkGroup bulk;
    const LinearTile tile = tile_of(group);
    if (map_linear(group, tile, &bulk)) return launch_linear_bulk(bulk, task_.type, task_.turned, tile, queue_stream());
    return launch_linear_hopper(group, tile, queue_stream());
  }
  Status check(cudaError_t error) const { return error == cudaSuccess ? Status() : state_->errors.check(error, id()); }

  std::int64_t tiles(std::int64_t columns, std::int64_t size) const {
    return (task_.rows + size - 1) / size * ((columns + size - 1) / size);
  }
  bool large(std::int64_t columns) const { return task_.splits == 1 && tiles(columns, 128) >= kFullBlocks; }

  // Cycles, roughly: turns of the device, what is written after each, and the join of splits. columns: of each product of the launch.
  double guess(const HopperWay& way, std::span<const int> columns) const {
    constexpr std::int64_t kWrite = 1500;
    const LinearShape shape = linear_shape(way.tile);
    const std::int64_t deep = (task_.all_depth + kHopperDepth - 1) / kHopperDepth, steps = (deep + way.splits - 1) / way.splits;
    std::int64_t across = 0;
    for (const int one : columns) across += (one + shape.columns - 1) / shape.columns;
    const std::int64_t blocks = (task_.rows + shape.rows - 1) / shape.rows * across * way.splits, room = kMultiprocessors * shape.at_once;
    // The device is full without, or a split would have nothing: what carries from call to call would never have been written.
    if (way.splits > 1 && (blocks > room || deep < way.splits)) return 1e18;
    const std::int64_t turns = (blocks + room - 1) / room, at_once = blocks > kMultiprocessors ? shape.at_once : 1,
                       join = shape.bulk ? 8000 : 2000;
    return static_cast<double>(turns * (steps * at_once * way.step + kWrite) + (way.splits > 1 ? join : 0));
  }
  // Products that share a launch fill the device otherwise than each alone: any tile of the same splits will do, the bits are the same.
  LinearTile tile_of(const LinearGroup& group) const {
    if (group.count == 1) return tile_;
    int columns[LinearGroup::kMost];
    for (int i = 0; i < group.count; ++i) columns[i] = group.tasks[i].columns;
    const HopperWay* best = nullptr;
    const auto cost = [&](const HopperWay& way) { return guess(way, {columns, static_cast<std::size_t>(group.count)}); };
    for (const HopperWay& way : kHopperWays)
      if (way.splits == task_.splits && (best == nullptr || cost(way) < cost(*best))) best = &way;
    return best->tile;
  }
  bool library_first(bool served) const { return served && std::int64_t{task_.all_columns} * task_.all_depth * 2 > kMostWeightBytes; }
  // The best guess first.
  std::vector<KernelWay> own_ways() const {
    std::vector<KernelWay> all;
    if (!own_) return all;
    const auto by_guess = [&](const HopperWay& a, const HopperWay& b) {
      return guess(a, {&task_.all_columns, 1}) < guess(b, {&task_.all_columns, 1});
    };
    const HopperWay* const best = std::min_element(std::begin(kHopperWays), std::end(kHopperWays), by_guess);
    if (hopper_) all.push_back({std::string(kHopper), best->config});
    for (const HopperWay& way : kHopperWays) {
      if (hopper_ && &way != best && task_.all_depth > kHopperDepth * way.splits) all.push_back({std::string(kHopper), way.config});
    }
    all.push_back({std::string(kMma), ""});
    return all;
  }

  const StatePtr state_;
  const KernelPtr product_;
  ChoosingKernel* choosing_ = nullptr;  // product_
  MergedKernel* merged_ = nullptr;      // product_, or null
  LinearTask task_;
  LinearTile tile_ = LinearTile::t64x64;
  Way way_ = Way::mma;
  std::int64_t slab_rows_ = 0;
  bool own_ = false, sliced_ = false, several_slabs_ = false, biased_ = false, even_slabs_ = false, hopper_ = false;
};
static_assert(SlabTable::kMost >= kMostMerged);

bool fits(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  const TypeShape &x = inputs[0], &w = inputs[1];
  if (node.integer("transA", 0) != 0 || node.real("alpha", 1.0f) != 1.0f || node.real("beta", 1.0f) != 1.0f) return false;
  const std::size_t inner = turned(node) ? 0 : 1;
  if ((w.dtype != DType::f16 && w.dtype != DType::bf16) || x.dtype != w.dtype) return false;
  if (outputs[0].dtype != w.dtype || !x.known() || !w.known() || w.dims.size() != 2) return false;
  const std::int64_t depth = w.dims[inner], columns = w.dims[1 - inner];
  if (depth <= 0 || depth % 8 != 0 || (inner == 0 && columns % 8 != 0)) return false;
  const std::int64_t rows = x.shape().elements() / depth;
  if (rows <= kFewRows || rows > kMostRows || columns > kMostRows || depth > kMostRows) return false;
  const bool biased = inputs.size() > 2 && inputs[2].present();
  return !biased || (inputs[2].dtype == w.dtype && inputs[2].dims == std::vector<std::int64_t>{columns});
}

KernelPtr make_linear_mma(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs,
                          const StatePtr& state) {
  const auto activation = node_activation(node);
  if (!activation || !fits(node, inputs, outputs)) return nullptr;
  for (const TableEntry& entry : product_table()) {
    if (entry.op != node.op() || entry.domain != node.domain()) continue;
    if (KernelPtr product = entry.make(node, inputs, outputs, state); product != nullptr)
      return std::make_unique<LinearKernel>(*activation, state, std::move(product));
  }
  return nullptr;
}

}  // namespace

std::span<const TableEntry> linear_table() {
  static constexpr TableEntry kTable[] = {
      {"forebay", "Linear", make_linear_mma}, {"", "MatMul", make_linear_mma}, {"", "Gemm", make_linear_mma}};
  return kTable;
}

}  // namespace forebay::cuda
