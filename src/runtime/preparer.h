// How a PreparedPass is made: one walk over the steps, bodies included, with shapes, host values and lifetimes. Private to src/runtime.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/device.h"
#include "runtime/prepared_pass.h"

namespace forebay {

// A node's operands as far as they are settled.
struct Operands {
  std::vector<TypeShape> inputs, outputs;
  std::vector<const HostTensor*> values;
};
// Shape arithmetic works on small tensors; larger ones that happen to be known stay computed in the pass.
bool small_outputs(const Operands& o);
// What every input says that is there; fails where one has not been computed yet.
Status read_operands(const plan::Plan& plan, const plan::Node& node, const std::vector<ValuePlace>& places, Operands& o);
// Rank and bytes of an output; its dims are known.
Status check_output(const plan::Plan& plan, const plan::Node& node, const TypeShape& output);
// Runs a node whose outputs follow from shapes and constants, on the host.
Result<std::vector<HostTensor>> evaluate_operands(const plan::Plan& plan, const Step& step, const Operands& o, ThreadPool& pool);
// The kernel, prepared, without places: the device's own, or the CPU's where it has none (null: the CPU).
Result<PreparedStep> make_kernel_step(const CompiledPlan& compiled, const Step& step, const Operands& o, ThreadPool& pool, Device* device);
// Call structures, with room for addresses. The step stays where it is from now on.
void bind_step(const plan::Plan& plan, const std::vector<ValuePlace>& places, ThreadPool& pool, PreparedStep& step);
// The body that a control node names; kNone when it has none.
std::uint32_t body_of(const plan::Node& node, std::string_view attribute);

// A pass whose shapes depend on data, as far as it can be planned ahead.
Result<std::unique_ptr<PreparedPass>> prepare_dynamic(std::shared_ptr<const CompiledPlan> compiled,
                                                      const std::vector<std::pair<std::string, Shape>>& inputs, ThreadPool& pool,
                                                      Device* device, std::size_t states);

class Preparer {
 public:
  // `device` null: the CPU's kernels.
  Preparer(std::shared_ptr<const CompiledPlan> compiled, ThreadPool& pool, Device* device);
  Result<std::unique_ptr<PreparedPass>> run(const std::vector<std::pair<std::string, Shape>>& inputs, std::span<const StateBinding> states);

 private:
  using ValueId = plan::ValueId;
  struct Life {
    std::uint32_t first = UINT32_MAX, last = 0;  // steps, inclusive
    std::uint64_t bytes = 0;
  };

  void fixed_value(ValueId id);
  void set_host(ValueId id, HostTensor tensor);
  void set_stored(ValueId id, DType dtype, const Shape& shape);
  void touch(ValueId id);
  Status prepare_graph(std::uint32_t index, PreparedGraph& out);
  void load_weight(const Step& step, PreparedGraph& out);
  Status infer(const Step& step, Operands& o);
  Status prepare_node(const Step& step, PreparedGraph& out);
  Status evaluate(const Step& step, Operands& o);
  Status prepare_kernel(const Step& step, Operands& o, PreparedGraph& out);
  std::int64_t append_planes(const Step& step, const Operands& o) const;
  bool readers_take_planes(const PreparedStep& concat) const;
  bool spread(PreparedStep& concat);
  void place_states();
  void place_all();
  void pack_ends(std::uint64_t* used);
  void bind_graph(PreparedGraph& graph);
  // unsupported, noting that the pass has to settle its shapes as it goes.
  Status depends_on_data(const plan::Node& node, std::string message);

  // prepared_control.cc
  Status prepare_control(const Step& step, PreparedGraph& out);
  Status prepare_if(const plan::Node& node, PreparedStep& prepared);
  Status prepare_loop(const plan::Node& node, PreparedStep& prepared);
  Status prepare_scan(const plan::Node& node, PreparedStep& prepared);
  Status branch_outputs(const plan::Node& node, const PreparedStep& prepared);
  Status prepare_iterated(const plan::Node& node, PreparedStep& prepared);
  void outlive(std::uint32_t since);

  std::shared_ptr<const CompiledPlan> compiled_;
  const plan::Plan& plan_;
  ThreadPool& pool_;
  Device* const device_;
  std::unique_ptr<PreparedPass> pass_;
  std::span<const StateBinding> states_;
  std::vector<Life> lives_;
  std::vector<bool> upload_;
  std::vector<Life> workspaces_;
  std::vector<std::uint64_t> workspace_offsets_;
  std::uint32_t tick_ = 0;
  bool replays_ = false;  // the device shares launches of neighbours
  bool data_dependent_ = false;
};

}  // namespace forebay
