#include "trial_pass.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <span>
#include <thread>

#include "base/check.h"
#include "base/checked.h"
#include "input_maker.h"
#include "runtime/engine_core.h"
#include "runtime/trial_bytes.h"

namespace forebay::tools {
namespace {

constexpr int kWarmUp = 4, kPasses = 9;
constexpr std::uint64_t kHeadroom = 1ull << 30;  // left to activations, states and others

// All chunks are there, one behind the other; from the start of the resident part again where it ends.
class TrialSource final : public WeightSource {
 public:
  TrialSource(Device& device, Arena& arena, std::shared_ptr<const CompiledPlan> compiled, std::uint64_t bytes)
      : device_(device), arena_(arena), compiled_(std::move(compiled)), bytes_(bytes) {
    auto generation = std::make_shared<plan::Generation>();
    generation->number = 1;
    generation->plan = compiled_->plan;
    generation_ = std::move(generation);
    const plan::Plan& plan = *compiled_->plan;
    places_.resize(plan.chunks.size());
    std::uint64_t next = 0;
    for (const plan::ChunkId chunk : compiled_->program.uses) {
      const std::uint64_t size = align_up(plan.chunks[chunk].raw_bytes, kBlockBytes);
      if (next + size > bytes_) next = 0;
      places_[chunk] = next;
      next += size;
    }
  }
  SourceLimits limits() const override { return {0, bytes_, 0}; }
  SourceLimits limits_for(const plan::Generation&) const override { return limits(); }
  Status reconfigure(const ArenaLayout& layout, const std::function<Status()>& resize) override {
    FB_TRY(resize());
    base_ = arena_.base() + (layout.arena_bytes - layout.resident_bytes);
    return layout.resident_bytes > filled_ ? fill(layout.resident_bytes) : Status();
  }
  Status publish(plan::GenerationPtr) override { return Status(Code::unsupported, "a trial has no weights"); }
  plan::GenerationPtr current() const override { return generation_; }
  Result<std::unique_ptr<PassLease>> begin_pass() override;
  StreamCounters counters() const override { return {}; }
  bool fully_resident() const override { return true; }
  void shutdown() override {}

  const plan::Generation& generation() const { return *generation_; }
  void addresses(std::uint32_t substep, std::span<ChunkAddress> out) const;

 private:
  Status fill(std::uint64_t bytes);

  Device& device_;
  Arena& arena_;
  const std::shared_ptr<const CompiledPlan> compiled_;
  const std::uint64_t bytes_;
  plan::GenerationPtr generation_;
  std::vector<std::uint64_t> places_;  // of chunks, from base_
  std::byte* base_ = nullptr;
  std::uint64_t filled_ = 0;
};

class TrialLease final : public PassLease {
 public:
  explicit TrialLease(const TrialSource& source) : source_(source) {}
  const plan::Generation& generation() const override { return source_.generation(); }
  bool shared() const override { return true; }
  Status begin_segment(std::uint32_t) override { return {}; }
  Status acquire(std::uint32_t substep, std::span<ChunkAddress> out) override {
    source_.addresses(substep, out);
    return {};
  }
  void release(std::uint32_t, TimelinePoint) override {}
  Status gather_rows(plan::WeightId weight, std::span<const std::int64_t> rows, std::byte* to) override {
    const plan::Weight& table = source_.generation().plan->weights[weight];
    const auto count = static_cast<std::uint64_t>(std::max<std::int64_t>(1, table.shape.rank() > 0 ? table.shape[0] : 1));
    std::memset(to, 0, rows.size() * (table.bytes / count));
    return {};
  }
  void end(bool) override {}

 private:
  const TrialSource& source_;
};

Result<std::unique_ptr<PassLease>> TrialSource::begin_pass() {
  return std::unique_ptr<PassLease>(std::make_unique<TrialLease>(*this));
}

Status TrialSource::fill(std::uint64_t bytes) {
  FB_ASSIGN(const auto queue, device_.create_queue("fill", 256));
  const std::vector<std::byte> first = trial_bytes();
  std::uint64_t done = std::min<std::uint64_t>(bytes, first.size());
  queue->copy(base_, first.data(), done);
  for (std::uint64_t next = 0; done < bytes; done += next) {
    next = std::min(done, bytes - done);
    queue->copy(base_ + done, base_, next);
  }
  FB_TRY(queue->synchronize());
  filled_ = bytes;
  return {};
}

void TrialSource::addresses(std::uint32_t substep, std::span<ChunkAddress> out) const {
  const PassProgram& program = compiled_->program;
  const PassProgram::Substep& step = program.substeps[substep];
  for (std::uint32_t i = 0; i < step.use_count; ++i) out[i] = {base_ + places_[program.uses[step.first_use + i]], {}};
}

// Bytes of the device that stand for the weights: of all that a pass uses, or as many as there is room for.
Result<std::uint64_t> room_for_weights(Device& device, const CompiledPlan& compiled) {
  std::uint64_t all = 0, largest = 0;
  std::vector<bool> seen(compiled.plan->chunks.size());
  for (const plan::ChunkId chunk : compiled.program.uses) {
    if (seen[chunk]) continue;
    seen[chunk] = true;
    const std::uint64_t size = align_up(compiled.plan->chunks[chunk].raw_bytes, kBlockBytes);
    all += size;
    largest = std::max(largest, size);
  }
  FB_ASSIGN(const std::uint64_t free, device.free_bytes());
  const std::uint64_t most = free > kHeadroom ? align_down(free - kHeadroom, kBlockBytes) : 0;
  if (largest > most) return Status(Code::resource_exhausted, "the device has no room for a pass");
  return std::min(all, most);
}

Result<double> median_ms(ContextCore& context) {
  std::array<double, kPasses> times{};
  for (int i = -kWarmUp; i < kPasses; ++i) {
    const auto start = std::chrono::steady_clock::now();
    FB_TRY(context.execute());
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    if (i >= 0) times[static_cast<std::size_t>(i)] = spent.count();
  }
  std::nth_element(times.begin(), times.begin() + kPasses / 2, times.end());
  return times[kPasses / 2];
}

}  // namespace

Result<double> trial_pass_ms(std::unique_ptr<Device> device, const std::shared_ptr<const CompiledPlan>& compiled,
                             const std::vector<std::pair<std::string, Shape>>& shapes, const std::vector<StateBinding>& bound,
                             Logger& logger) {
  const plan::Plan& plan = *compiled->plan;
  EngineParts parts;
  parts.device = std::move(device);
  parts.pool = std::make_unique<ThreadPool>(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  parts.compiled = compiled;
  FB_ASSIGN(parts.arena, parts.device->reserve_arena(arena_reserve_bytes(plan)));
  FB_ASSIGN(const std::uint64_t room, room_for_weights(*parts.device, *compiled));
  parts.source = std::make_unique<TrialSource>(*parts.device, *parts.arena, compiled, room);
  parts.budget = Budget::automatic();
  parts.logger = &logger;
  FB_ASSIGN(const auto engine, EngineCore::create(std::move(parts)));
  FB_ASSIGN(const auto context, engine->create_context());
  const plan::Graph& graph = plan.graphs[0];
  for (const StateBinding& pair : bound)
    FB_TRY(context->bind_state(plan.values[graph.outputs[pair.output]].name, plan.values[graph.inputs[pair.input]].name));
  std::vector<HostTensor> inputs;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    inputs.emplace_back(plan.values[graph.inputs[i]].dtype, shapes[i].second);
    fill_from_seed(inputs.back(), 1, shapes[i].first);
    FB_TRY(context->set_input(shapes[i].first, inputs.back()));
  }
  return median_ms(*context);
}

}  // namespace forebay::tools
