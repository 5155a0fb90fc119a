// How a PreparedPass is made: one walk over the steps, bodies included, with shapes, host values and lifetimes. Private to src/runtime.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/device.h"
#include "runtime/prepared_pass.h"

namespace forebay {

class Preparer {
 public:
  // `device` null: the CPU's kernels.
  Preparer(std::shared_ptr<const CompiledPlan> compiled, ThreadPool& pool, Device* device);
  Result<std::unique_ptr<PreparedPass>> run(const std::vector<std::pair<std::string, Shape>>& inputs);

 private:
  using ValueId = plan::ValueId;
  struct Life {
    std::uint32_t first = UINT32_MAX, last = 0;  // steps, inclusive
    std::uint64_t bytes = 0;
  };
  struct Operands {
    std::vector<TypeShape> inputs, outputs;
    std::vector<const HostTensor*> values;
  };

  void fixed_value(ValueId id);
  void set_host(ValueId id, HostTensor tensor);
  void set_stored(ValueId id, DType dtype, const Shape& shape);
  void touch(ValueId id);
  TypeShape type_of(ValueId id) const;
  Status prepare_graph(std::uint32_t index, PreparedGraph& out);
  void load_weight(const Step& step, PreparedGraph& out);
  Status infer(const Step& step, Operands& o);
  static bool small(const Operands& o);
  Status prepare_node(const Step& step, PreparedGraph& out);
  Status evaluate(const Step& step, Operands& o);
  Status prepare_kernel(const Step& step, Operands& o, PreparedGraph& out);
  Result<std::unique_ptr<Kernel>> make_kernel(const Step& step, const Operands& o, const PrepareContext& context);
  void place_all();
  void bind_graph(PreparedGraph& graph);
  const plan::Part& part_of(const Step& step, std::uint32_t call) const;
  void bind_call(PreparedStep& step, std::uint32_t call, std::size_t arity);

  // prepared_control.cc
  Status prepare_control(const Step& step, PreparedGraph& out);
  Status prepare_if(const plan::Node& node, PreparedStep& prepared);
  Status prepare_loop(const plan::Node& node, PreparedStep& prepared);
  Status prepare_scan(const plan::Node& node, PreparedStep& prepared);
  Status branch_outputs(const plan::Node& node, const PreparedStep& prepared);
  Status prepare_iterated(const plan::Node& node, PreparedStep& prepared);
  void outlive(std::uint32_t since);
  std::uint32_t body_of(const plan::Node& node, std::string_view attribute) const;

  std::shared_ptr<const CompiledPlan> compiled_;
  const plan::Plan& plan_;
  ThreadPool& pool_;
  Device* const device_;
  std::unique_ptr<PreparedPass> pass_;
  std::vector<Life> lives_;
  std::vector<bool> upload_;
  std::vector<Life> workspaces_;
  std::vector<std::uint64_t> workspace_offsets_;
  std::uint32_t tick_ = 0;
};

}  // namespace forebay
