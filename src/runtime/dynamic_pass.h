// A pass whose shapes depend on data. Its steps are settled when they are reached: what a shape needs is read back first (a host wait,
// counted), then shape, kernel and places follow as in a prepared pass. The order of steps, and so the pass program, does not depend on
// shapes.
//
// Memory: the activation part is reserved before the pass for upper bounds of all shapes (estimate() walks the plan without data). A pass
// that needs more stops with nothing written; the context reserves more (or is refused, with the bytes) and runs it again: see outgrown().
// A step whose operands are as in the last pass is taken as it was prepared then; only what is read back is allocated anew.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/activation_heap.h"
#include "runtime/preparer.h"

namespace forebay {

class PassRunner;

class DynamicPass {
 public:
  // `pass` owns this and holds the places.
  DynamicPass(std::shared_ptr<const CompiledPlan> compiled, PreparedPass& pass, ThreadPool& pool, Device* device);
  // Bytes to reserve: exact bounds where they follow from shapes or were declared. What depends on data alone counts up to there only.
  std::uint64_t estimate();
  // Places of the inputs, before they are uploaded.
  Status begin(std::uint64_t capacity);
  // All steps; outputs have their places and shapes afterwards.
  Status run(PassRunner& runner);
  // The estimate bounds every pass of these input shapes.
  bool bounded() const { return bounded_; }
  // The user declared some of the bounds: a budget that does not hold the estimate is refused.
  bool declared() const { return declared_; }
  // The last run stopped because it needs this many bytes; 0: it did not.
  std::uint64_t outgrown() const { return outgrown_; }
  void each_step(const std::function<void(PreparedStep&)>& visit);

 private:
  using ValueId = plan::ValueId;
  using Tensor = std::shared_ptr<const HostTensor>;
  // What a value is: taken from one name to another when bodies hand over values.
  struct Held {
    DType dtype = DType::none;
    Shape shape;
    Tensor host;
    std::uint32_t block = ActivationHeap::kNoBlock;  // held once by this
  };
  struct Seen {
    DType dtype = DType::none;
    Shape shape;
    Tensor host;
  };
  struct DynamicStep {
    bool settled = false;
    std::vector<Seen> seen;  // the operands it was settled for
    std::vector<TypeShape> outputs;
    std::vector<Tensor> results;  // outputs that follow from what is known on the host
    PreparedStep prepared;        // else, unless a view
  };

  // dynamic_pass.cc
  void reset();
  Status run_graph(std::uint32_t index);
  Status run_step(const Step& step, DynamicStep& dynamic);
  Status run_node(const Step& step, DynamicStep& dynamic);
  Status run_unsettled(const Step& step, const Status& why);
  Status run_load(const Step& step, DynamicStep& dynamic);
  bool as_before(const plan::Node& node, const DynamicStep& dynamic) const;
  Status settle(const Step& step, DynamicStep& dynamic);
  Status launch(const Step& step, DynamicStep& dynamic);
  Status within_bounds(ValueId value, const Shape& shape) const;

  // dynamic_values.cc
  void drop(ValueId value);
  void set(ValueId value, Held held);
  void set_host(ValueId value, Tensor tensor);
  Status store(ValueId value, DType dtype, const Shape& shape);  // a place of its own
  Status ensure_stored(ValueId value);                           // what is known on the host gets a place too
  Result<Held> hold(ValueId value);
  void let_go(Held& held);
  Result<std::uint32_t> take(std::uint64_t bytes);
  Status fetch(ValueId value);  // its contents on the host
  void plan_releases();
  void collect_reads(std::uint32_t graph, std::vector<ValueId>& reads) const;

  // dynamic_control.cc
  Status run_if(const plan::Node& node);
  Status run_loop(const plan::Node& node);
  Status run_scan(const plan::Node& node);
  struct Iterations {  // of a Loop
    const plan::Node* node = nullptr;
    std::uint32_t body = plan::kNone;
    std::int64_t trips = -1, done = 0;
    bool condition = true;
    std::vector<Held> state;
    std::vector<std::vector<Held>> slices;
  };
  Status loop_limits(Iterations& loop);
  Status loop_iteration(Iterations& loop);
  Status look_ahead(Iterations& loop);
  Status give_output(ValueId to, Held& held);
  Status count_slices(const Shape& all, const std::vector<Held>& slices);
  Result<std::vector<Held>> run_body(std::uint32_t graph);
  Status collect(ValueId to, const plan::Value& declared, std::vector<Held>& slices, std::int64_t count, bool reversed);
  Status copy_to(std::uint32_t block, std::uint64_t at, const Held& from);
  Status next_iteration(std::int64_t iteration);

  bool dry() const { return runner_ == nullptr; }

  std::shared_ptr<const CompiledPlan> compiled_;
  const plan::Plan& plan_;
  PreparedPass& pass_;
  ThreadPool& pool_;
  Device* const device_;
  PassRunner* runner_ = nullptr;                             // null: a walk without data
  std::vector<Tensor> hosts_;                                // by value; places[value].host is the same
  std::vector<std::uint32_t> blocks_;                        // by value
  std::vector<std::vector<DynamicStep>> steps_;              // by graph
  std::vector<std::vector<std::vector<ValueId>>> releases_;  // by graph and step: values not read after it
  std::vector<std::vector<ValueId>> owned_;                  // by graph: values that it defines, inputs included
  std::vector<std::vector<std::int64_t>> bounds_;            // declared, by value
  std::vector<Tensor> uploading_;                            // held until the queue has copied them
  ActivationHeap heap_;
  std::uint64_t capacity_ = 0, outgrown_ = 0;
  bool bounded_ = false, declared_ = false;
};

}  // namespace forebay
