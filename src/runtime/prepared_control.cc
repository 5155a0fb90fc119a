// If, Loop and Scan: bodies are prepared once, for shapes that must not change from iteration to iteration.
#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/preparer.h"

namespace forebay {

using plan::kNone;

Status Preparer::prepare_control(const Step& step, PreparedGraph& out) {
  const plan::Node& node = *step.node;
  PreparedStep prepared;
  prepared.step = &step;
  prepared.name = node.name;
  prepared.input_values = node.inputs;
  prepared.output_values = node.outputs;
  if (node.op == "If") {
    FB_TRY(prepare_if(node, prepared));
  } else if (node.op == "Loop") {
    FB_TRY(prepare_loop(node, prepared));
  } else if (node.op == "Scan") {
    FB_TRY(prepare_scan(node, prepared));
  } else {
    return NodeView(node, plan_).unsupported("no executor for this control operator");
  }
  out.steps.push_back(std::move(prepared));
  return {};
}

std::uint32_t body_of(const plan::Node& node, std::string_view attribute) {
  for (const plan::Attribute& a : node.attributes) {
    if (a.name != attribute) continue;
    if (const auto* body = std::get_if<plan::BodyRef>(&a.value)) return body->graph;
  }
  return kNone;
}

Status Preparer::prepare_if(const plan::Node& node, PreparedStep& prepared) {
  const std::uint32_t bodies[2] = {body_of(node, "then_branch"), body_of(node, "else_branch")};
  if (bodies[0] == kNone || bodies[1] == kNone) return NodeView(node, plan_).invalid("a branch is missing");
  prepared.bodies.resize(2);
  prepared.branch_errors.resize(2);
  touch(node.inputs[0]);
  const HostTensor* condition = pass_->places[node.inputs[0]].host;
  if (condition != nullptr && condition->bytes() > 0) prepared.known_branch = condition->data()[0] == std::byte{0} ? 1 : 0;
  for (std::size_t b = 0; b < 2; ++b) {
    if (prepared.known_branch >= 0 && prepared.known_branch != static_cast<int>(b)) continue;
    auto body = std::make_unique<PreparedGraph>();
    prepared.branch_errors[b] = prepare_graph(bodies[b], *body);
    if (prepared.branch_errors[b].ok()) {
      for (const ValueId id : body->outputs) touch(id);
      prepared.bodies[b] = std::move(body);
    }
    ++tick_;
  }
  if (!prepared.bodies[0] && !prepared.bodies[1]) {
    return prepared.branch_errors[prepared.known_branch >= 0 ? static_cast<std::size_t>(prepared.known_branch) : 0];
  }
  return branch_outputs(node, prepared);
}

// Outputs take the shape of the branches that can run; they must agree.
Status Preparer::branch_outputs(const plan::Node& node, const PreparedStep& prepared) {
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNone) continue;
    const ValuePlace* place = nullptr;
    for (const auto& body : prepared.bodies) {
      if (!body) continue;
      const ValuePlace& inner = pass_->places[body->outputs[i]];
      if (place != nullptr && (place->dtype != inner.dtype || !(place->shape == inner.shape))) {
        return depends_on_data(node, "the branches give output " + std::to_string(i) + " different shapes: " + place->shape.to_string() + " and " +
                                                 inner.shape.to_string());
      }
      place = &inner;
    }
    const DType dtype = place->dtype;
    const Shape shape = place->shape;
    set_stored(node.outputs[i], dtype, shape);
  }
  // The branch's outputs are copied over: they live at the same time as all outputs of the node.
  for (const auto& body : prepared.bodies) {
    if (!body) continue;
    for (const ValueId id : body->outputs) touch(id);
  }
  return {};
}

Status Preparer::prepare_loop(const plan::Node& node, PreparedStep& prepared) {
  const std::uint32_t body = body_of(node, "body");
  if (body == kNone || node.inputs.size() < 2) return NodeView(node, plan_).invalid("the body is missing");
  const std::uint32_t since = ++tick_;
  const plan::Graph& graph = plan_.graphs[body];
  prepared.carried = static_cast<std::uint32_t>(node.inputs.size() - 2);
  if (graph.inputs.size() != node.inputs.size() || graph.outputs.size() < 1 + prepared.carried || node.outputs.size() + 1 != graph.outputs.size()) {
    return NodeView(node, plan_).invalid("the body has " + std::to_string(graph.inputs.size()) + " inputs and " + std::to_string(graph.outputs.size()) +
                                         " outputs, which does not fit the node");
  }
  for (const ValueId id : node.inputs) touch(id);
  const HostTensor* limit = node.inputs[0] == kNone ? nullptr : pass_->places[node.inputs[0]].host;
  const HostTensor* start = node.inputs[1] == kNone ? nullptr : pass_->places[node.inputs[1]].host;
  if (limit != nullptr) prepared.trips = std::max<std::int64_t>(0, limit->as<std::int64_t>()[0]);
  if (start != nullptr && start->data()[0] == std::byte{0}) prepared.trips = 0;
  const auto scalar_like = [&](ValueId id) {
    Shape shape;
    if (plan_.values[id].has_rank && plan_.values[id].dims.size() == 1) shape.push_back(1);
    return shape;
  };
  set_stored(graph.inputs[0], DType::i64, scalar_like(graph.inputs[0]));
  set_stored(graph.inputs[1], DType::boolean, scalar_like(graph.inputs[1]));
  for (std::uint32_t c = 0; c < prepared.carried; ++c) {
    const ValuePlace from = pass_->places[node.inputs[2 + c]];
    set_stored(graph.inputs[2 + c], from.dtype, from.shape);
  }
  prepared.bodies.push_back(std::make_unique<PreparedGraph>());
  FB_TRY(prepare_graph(body, *prepared.bodies[0]));
  if (graph.outputs.size() > 1 + prepared.carried) {
    // Scan outputs need the exact count: a limit known from shapes and a condition that stays true.
    const ValuePlace& condition = pass_->places[graph.outputs[0]];
    const bool stays = condition.root == graph.inputs[1] || (condition.host != nullptr && condition.host->data()[0] != std::byte{0});
    const bool starts = node.inputs[1] == kNone || start != nullptr;
    if (prepared.trips < 0 || !stays || !starts) return depends_on_data(node, "the number of iterations, and so the shape of its scan outputs, depends on data");
  }
  FB_TRY(prepare_iterated(node, prepared));
  outlive(since);
  return {};
}

Status Preparer::prepare_scan(const plan::Node& node, PreparedStep& prepared) {
  const NodeView view(node, plan_);
  const std::uint32_t body = body_of(node, "body");
  const std::int64_t scanned = view.integer("num_scan_inputs", 0);
  if (body == kNone || scanned < 1 || static_cast<std::size_t>(scanned) > node.inputs.size()) return view.invalid("the body or num_scan_inputs is missing");
  if (node.version < 9) return view.unsupported("Scan of opset 8 (with a batch axis)");
  for (const char* axes : {"scan_input_axes", "scan_output_axes"}) {
    for (const std::int64_t axis : view.integers(axes)) {
      if (axis != 0) return view.unsupported(std::string(axes) + " other than 0");
    }
  }
  const std::uint32_t since = ++tick_;
  const plan::Graph& graph = plan_.graphs[body];
  prepared.carried = static_cast<std::uint32_t>(node.inputs.size() - static_cast<std::size_t>(scanned));
  if (graph.inputs.size() != node.inputs.size() || graph.outputs.size() != node.outputs.size() || graph.outputs.size() < prepared.carried) {
    return view.invalid("the body's inputs or outputs do not fit the node");
  }
  for (const ValueId id : node.inputs) touch(id);
  for (std::uint32_t i = 0; i < node.inputs.size(); ++i) {
    const ValuePlace from = pass_->places[node.inputs[i]];
    Shape shape = from.shape;
    if (i >= prepared.carried) {
      if (shape.rank() < 1 || (prepared.trips >= 0 && shape[0] != prepared.trips)) return view.invalid("the scan inputs have different lengths");
      prepared.trips = shape[0];
      shape = Shape(from.shape.dims().subspan(1));
    }
    set_stored(graph.inputs[i], from.dtype, shape);
  }
  const auto flags = [&](const char* name, std::size_t count) {
    std::vector<bool> reversed(count, false);
    const auto given = view.integers(name);
    for (std::size_t i = 0; i < given.size() && i < count; ++i) reversed[i] = given[i] != 0;
    return reversed;
  };
  prepared.reversed_inputs = flags("scan_input_directions", static_cast<std::size_t>(scanned));
  prepared.reversed_outputs = flags("scan_output_directions", node.outputs.size() - prepared.carried);
  prepared.bodies.push_back(std::make_unique<PreparedGraph>());
  FB_TRY(prepare_graph(body, *prepared.bodies[0]));
  FB_TRY(prepare_iterated(node, prepared));
  outlive(since);
  return {};
}

// Shapes of what is carried and collected; room to stage carried values, since a body may swap them.
Status Preparer::prepare_iterated(const plan::Node& node, PreparedStep& prepared) {
  const bool loop = node.op == "Loop";
  const std::uint32_t first_in = loop ? 2 : 0, first_out = loop ? 1 : 0;
  const plan::Graph& graph = plan_.graphs[body_of(node, "body")];
  ++tick_;
  for (const ValueId id : graph.outputs) touch(id);
  std::uint64_t staging = 0;
  for (std::uint32_t c = 0; c < prepared.carried; ++c) {
    const ValuePlace& in = pass_->places[graph.inputs[first_in + c]];
    const ValuePlace& out = pass_->places[graph.outputs[first_out + c]];
    if (in.dtype != out.dtype || !(in.shape == out.shape)) {
      return depends_on_data(node, "a carried value changes its shape from " + in.shape.to_string() + " to " + out.shape.to_string());
    }
    staging += align_up(std::max<std::uint64_t>(1, dtype_bytes(in.dtype, in.shape.elements()).value_or(0)), 64);
  }
  for (std::size_t o = 0; o < node.outputs.size(); ++o) {
    const ValuePlace& from = pass_->places[graph.outputs[first_out + o]];
    Shape shape = from.shape;
    if (o >= prepared.carried) {
      if (shape.rank() + 1 > kMaxRank) return NodeView(node, plan_).unsupported("a scan output of rank above 8");
      shape = Shape{prepared.trips};
      for (const std::int64_t dim : from.shape.dims()) shape.push_back(dim);
      if (!checked_bytes(from.dtype, shape.dims())) return NodeView(node, plan_).invalid("a scan output is too large");
    }
    const DType dtype = from.dtype;
    if (node.outputs[o] != kNone) set_stored(node.outputs[o], dtype, shape);
  }
  for (const ValueId id : graph.inputs) touch(id);
  workspaces_.push_back({tick_, tick_, std::max<std::uint64_t>(staging, 64)});
  prepared.workspace_bytes = workspaces_.back().bytes;
  prepared.workspace_offset = workspaces_.size();
  return {};
}

// What iterations read or collect lives as long as the loop: values from before it that the body touches, the body's inputs, the node's outputs
// and the staging.
void Preparer::outlive(std::uint32_t since) {
  for (Life& life : lives_) {
    if (life.first == UINT32_MAX) continue;
    if (life.first <= since && life.last >= since) life.last = std::max(life.last, tick_);
    if (life.last >= tick_ && life.first > since) life.first = since;  // touched now; small values may live on (touch)
  }
  workspaces_.back().first = since;
}

}  // namespace forebay
