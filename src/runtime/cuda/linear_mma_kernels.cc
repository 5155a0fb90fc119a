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
constexpr std::int64_t kHopperDepth = 64, kMultiprocessors = 132, kInFours = 100;

struct HopperWay {
  LinearTile tile;
  int splits;
  double step;  // cycles of a block for 64 of depth
  double join;  // and of its cluster's sums, or what its launch takes beyond others'
  const char* config;
};
constexpr HopperWay kHopperWays[] = {
    {LinearTile::t64x64, 1, 600, 0, "64x64"},
    {LinearTile::t64x64, 2, 600, 400, "64x64 splits=2"},
    {LinearTile::t64x64, 4, 600, 1100, "64x64 splits=4"},
    {LinearTile::t64x64, 8, 600, 1500, "64x64 splits=8"},
    {LinearTile::t128x128, 1, 840, 0, "128x128"},
    {LinearTile::t128x128, 2, 840, 1500, "128x128 splits=2"},
    {LinearTile::t128x128, 4, 840, 3000, "128x128 splits=4"},
    {LinearTile::t128x192, 1, 950, 0, "128x192"},
    {LinearTile::t128x192, 2, 950, 2000, "128x192 splits=2"},
    {LinearTile::t128x192, 4, 950, 5000, "128x192 splits=4"},
    {LinearTile::t192x192, 1, 1180, 0, "192x192"},
    {LinearTile::t128x256, 1, 1050, 0, "128x256"},
    {LinearTile::t128x256, 2, 1050, 4400, "128x256 splits=2"},
    {LinearTile::p96x64, 1, 500, -1000, "96x64 pair"},
    {LinearTile::p144x64, 1, 520, 0, "144x64 pair"},
    {LinearTile::p144x256, 1, 1200, 0, "144x256 pair"},
    {LinearTile::p192x128, 1, 800, 2600, "192x128 pair"},
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
    // The library is asked for what it serves only where that may be taken.
    const bool own_first = own_ && !library_first(true);
    if (own_first) choosing_->choose_later();
    FB_TRY(product_->prepare(context));
    way_ = Way::product;
    if (own_first || (own_ && !library_first(product_->id() == kLibrary))) take_own(hopper_ ? &best_guess() : nullptr);
    return {};
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
    take_own(way.kernel != kHopper ? nullptr : std::find_if(std::begin(kHopperWays), std::end(kHopperWays), [&](const HopperWay& one) {
      return way.config == one.config;
    }));
    return {};
  }

  void load() override {
    if (way_ == Way::product) choosing_->load();
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
      // `constant`: a block may fetch the W of any member before the launch ahead has ended.
      if (!same || task.turned != first.turned || task.splits != first.splits || task.constant != first.constant || task.columns == 0)
        break;
      if (group.count > 0 && !share(group, task)) break;
      group.tasks[group.count++] = task;
    }
    if (group.count < 2) return std::size_t{0};
    FB_TRY(check(launch_hopper(group)));
    return static_cast<std::size_t>(group.count);
  }

 private:
  enum class Way : std::uint8_t { mma, hopper, product };
  static constexpr std::string_view kMma = "cuda.linear_mma", kHopper = "cuda.linear_hopper", kLibrary = "cuda.cublaslt";

  // Null: mma.
  void take_own(const HopperWay* hopper) {
    way_ = hopper != nullptr ? Way::hopper : Way::mma;
    task_.splits = 1;
    task_.clusters = false;
    if (hopper != nullptr) {
      tile_ = hopper->tile;
      task_.splits = hopper->splits;
    } else if (!task_.turned) {  // turned: slabs are parts of the sums themselves
      // Of the whole node: a sum must not depend on what else a call holds.
      const std::int64_t blocks = tiles(task_.all_columns, large(task_.all_columns) ? 128 : 64);
      task_.splits = split_count(blocks, (task_.depth + kLinearDepth - 1) / kLinearDepth);
      task_.clusters = task_.splits > 1 && has_clusters(state_->capability);
    }
  }
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
    int columns[LinearGroup::kMost];
    for (int i = 0; i < group.count; ++i) columns[i] = group.tasks[i].columns;
    // tile_ is the best for all columns at once; slabs that stream come a few at a time.
    const bool whole = group.count == 1 && columns[0] == task_.all_columns;
    const LinearTile tile = whole ? tile_ : best_of({columns, static_cast<std::size_t>(group.count)}).tile;
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
    constexpr double kWrite = 1500, kFromCache = 6000, kTwo = 1.5;  // of 128 x 128; bytes a cycle; blocks that share a multiprocessor
    const LinearShape shape = linear_shape(way.tile);
    const std::int64_t deep = (task_.all_depth + kHopperDepth - 1) / kHopperDepth, steps = (deep + way.splits - 1) / way.splits;
    const int in_pair = shape.pair ? 2 : 1, wide = shape.columns * in_pair;  // each fetches its share of x for both
    std::int64_t across = 0;
    for (const int one : columns) across += std::int64_t{(one + wide - 1) / wide} * in_pair;
    const std::int64_t blocks = (task_.rows + shape.rows - 1) / shape.rows * across * way.splits, room = room_of(way);
    const std::int64_t turns = (blocks + room - 1) / room,
                       fetched = (shape.rows / in_pair + shape.columns) * 2 * kHopperDepth * std::min(blocks, room);
    const double step =
        std::max(way.step * (blocks > kMultiprocessors && shape.at_once > 1 ? kTwo : 1), static_cast<double>(fetched) / kFromCache);
    const double write = kWrite * shape.rows * shape.columns / 16384, launch = shape.bulk ? 4000 : 7000;
    return launch + static_cast<double>(turns) * (static_cast<double>(steps) * step + write) + way.join;
  }
  // Blocks that run at once: clusters of four large ones leave some of the device idle.
  static std::int64_t room_of(const HopperWay& way) {
    const int at_once = linear_shape(way.tile).at_once;
    return way.splits == 4 && at_once == 1 ? kInFours : kMultiprocessors * at_once;
  }
  // A device that is full without splits has no use for them, and none may be left without depth: what carries from call to call would
  // never have been written.
  bool splits_well(const HopperWay& way) const {
    const LinearShape shape = linear_shape(way.tile);
    const std::int64_t across = (task_.all_columns + shape.columns - 1) / shape.columns,
                       blocks = (task_.rows + shape.rows - 1) / shape.rows * across * way.splits;
    return way.splits == 1 || (blocks <= room_of(way) && task_.all_depth > kHopperDepth * way.splits);
  }
  // Products that share a launch fill the device otherwise than each alone: any tile of the same splits will do, the bits are the same.
  const HopperWay& best_of(std::span<const int> columns) const {
    const HopperWay* best = nullptr;
    for (const HopperWay& way : kHopperWays) {
      if (way.splits == task_.splits && (best == nullptr || guess(way, columns) < guess(*best, columns))) best = &way;
    }
    return *best;
  }
  double launch_cost(std::span<const int> columns) const { return guess(best_of(columns), columns); }
  // Whether the group as it is and one more take less together; each slab may need a map.
  bool share(const LinearGroup& group, const LinearTask& more) const {
    int columns[LinearGroup::kMost], slabs = 0;
    for (int i = 0; i <= group.count; ++i) {
      const LinearTask& task = i < group.count ? group.tasks[i] : more;
      columns[i] = task.columns;
      slabs += static_cast<int>(((task.turned ? task.depth : task.columns) + task.w.rows - 1) / task.w.rows);
    }
    const auto count = static_cast<std::size_t>(group.count);
    return slabs <= BulkGroup::kMaps &&
           launch_cost({columns, count + 1}) <= launch_cost({columns, count}) + launch_cost({columns + count, 1});
  }
  // A large weight's library, unless its launch for each slab would leave much of the device idle, as prompts of some hundred rows do, or
  // has all sums to carry.
  bool library_first(bool served) const {
    if (!served || std::int64_t{task_.all_columns} * task_.all_depth * 2 <= kMostWeightBytes) return false;
    if (!hopper_ || task_.turned) return !hopper_ || !several_slabs_;
    return tiles(several_slabs_ ? slab_rows_ : task_.all_columns, 128) >= kMultiprocessors;
  }
  const HopperWay& best_guess() const {
    const auto cost = [&](const HopperWay& way) { return splits_well(way) ? guess(way, {&task_.all_columns, 1}) : 1e18; };
    return *std::min_element(std::begin(kHopperWays), std::end(kHopperWays),
                             [&](const HopperWay& a, const HopperWay& b) { return cost(a) < cost(b); });
  }
  // The best guess first.
  std::vector<KernelWay> own_ways() const {
    std::vector<KernelWay> all;
    if (!own_) return all;
    const HopperWay* const best = &best_guess();
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
