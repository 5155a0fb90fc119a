// Control flow of a pass: If, Loop and Scan.
#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/pass_runner.h"

namespace forebay {
namespace {

using plan::kNone;
using plan::ValueId;

std::uint64_t bytes_of(const ValuePlace& place) { return dtype_bytes(place.dtype, place.shape.elements()).value_or(0); }
constexpr std::byte kTrue{1}, kFalse{0};

}  // namespace

Status PassRunner::read_back(ValueId value, void* to, std::uint64_t bytes) {
  const ValuePlace& place = pass_.places[value];
  if (place.host != nullptr) {
    std::copy_n(place.host->data(), bytes, static_cast<std::byte*>(to));
    return {};
  }
  queue_.copy(static_cast<std::byte*>(to), address(value), bytes);
  ++host_waits_;
  return queue_.synchronize();
}

Status PassRunner::run_if(PreparedStep& step) {
  int branch = step.known_branch;
  if (branch < 0) {
    std::byte condition{};
    FB_TRY(read_back(step.input_values[0], &condition, 1));
    branch = condition != kFalse ? 0 : 1;
  }
  const auto index = static_cast<std::size_t>(branch);
  if (!step.bodies[index]) return step.branch_errors[index];
  PreparedGraph& body = *step.bodies[index];
  FB_TRY(run_graph(body));
  segment_ = kNone;
  for (std::size_t o = 0; o < step.output_values.size(); ++o) {
    const ValueId to = step.output_values[o];
    if (to == kNone) continue;
    const std::uint64_t bytes = bytes_of(pass_.places[body.outputs[o]]);
    if (bytes > 0) queue_.copy(address(to), address(body.outputs[o]), bytes);
    debug(to);
  }
  return {};
}

// Sets the body's inputs: iteration number and condition (Loop) or slices (Scan). Carried values are there already.
void PassRunner::feed_iteration(PreparedStep& step, std::int64_t iteration, bool condition) {
  const plan::Graph& graph = engine_.plan().graphs[step.step->bodies[0]];
  if (step.step->node->op == "Loop") {
    numbers_.push_back(iteration);
    queue_.copy(address(graph.inputs[0]), reinterpret_cast<const std::byte*>(&numbers_.back()), 8);
    queue_.copy(address(graph.inputs[1]), condition ? &kTrue : &kFalse, 1);
    return;
  }
  for (std::size_t i = step.carried; i < graph.inputs.size(); ++i) {
    const std::uint64_t bytes = bytes_of(pass_.places[graph.inputs[i]]);
    const std::int64_t at = step.reversed_inputs[i - step.carried] ? step.trips - 1 - iteration : iteration;
    if (bytes > 0) queue_.copy(address(graph.inputs[i]), address(step.input_values[i]) + static_cast<std::uint64_t>(at) * bytes, bytes);
  }
}

void PassRunner::collect_iteration(PreparedStep& step, std::int64_t iteration) {
  const bool loop = step.step->node->op == "Loop";
  const plan::Graph& graph = engine_.plan().graphs[step.step->bodies[0]];
  const std::size_t first_in = loop ? 2 : 0, first_out = loop ? 1 : 0;
  for (std::size_t o = step.carried; o < step.output_values.size(); ++o) {
    const ValueId to = step.output_values[o], from = graph.outputs[first_out + o];
    const std::uint64_t bytes = bytes_of(pass_.places[from]);
    const bool reversed = !loop && step.reversed_outputs[o - step.carried];
    const std::int64_t at = reversed ? step.trips - 1 - iteration : iteration;
    if (to != kNone && bytes > 0) queue_.copy(address(to) + static_cast<std::uint64_t>(at) * bytes, address(from), bytes);
  }
  // Two rounds, since an output may be another carried input as it was.
  for (int round = 0; round < 2; ++round) {
    std::byte* staging = activations_ + step.workspace_offset;
    for (std::size_t c = 0; c < step.carried; ++c) {
      const std::uint64_t bytes = bytes_of(pass_.places[graph.inputs[first_in + c]]);
      if (bytes > 0 && round == 0) queue_.copy(staging, address(graph.outputs[first_out + c]), bytes);
      if (bytes > 0 && round == 1) queue_.copy(address(graph.inputs[first_in + c]), staging, bytes);
      staging += align_up(std::max<std::uint64_t>(1, bytes), 64);
    }
  }
}

Status PassRunner::run_iterated(PreparedStep& step) {
  const bool loop = step.step->node->op == "Loop";
  const plan::Graph& graph = engine_.plan().graphs[step.step->bodies[0]];
  const std::size_t first_in = loop ? 2 : 0;
  std::int64_t trips = step.trips;
  bool condition = true;
  if (loop && trips < 0 && step.input_values[0] != kNone) {
    FB_TRY(read_back(step.input_values[0], &trips, 8));
    trips = std::max<std::int64_t>(0, trips);  // below 0 here would mean no limit
  }
  if (loop && step.input_values[1] != kNone && step.trips != 0) FB_TRY(read_back(step.input_values[1], &condition, 1));
  for (std::size_t c = 0; c < step.carried; ++c) {
    const std::uint64_t bytes = bytes_of(pass_.places[graph.inputs[first_in + c]]);
    if (bytes > 0) queue_.copy(address(graph.inputs[first_in + c]), address(step.input_values[first_in + c]), bytes);
  }
  // Neither a limit nor a condition: the loop would never end.
  if (loop && step.input_values[0] == kNone && step.input_values[1] == kNone && pass_.places[graph.outputs[0]].host != nullptr) {
    return Status(Code::invalid_model, "node '" + step.name + "' (Loop) has neither a trip count nor a condition that can end it");
  }
  const std::int64_t outer = iteration_;
  for (std::int64_t i = 0; condition && (trips < 0 || i < trips); ++i) {
    // The calls of an iteration are the same structures again: the last one must have run.
    if (i > 0) FB_TRY(queue_.synchronize());
    iteration_ = i;
    feed_iteration(step, i, condition);
    FB_TRY(run_graph(*step.bodies[0]));
    collect_iteration(step, i);
    if (loop && !(pass_.places[graph.outputs[0]].root == graph.inputs[1])) FB_TRY(read_back(graph.outputs[0], &condition, 1));
  }
  iteration_ = outer;
  segment_ = kNone;
  for (std::size_t c = 0; c < step.carried; ++c) {
    const ValueId to = step.output_values[c];
    const std::uint64_t bytes = bytes_of(pass_.places[graph.inputs[first_in + c]]);
    if (to != kNone && bytes > 0) queue_.copy(address(to), address(graph.inputs[first_in + c]), bytes);
  }
  for (const ValueId to : step.output_values) debug(to);
  return {};
}

}  // namespace forebay
