#include <algorithm>

#include "api/engine_state.h"
#include "api/kernel_times.h"
#include "api/weight_catalog.h"
#include "base/check.h"
#include "base/memory_info.h"
#include "forebay/engine.h"
#include "refit/refit.h"
#include "runtime/cpu/cpu_device.h"
#include "runtime/device_library.h"
#include "stream/streamer.h"

namespace forebay {
namespace {

Result<DirectIo> direct_choice(const std::string& text) {
  if (text == "auto" || text.empty()) return DirectIo::prefer;
  if (text == "on") return DirectIo::require;
  if (text == "off") return DirectIo::off;
  return Status(Code::invalid_argument, "direct is auto, on or off, not '" + text + "'");
}

Result<stream::IoChoice> io_choice(const std::string& text) {
  if (text == "auto" || text.empty()) return stream::IoChoice::automatic;
  if (text == "uring") return stream::IoChoice::uring;
  if (text == "threads") return stream::IoChoice::threads;
  return Status(Code::invalid_argument, "io is auto, uring or threads, not '" + text + "'");
}

Result<std::unique_ptr<Device>> make_device(const std::string& name) {
  if (name.empty() || name == "cpu") return create_cpu_device();
  return load_device(name);
}

Result<std::unique_ptr<Arena>> make_arena(Device& device, const EngineOptions& options, const plan::Plan& plan) {
  if (options.arena_memory) {
    if (options.arena_memory->data() == nullptr || options.arena_memory->empty()) {
      return Status(Code::invalid_argument, "the arena memory given is null or empty");
    }
    return device.wrap_arena(*options.arena_memory);
  }
  return device.reserve_arena(arena_reserve_bytes(plan));
}


// What streams leaves host memory at the speed of the link, and the disk at a tenth of it: with a link, all of it is kept where memory allows.
std::uint64_t default_host_cache(const Device& device, const plan::Generation& generation) {
  if (device.info().arena_host_addressable) return 0;
  std::uint64_t stored = generation.binding.host_bytes;
  for (const plan::ChunkBinding& chunk : generation.binding.chunks) {
    if (chunk.where == plan::ChunkBinding::Where::file) stored += chunk.stored_bytes;
  }
  return std::min(stored, memory_info().available_bytes / 2);
}

// Binds sources (or the embedded weights when there are none) as generation `number`.
Result<plan::GenerationPtr> bind_generation(Engine::State& state, const WeightSources& sources, std::uint64_t number, ThreadPool& pool, RefitReport* report) {
  if (sources.empty()) {
    if (state.plan.stripped()) {
      Problem problem;
      problem.code = "weights_missing";
      problem.message = "the plan is stripped: its " + std::to_string(state.plan.data().weights.size()) + " weights (" + std::to_string(state.plan.weight_bytes()) +
                        " bytes) lie elsewhere";
      problem.file = file_name_of(state.plan.path());
      problem.hint = "give them with --weights (the ONNX file, safetensors, or a shard folder)";
      return Status(Code::weight_mismatch, std::move(problem));
    }
    return refit::bind_embedded(posix_file_system(), state.plan.share(), state.plan.path(), state.direct, number);
  }
  FB_ASSIGN(api::OpenedSources opened, api::open_sources(sources, *state.logger));
  opened.options.direct = state.direct;
  opened.options.max_host_bytes = state.options.host_cache_bytes.value_or(0);
  refit::Report found;
  auto bound = refit::bind(posix_file_system(), state.plan.share(), opened.catalog, opened.options, number, pool, *state.logger, &found);
  api::copy_report(found, report);
  return bound;
}

// The plan as this device runs it: with the choices it came with, or chosen again by timing.
Result<std::shared_ptr<const plan::Plan>> plan_for(const Plan& plan, const EngineOptions& options, Device& device, ThreadPool& pool,
                                                   Logger& logger) {
  if (device.info().kind == "cpu") {
    if (options.retime)
      return Status(Code::invalid_argument, "the CPU's kernels follow from its instruction set: there is nothing to time");
    return plan.share();
  }
  if (!options.retime) {
    if (!api::timed_here(plan.data(), device.info()))
      logger.log(LogLevel::info,
                 "kernels were not timed on this device: heuristics choose (forebay run --retime times them, in at most 10 s)");
    return plan.share();
  }
  std::vector<ShapeSet> shapes = declared_shapes(plan.data());
  if (!options.retime->shapes.empty()) shapes.insert(shapes.begin(), options.retime->shapes);
  FB_ASSIGN(ChoiceOutcome outcome,
            api::choose_on_device(plan.share(), std::move(shapes), device, pool,
                                  {options.retime->budget_bytes, options.retime->seconds, options.retime->timing_cache}, logger));
  logger.log(LogLevel::info, std::to_string(outcome.timed) + " kernels timed, " + std::to_string(outcome.cached) + " known, for " +
                                 std::to_string(outcome.problems) + " problems");
  return with_kernels(plan.data(), std::move(outcome.section));
}

}  // namespace

Engine::Engine(std::shared_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

Result<Engine> Engine::create(const Plan& plan, const WeightSources& sources, const EngineOptions& options) {
  if (options.threads < 0 || options.concurrent_passes < 1 || options.concurrent_passes > 64) {
    return Status(Code::invalid_argument, "threads must be 0 or more, concurrent_passes 1 to 64");
  }
  auto state = std::make_shared<State>(plan);
  state->options = options;
  state->logger = options.logger != nullptr ? options.logger : &null_logger();
  FB_ASSIGN(state->direct, direct_choice(options.direct));
  FB_ASSIGN(const stream::IoChoice io, io_choice(options.io));
  EngineParts parts;
  FB_ASSIGN(parts.device, make_device(options.device));
  parts.pool = std::make_unique<ThreadPool>(api::compute_threads(options.threads));
  FB_ASSIGN(auto planned, plan_for(plan, options, *parts.device, *parts.pool, *state->logger));
  FB_ASSIGN(parts.compiled, compile_plan(std::move(planned)));
  FB_ASSIGN(plan::GenerationPtr generation, bind_generation(*state, sources, 1, *parts.pool, nullptr));
  state->integrity = generation->binding.integrity;
  FB_ASSIGN(parts.arena, make_arena(*parts.device, options, plan.data()));
  stream::StreamerOptions streaming;
  streaming.io = io;
  streaming.direct = state->direct;
  const std::uint64_t cache = options.host_cache_bytes.value_or(default_host_cache(*parts.device, *generation));
  streaming.host_cache_bytes = cache > generation->binding.host_bytes ? cache - generation->binding.host_bytes : 0;
  FB_ASSIGN(parts.source, stream::create_streamer(*parts.device, *parts.arena, plan.share(), parts.compiled->program, generation, streaming, *state->logger));
  parts.budget = options.budget;
  parts.host_cache_bytes = streaming.host_cache_bytes;
  parts.passes = static_cast<std::uint32_t>(options.concurrent_passes);
  parts.debug_sync = options.debug_sync;
  parts.user_memory = options.arena_memory.has_value();
  parts.logger = state->logger;
  FB_ASSIGN(state->core, EngineCore::create(std::move(parts)));
  return Engine(std::move(state));
}

Result<BudgetChange> Engine::set_budget(const Budget& budget) {
  BudgetChange change;
  change.state_ = std::make_shared<BudgetChange::State>();
  change.state_->engine = state_;
  FB_ASSIGN(change.state_->completion, state_->core->set_budget(budget));
  return change;
}

bool BudgetChange::done() const { return state_->completion->done(); }
Status BudgetChange::wait() const { return state_->completion->wait(); }

MemoryReport Engine::memory() const { return state_->core->memory(); }

Result<std::uint64_t> Engine::refit(const WeightSources& sources, RefitReport* report) {
  const std::lock_guard lock(state_->refit_mutex);
  if (state_->plan.data().refit == plan::RefitMode::none) {
    return Status(Code::weight_mismatch, "the plan was built with --refit none: it takes no other weights");
  }
  FB_ASSIGN(plan::GenerationPtr generation, bind_generation(*state_, sources, state_->generation + 1, state_->core->pool(), report));
  const std::string integrity = generation->binding.integrity;
  FB_TRY(state_->core->publish(std::move(generation)));
  state_->integrity = integrity;
  return ++state_->generation;
}

std::uint64_t Engine::generation() const {
  const std::lock_guard lock(state_->refit_mutex);
  return state_->generation;
}
std::string Engine::integrity() const {
  const std::lock_guard lock(state_->refit_mutex);
  return state_->integrity;
}

Result<Engine::Sizes> Engine::sizes_for_shapes(const std::vector<std::pair<std::string, Shape>>& inputs) const {
  std::vector<std::pair<std::string, Shape>> ordered;
  for (const TensorInfo& input : state_->plan.inputs()) {
    bool found = false;
    for (const auto& [name, shape] : inputs) {
      if (name != input.name) continue;
      ordered.emplace_back(name, shape);
      found = true;
    }
    if (!found) return Status(Code::invalid_argument, "no shape was given for input '" + input.name + "'");
  }
  return state_->core->sizes_for_shapes(ordered);
}

const Plan& Engine::plan() const { return state_->plan; }
std::string Engine::numerics_id() const { return state_->core->numerics_id(); }
std::string Engine::device_name() const { return state_->core->device().info().name; }

Engine::IoInfo Engine::io() const {
  const stream::IoReport report = stream::io_report(state_->core->source());
  IoInfo io{report.engine, report.why, report.direct, report.registered, report.depth};
  io.page_cache_bytes = report.page_cache_bytes;
  io.loaded_bytes = report.loaded_bytes;
  io.load_ms = static_cast<double>(report.load_ns) / 1e6;
  io.disk_bytes = report.disk_bytes;
  io.no_room_ms = static_cast<double>(report.no_room_ns) / 1e6;
  io.host_cache_bytes = report.host_cache_bytes;
  io.host_cache_wanted = report.host_cache_wanted;
  return io;
}

Result<ExecutionContext> Engine::create_context() {
  auto context = std::make_unique<ExecutionContext::State>();
  context->engine = state_;
  FB_ASSIGN(context->core, state_->core->create_context());
  return ExecutionContext(std::move(context));
}

}  // namespace forebay
