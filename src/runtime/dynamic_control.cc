// If, Loop and Scan where shapes depend on data: carried values change hands without a copy, scan outputs are put together at the end.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/dynamic_pass.h"
#include "runtime/pass_runner.h"

namespace forebay {

using plan::kNone;
using plan::ValueId;

namespace {

constexpr std::int64_t kDryIterations = 2;  // enough to see what a carried value grows into first

std::shared_ptr<const HostTensor> number(const plan::Value& like, std::int64_t value) {
  Shape shape;
  if (like.has_rank && like.dims.size() == 1) shape.push_back(1);
  auto tensor = std::make_shared<HostTensor>(DType::i64, shape);
  tensor->as<std::int64_t>()[0] = value;
  return tensor;
}

std::shared_ptr<const HostTensor> truth(const plan::Value& like, bool value) {
  Shape shape;
  if (like.has_rank && like.dims.size() == 1) shape.push_back(1);
  auto tensor = std::make_shared<HostTensor>(DType::boolean, shape);
  tensor->data()[0] = value ? std::byte{1} : std::byte{0};
  return tensor;
}

bool is_true(const ValuePlace& place) {
  return place.host != nullptr && place.host->bytes() > 0 && place.host->data()[0] != std::byte{0};
}

}  // namespace

// The body's inputs are set. Its outputs are held; everything else of it is let go.
Result<std::vector<DynamicPass::Held>> DynamicPass::run_body(std::uint32_t graph) {
  FB_TRY(run_graph(graph));
  std::vector<Held> outputs;
  for (const ValueId id : plan_.graphs[graph].outputs) {
    FB_ASSIGN(Held held, hold(id));
    outputs.push_back(std::move(held));
  }
  for (const ValueId id : owned_[graph]) drop(id);
  return outputs;
}

Status DynamicPass::run_if(const plan::Node& node) {
  const std::uint32_t bodies[2] = {body_of(node, "then_branch"), body_of(node, "else_branch")};
  if (bodies[0] == kNone || bodies[1] == kNone) return NodeView(node, plan_).invalid("a branch is missing");
  Status known = fetch(node.inputs[0]);
  if (!known.ok() && !dry()) return known;
  std::vector<Held> outputs;
  const auto run = [&](std::uint32_t body) -> Status {
    FB_ASSIGN(std::vector<Held> made, run_body(body));
    for (std::size_t o = 0; o < made.size(); ++o) {
      if (outputs.size() <= o) outputs.emplace_back();
      const auto bytes = [](const Held& h) { return dtype_bytes(h.dtype, h.dtype == DType::none ? 0 : h.shape.elements()).value_or(0); };
      if (bytes(made[o]) >= bytes(outputs[o])) std::swap(outputs[o], made[o]);
      let_go(made[o]);
    }
    return {};
  };
  if (known.ok()) {
    FB_TRY(run(bodies[is_true(pass_.places[node.inputs[0]]) ? 0 : 1]));
  } else {
    // A walk without data: the larger of both.
    const Status then_status = run(bodies[0]), else_status = run(bodies[1]);
    if (!then_status.ok() && !else_status.ok()) return then_status;
  }
  for (std::size_t o = 0; o < node.outputs.size(); ++o) {
    if (node.outputs[o] == kNone) {
      let_go(outputs[o]);
      continue;
    }
    FB_TRY(give_output(node.outputs[o], outputs[o]));
    if (!dry()) runner_->debug(node.outputs[o]);
  }
  return {};
}

// The calls of an iteration are the same structures again: the last one must have run.
Status DynamicPass::next_iteration(std::int64_t iteration) {
  if (dry()) return {};
  runner_->set_iteration(iteration);
  if (iteration == 0) return {};
  FB_TRY(runner_->wait_for_queue());
  uploading_.clear();
  return {};
}

Status DynamicPass::loop_limits(Iterations& loop) {
  const plan::Node& node = *loop.node;
  const plan::Graph& graph = plan_.graphs[loop.body];
  if (node.inputs[0] != kNone) {
    const Status known = fetch(node.inputs[0]);
    if (!known.ok() && !dry()) return known;
    if (known.ok()) loop.trips = std::max<std::int64_t>(0, pass_.places[node.inputs[0]].host->as<std::int64_t>()[0]);
  }
  if (node.inputs[1] != kNone) {
    const Status known = fetch(node.inputs[1]);
    if (!known.ok() && !dry()) return known;
    loop.condition = !known.ok() || is_true(pass_.places[node.inputs[1]]);
  }
  const bool same = graph.outputs[0] == graph.inputs[1];
  if (node.inputs[0] != kNone || !loop.condition || (!same && plan_.values[graph.outputs[0]].kind != plan::ValueKind::constant)) return {};
  if (!same && !is_true(pass_.places[graph.outputs[0]])) return {};
  return NodeView(node, plan_).invalid("has neither a trip count nor a condition that can end it");
}

// One iteration: the body's inputs are set, its outputs become the state and the newest slices.
Status DynamicPass::loop_iteration(Iterations& loop) {
  const plan::Graph& graph = plan_.graphs[loop.body];
  FB_TRY(next_iteration(loop.done));
  set_host(graph.inputs[0], number(plan_.values[graph.inputs[0]], loop.done));
  set_host(graph.inputs[1], truth(plan_.values[graph.inputs[1]], loop.condition));
  const std::size_t carried = loop.state.size();
  for (std::size_t c = 0; c < carried; ++c) set(graph.inputs[2 + c], std::move(loop.state[c]));
  FB_TRY(run_graph(loop.body));
  const Status known = fetch(graph.outputs[0]);
  if (!known.ok() && !dry()) return known;
  loop.condition = !known.ok() || is_true(pass_.places[graph.outputs[0]]);
  for (std::size_t o = 1; o < graph.outputs.size() && o <= carried + loop.slices.size(); ++o) {
    FB_ASSIGN(Held held, hold(graph.outputs[o]));
    if (o <= carried) loop.state[o - 1] = std::move(held);
    if (o > carried) loop.slices[o - 1 - carried].push_back(std::move(held));
  }
  for (const ValueId id : owned_[loop.body]) drop(id);
  ++loop.done;
  return {};
}

// A walk without data looks at the first iterations, then at the last with what is carried grown as much in each as it was in the second.
Status DynamicPass::look_ahead(Iterations& loop) {
  std::vector<Shape> before;
  while (loop.condition && loop.done < kDryIterations && (loop.trips < 0 || loop.done < loop.trips)) {
    before.clear();
    for (const Held& held : loop.state) before.push_back(held.shape);
    FB_TRY(loop_iteration(loop));
  }
  if (loop.trips < 0) bounded_ = false;
  if (!loop.condition || loop.done < kDryIterations || loop.trips <= loop.done) return {};
  for (std::size_t c = 0; c < loop.state.size(); ++c) {
    Held& held = loop.state[c];
    Shape grown = held.shape;
    for (int d = 0; d < grown.rank() && grown.rank() == before[c].rank(); ++d) {
      std::int64_t more = 0;
      const bool overflow = __builtin_mul_overflow(held.shape[d] - before[c][d], loop.trips - 1 - loop.done, &more) ||
                            __builtin_add_overflow(held.shape[d], more, &grown[d]);
      if (overflow || grown[d] < 0) return Status(Code::unsupported, "a carried value has no useful bound");
    }
    if (grown == held.shape) continue;
    const auto bytes = checked_bytes(held.dtype, grown.dims());
    if (!bytes) return Status(Code::unsupported, "a carried value has no useful bound");
    FB_ASSIGN(const std::uint32_t block, take(*bytes));
    Held larger{held.dtype, grown, nullptr, block};
    let_go(held);
    held = std::move(larger);
  }
  loop.done = loop.trips - 1;
  return loop_iteration(loop);
}

Status DynamicPass::run_loop(const plan::Node& node) {
  const NodeView view(node, plan_);
  Iterations loop;
  loop.node = &node;
  loop.body = body_of(node, "body");
  if (loop.body == kNone || node.inputs.size() < 2) return view.invalid("the body is missing");
  const plan::Graph& graph = plan_.graphs[loop.body];
  const std::size_t carried = node.inputs.size() - 2;
  if (graph.inputs.size() != node.inputs.size() || graph.outputs.size() < 1 + carried || node.outputs.size() + 1 > graph.outputs.size()) {
    return view.invalid("the body's inputs or outputs do not fit the node");
  }
  FB_TRY(loop_limits(loop));
  for (std::size_t c = 0; c < carried; ++c) {
    FB_ASSIGN(Held held, hold(node.inputs[2 + c]));
    loop.state.push_back(std::move(held));
  }
  loop.slices.resize(node.outputs.size() > carried ? node.outputs.size() - carried : 0);
  if (dry()) {
    FB_TRY(look_ahead(loop));
  } else {
    const std::int64_t outer = runner_->iteration();
    while (loop.condition && (loop.trips < 0 || loop.done < loop.trips)) FB_TRY(loop_iteration(loop));
    runner_->set_iteration(outer);
  }
  for (std::size_t o = 0; o < node.outputs.size(); ++o) {
    const ValueId to = node.outputs[o];
    if (o >= carried) {
      FB_TRY(collect(to, plan_.values[graph.outputs[1 + o]], loop.slices[o - carried], loop.done, false));
    } else if (to != kNone) {
      FB_TRY(give_output(to, loop.state[o]));
    } else {
      let_go(loop.state[o]);
    }
    if (!dry()) runner_->debug(to);
  }
  return {};
}

// An output of a control node. In a walk without data a declared bound stands in for what was seen.
Status DynamicPass::give_output(ValueId to, Held& held) {
  if (!dry()) {
    FB_TRY(within_bounds(to, held.shape));
    set(to, std::move(held));
    return ensure_stored(to);
  }
  Shape shape = held.shape;
  for (int d = 0; d < shape.rank() && static_cast<std::size_t>(d) < bounds_[to].size(); ++d) {
    if (bounds_[to][static_cast<std::size_t>(d)] >= 0) shape[d] = bounds_[to][static_cast<std::size_t>(d)];
  }
  if (shape == held.shape) {
    set(to, std::move(held));
    return {};
  }
  const DType dtype = held.dtype;
  let_go(held);
  return store(to, dtype, shape);
}

Status DynamicPass::run_scan(const plan::Node& node) {
  const NodeView view(node, plan_);
  const std::uint32_t body = body_of(node, "body");
  const auto scanned = static_cast<std::size_t>(std::max<std::int64_t>(0, view.integer("num_scan_inputs", 0)));
  if (body == kNone || scanned < 1 || scanned > node.inputs.size()) return view.invalid("the body or num_scan_inputs is missing");
  const plan::Graph& graph = plan_.graphs[body];
  const std::size_t carried = node.inputs.size() - scanned;
  if (graph.inputs.size() != node.inputs.size() || graph.outputs.size() < node.outputs.size() || node.outputs.size() < carried) {
    return view.invalid("the body's inputs or outputs do not fit the node");
  }
  for (const char* axes : {"scan_input_axes", "scan_output_axes"}) {
    for (const std::int64_t axis : view.integers(axes)) {
      if (axis != 0) return view.unsupported(std::string(axes) + " other than 0");
    }
  }
  const auto reversed = [&](const char* name, std::size_t i) {
    const auto flags = view.integers(name);
    return i < flags.size() && flags[i] != 0;
  };
  std::vector<Held> state;
  std::int64_t trips = -1;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    FB_TRY(ensure_stored(node.inputs[i]));
    FB_ASSIGN(Held held, hold(node.inputs[i]));
    if (i >= carried) {
      if (held.shape.rank() < 1 || (trips >= 0 && held.shape[0] != trips)) return view.invalid("the scan inputs have different lengths");
      trips = held.shape[0];
    }
    state.push_back(std::move(held));
  }
  std::vector<std::vector<Held>> slices(node.outputs.size() - carried);
  const std::int64_t outer = dry() ? 0 : runner_->iteration();
  for (std::int64_t i = 0; i < trips && (!dry() || i < kDryIterations); ++i) {
    FB_TRY(next_iteration(i));
    for (std::size_t k = 0; k < node.inputs.size(); ++k) {
      if (k < carried) {
        set(graph.inputs[k], std::move(state[k]));
        continue;
      }
      FB_TRY(store(graph.inputs[k], state[k].dtype, Shape(state[k].shape.dims().subspan(1))));
      const std::int64_t at = reversed("scan_input_directions", k - carried) ? trips - 1 - i : i;
      const std::uint64_t bytes = dtype_bytes(state[k].dtype, pass_.places[graph.inputs[k]].shape.elements()).value_or(0);
      if (!dry() && bytes > 0)
        runner_->copy_within(pass_.places[graph.inputs[k]].offset, heap_.offset(state[k].block) + static_cast<std::uint64_t>(at) * bytes,
                             bytes);
    }
    FB_ASSIGN(std::vector<Held> made, run_body(body));
    for (std::size_t o = 0; o < made.size(); ++o) {
      if (o < carried) {
        state[o] = std::move(made[o]);
      } else if (o < node.outputs.size()) {
        slices[o - carried].push_back(std::move(made[o]));
      } else {
        let_go(made[o]);
      }
    }
  }
  if (!dry()) runner_->set_iteration(outer);
  for (std::size_t o = 0; o < node.outputs.size(); ++o) {
    const ValueId to = node.outputs[o];
    if (o >= carried) {
      FB_TRY(collect(to, plan_.values[graph.outputs[o]], slices[o - carried], trips, reversed("scan_output_directions", o - carried)));
    } else if (to != kNone) {
      FB_TRY(give_output(to, state[o]));
    } else {
      let_go(state[o]);
    }
    if (!dry()) runner_->debug(to);
  }
  for (std::size_t k = carried; k < state.size(); ++k) let_go(state[k]);
  return {};
}

Status DynamicPass::copy_to(std::uint32_t block, std::uint64_t at, const Held& from) {
  const std::uint64_t bytes = dtype_bytes(from.dtype, from.shape.elements()).value_or(0);
  if (dry() || bytes == 0) return {};
  if (from.block != ActivationHeap::kNoBlock) {
    runner_->copy_within(heap_.offset(block) + at, heap_.offset(from.block), bytes);
  } else {
    uploading_.push_back(from.host);
    runner_->copy_in(heap_.offset(block) + at, from.host->data(), bytes);
  }
  return {};
}

// In a walk without data: the room of the slices that were not made, all of which live until they are put together.
Status DynamicPass::count_slices(const Shape& all, const std::vector<Held>& slices) {
  const std::int64_t missing = all[0] - static_cast<std::int64_t>(slices.size());
  if (!dry() || slices.empty() || missing <= 0) return {};
  const std::uint64_t each = align_up(std::max<std::uint64_t>(1, dtype_bytes(slices[0].dtype, slices[0].shape.elements()).value_or(0)), 64);
  const auto bytes = checked_mul(each, static_cast<std::uint64_t>(missing));
  FB_ASSIGN(const std::uint32_t block, take(bytes.value_or(UINT64_MAX)));
  heap_.give(block);
  return {};
}

// The slices of all iterations, one after the other. `count` exceeds them only in a walk without data.
Status DynamicPass::collect(ValueId to, const plan::Value& declared, std::vector<Held>& slices, std::int64_t count, bool reversed) {
  Shape shape{count};
  DType dtype = declared.dtype;
  if (!slices.empty()) {
    dtype = slices[0].dtype;
    for (const std::int64_t dim : slices.back().shape.dims()) {
      if (shape.rank() == kMaxRank) return Status(Code::unsupported, "scan output '" + declared.name + "' has a rank above 8");
      shape.push_back(dim);
    }
  } else {
    for (const plan::Dim& dim : declared.dims) {
      if (shape.rank() < kMaxRank) shape.push_back(std::max<std::int64_t>(0, dim.size));
    }
  }
  for (const Held& slice : slices) {
    if (!dry() && (slice.dtype != dtype || !(slice.shape == slices[0].shape))) {
      return Status(Code::invalid_model, "scan output '" + declared.name + "' has shape " + slices[0].shape.to_string() +
                                             " in one iteration and " + slice.shape.to_string() + " in another");
    }
  }
  if (dry() && to != kNone && !bounds_[to].empty() && bounds_[to][0] >= 0) shape[0] = bounds_[to][0];
  if (to != kNone) {
    FB_TRY(within_bounds(to, shape));
    FB_TRY(store(to, dtype, shape));
    FB_TRY(count_slices(shape, slices));
    std::uint64_t at = 0;
    for (std::size_t i = 0; i < slices.size(); ++i) {
      const Held& slice = slices[reversed ? slices.size() - 1 - i : i];
      FB_TRY(copy_to(blocks_[to], at, slice));
      at += dtype_bytes(slice.dtype, slice.shape.elements()).value_or(0);
    }
  }
  for (Held& slice : slices) let_go(slice);
  slices.clear();
  return {};
}

}  // namespace forebay
