// Looking at a pass: times of its launches on the host's clock or the device's, and what a failed launch was.
#include <chrono>
#include <map>

#include "base/check.h"
#include "runtime/device_tools.h"
#include "runtime/dynamic_pass.h"
#include "runtime/merged_kernel.h"
#include "runtime/pass_runner.h"
#include "runtime/trace_log.h"

namespace forebay {
namespace {

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string shapes_of(std::span<const ConstTensorView> inputs) {
  std::string text;
  for (const ConstTensorView& input : inputs) {
    if (!input.present()) continue;
    text += (text.empty() ? "" : ", ") + std::string(dtype_name(input.dtype)) + input.shape.to_string();
  }
  return text;
}

Status name_failure(const Launch& launch, Status status) {
  std::string where = "node '" + launch.step->name + "' (" + launch.step->step->node->op + ")";
  if (launch.clock->sync) where += ", kernel " + std::string(launch.kernel->id()) + " on " + shapes_of(launch.call->inputs);
  return std::move(status).with_context(where);
}

using Places = std::map<const PreparedStep*, std::uint32_t>;

void collect_step(PreparedStep& step, const plan::Plan& plan, std::vector<PassProfile::Op>& ops, Places& places) {
  places[&step] = static_cast<std::uint32_t>(ops.size());
  PassProfile::Op op;
  op.node = step.name;
  op.op = step.step->node->op;
  op.kernel = step.kernel->id();
  op.calls = step.calls;
  for (const WeightOperand& operand : step.step->weights) op.weight_bytes += plan.weights[operand.weight].bytes;
  ops.push_back(std::move(op));
}

void collect_graph(PreparedGraph& graph, const plan::Plan& plan, std::vector<PassProfile::Op>& ops, Places& places) {
  for (PreparedStep& step : graph.steps) {
    for (const auto& body : step.bodies) {
      if (body) collect_graph(*body, plan, ops, places);
    }
    if (step.kernel) collect_step(step, plan, ops, places);
  }
}

std::string weight_of(const plan::Plan& plan, std::uint32_t chunk) {
  const plan::Chunk& facts = plan.chunks[chunk];
  if (facts.part_count == 0) return "chunk " + std::to_string(chunk);
  const std::string& name = plan.weights[plan.parts[plan.chunk_parts[facts.first_part]].weight].name;
  return facts.part_count == 1 ? name : name + " and " + std::to_string(facts.part_count - 1) + " more";
}

}  // namespace

Status PassRunner::run_launch(void* argument) {
  Launch& launch = *static_cast<Launch*>(argument);
  PassClock& clock = *launch.clock;
  const std::size_t record = clock.records.size();
  if (clock.on) clock.records.push_back({launch.step, now_ns(), 0});
  if (clock.watch != nullptr) FB_TRY(clock.watch->mark(2 * record));
  if (clock.tools != nullptr) clock.tools->begin_range(launch.step->name.c_str());
  Status status = launch.merged > 1 ? launch.step->merged->run_merged({launch.call, launch.merged}) : launch.kernel->run(*launch.call);
  if (clock.tools != nullptr) clock.tools->end_range();
  if (status.ok() && clock.watch != nullptr) status = clock.watch->mark(2 * record + 1);
  if (status.ok() && clock.sync && clock.tools != nullptr) status = clock.tools->sync();
  if (clock.on) clock.records[record].end_ns = now_ns();
  return status.ok() ? Status() : name_failure(launch, std::move(status));
}

// With nothing of this context running.
Status ContextCore::start_clock() {
  clock_.on = profiling_;
  clock_.sync = engine_.parts_.debug_sync;
  clock_.tools = dynamic_cast<DeviceTools*>(&engine_.device());
  clock_.watch = nullptr;
  clock_.records.clear();
  if (!profiling_) return {};
  engine_.source().start_trace();
  if (clock_.tools == nullptr) return {};
  if (watch_ == nullptr) {
    FB_ASSIGN(watch_, clock_.tools->create_stopwatch());
  }
  clock_.watch = watch_.get();
  return watch_->reset();
}

// After the pass, which began at `begin_ns`.
Status ContextCore::read_clock(std::int64_t begin_ns) {
  std::vector<TraceSpan> spans = engine_.source().stop_trace();
  Places places;
  profile_.ops.clear();
  profile_.spans.clear();
  collect_graph(prepared_->main, plan(), profile_.ops, places);
  if (prepared_->dynamic) prepared_->dynamic->each_step([&](PreparedStep& step) { collect_step(step, plan(), profile_.ops, places); });
  std::int64_t last = begin_ns;
  for (std::size_t i = 0; i < clock_.records.size(); ++i) {
    PassClock::Record& record = clock_.records[i];
    if (clock_.watch != nullptr) {
      FB_ASSIGN(record.begin_ns, clock_.watch->read(2 * i));
      FB_ASSIGN(record.end_ns, clock_.watch->read(2 * i + 1));
    }
    const auto place = places.find(record.step);
    if (place == places.end()) continue;
    PassProfile::Op& op = profile_.ops[place->second];
    op.wait_ms += static_cast<double>(std::max<std::int64_t>(0, record.begin_ns - last)) / 1e6;
    op.compute_ms += static_cast<double>(record.end_ns - record.begin_ns) / 1e6;
    last = record.end_ns;
    spans.push_back({TraceSpan::Lane::compute, place->second, record.begin_ns, record.end_ns, 0});
  }
  for (const TraceSpan& span : spans) {
    const auto ms = [&](std::int64_t ns) { return static_cast<double>(ns - begin_ns) / 1e6; };
    const bool compute = span.lane == TraceSpan::Lane::compute;
    profile_.spans.push_back({static_cast<PassProfile::Span::Lane>(span.lane),
                              compute ? profile_.ops[span.subject].node : weight_of(plan(), span.subject), ms(span.begin_ns),
                              ms(span.end_ns), span.bytes});
  }
  return {};
}

}  // namespace forebay
