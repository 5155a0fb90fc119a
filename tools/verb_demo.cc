// forebay demo: the whole road on a small model of its own, with the proof that bits are equal at every budget. No network, no GPU.
#include <chrono>

#include "base/check.h"
#include "base/file.h"
#include "context_runs.h"
#include "forebay/builder.h"
#include "forebay/refitter.h"
#include "input_maker.h"
#include "json_out.h"
#include "session.h"
#include "synth/synth_llama.h"
#include "temporary_folder.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

constexpr std::string_view kDemoParams = "100M";

class Demo {
 public:
  Demo(Session& session, std::string folder) : session_(session), folder_(std::move(folder)) {}

  Status run() {
    FB_TRY(make_files());
    FB_ASSIGN(const Plan stripped, Plan::load(path("model.plan")));
    FB_ASSIGN(const Plan refitted, Plan::load(path("refitted.plan")));
    FB_ASSIGN(inputs_, make_inputs(stripped, {.files = {}, .shapes = {}, .seed = 1}));
    session_.print("\n{:<14} {:<9} {:<8} {:>12} {:>12} {:>12} {:>10} {}\n", "weights", "budget", "reads", "bytes", "peak arena", "streamed", "pass ms", "bits");
    const WeightSources onnx{.paths = {path("model.onnx")}, .tensors = {}, .map_file = {}, .strict = false, .finite = false, .allow_inexact = {}};
    WeightSources raw = onnx, zstd = onnx, safetensors = onnx;
    raw.paths = {path("shards-raw")};
    zstd.paths = {path("shards-zstd")};
    safetensors.paths = {path("model.safetensors.index.json")};
    FB_TRY(row("onnx", stripped, onnx, 1.0, "auto"));
    for (const double share : {0.0, 0.15, 0.5}) {
      FB_TRY(row("onnx", stripped, onnx, share, "auto"));
      FB_TRY(row("shards, raw", stripped, raw, share, "uring"));
      FB_TRY(row("shards, zstd", stripped, zstd, share, "threads"));
    }
    FB_TRY(row("safetensors", stripped, safetensors, 0.25, "threads"));
    FB_TRY(row("in the plan", refitted, {}, 0.25, "auto"));
    FB_TRY(row("in the plan", refitted, {}, 1.0, "auto"));
    return conclude();
  }

 private:
  std::string path(const std::string& name) const { return join_path(folder_, name); }
  template <typename F>
  Status step(const char* name, F&& work) {
    FB_TRY(check_interrupted());
    const auto start = std::chrono::steady_clock::now();
    FB_ASSIGN(const std::string detail, work());
    session_.console.clear_progress();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    steps_.push_back(json::object{{"step", name}, {"seconds", seconds}, {"detail", detail}});
    session_.print("{:<14} {:>6.2f} s  {}\n", name, seconds, detail);
    return {};
  }

  Status make_files() {
    const int threads = static_cast<int>(session_.options.integer("threads"));
    FB_TRY(step("synth", [&]() -> Result<std::string> {
      SynthOptions options;
      options.params = session_.options.has("params") ? session_.options.text("params") : std::string(kDemoParams);
      options.seed = static_cast<std::uint64_t>(session_.options.integer("seed"));
      options.threads = threads;
      options.progress = session_.console.progress();
      FB_ASSIGN(const SynthReport report, synth_llama(posix_file_system(), folder_, options));
      return fmt::format("a decoder of {} bf16 parameters, {} in ONNX + safetensors", report.shape.parameters(), format_size(report.tensor_bytes));
    }));
    FB_TRY(step("build --strip", [&]() -> Result<std::string> {
      BuildOptions options;
      options.strip = true;
      options.threads = threads;
      options.logger = &session_.console;
      options.progress = session_.console.progress();
      FB_ASSIGN(const BuildReport report, build(path("model.onnx"), path("model.plan"), options));
      return fmt::format("a plan of {} without the {} of weights", format_size(report.plan_bytes), format_size(report.model_weight_bytes));
    }));
    FB_TRY(pack("pack raw", "raw", "shards-raw"));
    FB_TRY(pack("pack zstd", "zstd", "shards-zstd"));
    return step("refit", [&]() -> Result<std::string> {
      FB_ASSIGN(Plan plan, Plan::load(path("model.plan")));
      Refitter refitter(std::move(plan), refitter_options());
      WeightSources sources;
      sources.paths = {path("model.safetensors.index.json")};
      FB_ASSIGN(const RefitReport report, refitter.embed(sources, path("refitted.plan")));
      return fmt::format("{} written into a plan, from safetensors", format_size(report.bytes_written));
    });
  }

  Refitter::Options refitter_options() {
    Refitter::Options options;
    options.threads = static_cast<int>(session_.options.integer("threads"));
    options.logger = &session_.console;
    options.progress = session_.console.progress();
    return options;
  }

  Status pack(const char* name, const std::string& codec, const std::string& target) {
    return step(name, [&]() -> Result<std::string> {
      FB_ASSIGN(Plan plan, Plan::load(path("model.plan")));
      Refitter refitter(std::move(plan), refitter_options());
      WeightSources sources;
      sources.paths = {path("model.onnx")};
      FB_ASSIGN(const PackReport report, refitter.pack(sources, path(target), codec));
      return fmt::format("{} stored for {}", format_size(report.stored_bytes), format_size(report.raw_bytes));
    });
  }

  // `share` of the way from the minimum (0) to everything resident (1).
  Status row(const char* weights, const Plan& plan, const WeightSources& sources, double share, const std::string& io) {
    FB_TRY(check_interrupted());
    EngineOptions options;
    options.budget = Budget::unlimited();
    options.io = io;
    options.threads = static_cast<int>(session_.options.integer("threads"));
    options.logger = &session_.console;
    auto engine = Engine::create(plan, sources, options);
    if (!engine.ok() && io == "uring" && engine.status().code() == Code::unavailable) {  // no io_uring here: said once by the console
      options.io = "auto";
      engine = Engine::create(plan, sources, options);
    }
    FB_TRY(engine.status());
    if (share < 1.0) {
      std::vector<std::pair<std::string, Shape>> shapes;
      for (const NamedTensor& input : inputs_) shapes.emplace_back(input.name, input.tensor.shape());
      FB_ASSIGN(const Engine::Sizes sizes, engine->sizes_for_shapes(shapes));
      const double range = static_cast<double>(sizes.full_budget - sizes.min_budget);
      options.budget = Budget::of_bytes(sizes.min_budget + static_cast<std::uint64_t>(share * range));
      engine = Engine::create(plan, sources, options);
      FB_TRY(engine.status());
    }
    RunRequest request;
    request.warm_up = 1;
    request.iterations = 2;
    FB_ASSIGN(RunOutcome outcome, run_passes(*engine, inputs_, request));
    const MemoryReport& memory = outcome.memory;
    const std::uint64_t streamed = (outcome.disk_bytes + outcome.link_bytes) / outcome.pass_ms.size();
    bool equal = true;
    if (reference_.empty()) {
      reference_ = std::move(outcome.outputs);
      numerics_ = engine->numerics_id();
    } else {
      for (std::size_t i = 0; i < reference_.size(); ++i) equal = equal && same_bytes(reference_[i].tensor, outcome.outputs[i].tensor);
    }
    const bool within = memory.peak_committed <= memory.budget;
    equal_ = equal_ && equal;
    within_ = within_ && within;
    rows_.push_back(json::object{{"weights", weights}, {"io", engine->io().engine}, {"budget_bytes", memory.budget}, {"peak_arena_bytes", memory.peak_committed},
                                 {"streamed_bytes", streamed}, {"pass_ms", outcome.pass_ms.back()}, {"equal", equal}});
    if (streamed > 0) ++streaming_;
    const double percent = memory.full_budget == 0 ? 100 : 100.0 * static_cast<double>(memory.budget) / static_cast<double>(memory.full_budget);
    session_.print("{:<14} {:>7.1f} % {:<8} {:>12} {:>12} {:>12} {:>10.2f} {}\n", weights, percent, engine->io().engine, memory.budget,
                   memory.peak_committed, streamed, outcome.pass_ms.back(), equal ? "equal" : "DIFFERENT");
    return {};
  }

  Status conclude() {
    session_.result["numerics_id"] = numerics_;
    session_.result["steps"] = std::move(steps_);
    session_.result["rows"] = std::move(rows_);
    session_.result["streaming_rows"] = streaming_;
    session_.result["equal"] = equal_;
    session_.result["within_budget"] = within_;
    session_.result["outputs"] = json::object{{reference_[0].name, tensor_json(reference_[0].tensor)}};
    if (!equal_) return Status(Code::internal, "outputs differ between budgets");
    if (!within_) return Status(Code::internal, "an arena grew above its budget");
    session_.print("\nall runs gave the same {} output tensors, bit for bit, within their budgets; {} of them streamed\n", reference_.size(), streaming_);
    return {};
  }

  Session& session_;
  std::string folder_, numerics_;
  std::vector<NamedTensor> inputs_, reference_;
  std::uint64_t streaming_ = 0;
  bool equal_ = true, within_ = true;
  json::array steps_, rows_;
};

}  // namespace

Status run_demo(Session& session) {
  const std::string keep = session.options.text("keep");
  if (!keep.empty()) {
    FB_TRY(posix_file_system().make_folder(keep));
    return Demo(session, keep).run();
  }
  FB_ASSIGN(const TemporaryFolder work, TemporaryFolder::create("", false));
  return Demo(session, work.path()).run();
}

}  // namespace forebay::tools
