// forebay bench: passes over a grid of budgets, each row beside the disk's own speed measured just before and after it. With --prompt whole
// generations of a decoder: prompt and tokens apart.
#include <algorithm>
#include <optional>

#include "base/check.h"
#include "context_runs.h"
#include "decode_run.h"
#include "engine_setup.h"
#include "gpu_sampler.h"
#include "input_maker.h"
#include "json_out.h"
#include "machine_limits.h"
#include "plan/plan_data.h"
#include "raw_read.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

struct Limits {
  double disk = 0, link = 0, memory = 0, device_memory = 0;
  std::string disk_engine;
  bool disk_direct = false;
};

double percentile(const std::vector<double>& sorted, double p) {  // nearest rank
  const std::size_t rank = static_cast<std::size_t>(p / 100.0 * static_cast<double>(sorted.size()) + 0.999999);
  return sorted[std::min(sorted.size() - 1, rank == 0 ? 0 : rank - 1)];
}

json::object spread_json(const std::vector<double>& sorted) {
  return {{"min", sorted.front()},
          {"p50", percentile(sorted, 50)},
          {"p90", percentile(sorted, 90)},
          {"p99", percentile(sorted, 99)},
          {"max", sorted.back()}};
}

std::vector<double> sorted_times(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times;
}

// Set when whole generations are measured.
struct Generation {
  DecodeInputs inputs;
  DecodeRequest request;
};

class Bench {
 public:
  Bench(Session& session, EngineSetup setup, std::vector<NamedTensor> inputs, std::optional<Generation> generation)
      : session_(session),
        setup_(std::move(setup)),
        inputs_(std::move(inputs)),
        generation_(std::move(generation)),
        sampler_(setup_.options.device) {}

  Status run() {
    const std::vector<std::string> given = session_.options.list("budget");
    const std::vector<std::string> budgets = given.empty() ? std::vector<std::string>{"5%", "10%", "25%", "50%", "100%"} : given;
    FB_ASSIGN(files_, weight_files(setup_, session_.console));
    const double quick = session_.options.flag("quick") ? 0.1 : 0.5;
    limits_.memory = memory_read_gbps(setup_.options.threads > 0 ? setup_.options.threads : default_threads(), quick);
    if (setup_.options.device.empty() || setup_.options.device == "cpu") {
      limits_.link = copy_gbps(quick);
    } else {
      FB_ASSIGN(limits_.link, device_link_gbps(setup_.options.device, quick));
      FB_ASSIGN(limits_.device_memory, device_memory_gbps(setup_.options.device, quick));
    }
    FB_TRY(measure_disk().status());
    if (generation_) {
      session_.print("{:>10} {:>12} {:>13} {:>14} {:>10} {:>10} {:>12} {:>12} {}\n", "budget", "bytes", "first token", "prompt tok/s",
                     "p50 ms", "p99 ms", "tokens/s", "cache", "bound by");
    } else {
      session_.print("{:>10} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>7} {:>7} {}\n", "budget", "bytes", "min ms", "p50 ms",
                     "p90 ms", "p99 ms", "max ms", "disk/pass", "disk", "link", "bound by");
    }
    json::array rows;
    for (const std::string& text : budgets) {
      FB_TRY(check_interrupted());
      FB_ASSIGN(const Budget budget, Budget::parse(text));
      FB_ASSIGN(json::object row, measure_row(text, budget));
      rows.push_back(std::move(row));
    }
    session_.result["machine"] = machine_json();
    session_.result["limits"] = json::object{{"disk_gbps", limits_.disk},          {"link_gbps", limits_.link},
                                             {"memory_gbps", limits_.memory},      {"device_memory_gbps", limits_.device_memory},
                                             {"disk_engine", limits_.disk_engine}, {"disk_direct", limits_.disk_direct}};
    session_.result["rows"] = std::move(rows);
    session_.print("limits of this machine, same run: disk {:.2f} GB/s ({}{}), copy {:.2f} GB/s, memory {:.2f} GB/s\n", limits_.disk,
                   limits_.disk_engine, limits_.disk_direct ? ", direct" : ", buffered: this may be the page cache", limits_.link,
                   limits_.memory);
    if (from_page_cache_) session_.print("some weights came from the page cache: --direct on measures the disk\n");
    return {};
  }

 private:
  Result<double> measure_disk() {
    RawReadOptions options;
    // About as long as a pass over the files: a disk that gives bursts shows another rate in a second than in five.
    std::uint64_t bytes = 0;
    for (const auto& file : files_) {
      FB_ASSIGN(const FileIdentity facts, file->identity());
      bytes += facts.bytes;
    }
    options.seconds = session_.options.flag("quick") ? 0.2 : std::clamp(static_cast<double>(bytes) / 1.5e9, 1.5, 8.0);
    options.allow_uring = session_.options.text("io") != "threads" || !session_.options.flag("quick");
    FB_ASSIGN(const RawReadResult read, raw_read(files_, options));
    limits_.disk = std::max(limits_.disk, read.gbps);
    limits_.disk_engine = read.engine;
    limits_.disk_direct = read.direct;
    return read.gbps;
  }

  // The engine of the row before serves on where the budget grows: its host cache is full already. Its peak would be wrong for a smaller
  // budget.
  Status open_engine(const Budget& budget) {
    if (engine_) {
      const std::uint64_t before = engine_->memory().budget;
      auto change = engine_->set_budget(budget);
      if (change.ok() && change->wait().ok() && engine_->memory().budget >= before) return {};
      engine_.reset();
    }
    EngineOptions options = setup_.options;
    options.budget = budget;
    FB_ASSIGN(beside_, DeviceMemory::open(options));
    FB_ASSIGN(engine_, Engine::create(setup_.plan, setup_.sources, options));
    session_.result["device"] = engine_->device_name();
    return {};
  }

  Result<json::object> measure_row(const std::string& text, const Budget& budget) {
    json::object row;
    row["budget"] = text;
    const bool cold = !engine_;
    Status opened = open_engine(budget);
    if (!opened.ok()) return refused(std::move(row), text, opened);
    if (generation_) return measure_generation(std::move(row), text, *engine_);
    FB_ASSIGN(const double before, measure_disk());
    RunRequest request;
    request.iterations = session_.options.has("iterations") ? static_cast<int>(session_.options.integer("iterations")) : 10;
    request.contexts = static_cast<int>(session_.options.integer("contexts"));
    request.warm_up = static_cast<int>(session_.options.integer("warm-up"));
    request.stateful = session_.options.flag("stateful");
    sampler_.start();
    auto outcome = run_passes(*engine_, inputs_, request);
    json::value gpu = sampler_.stop();
    if (!outcome.ok()) return refused(std::move(row), text, outcome.status());
    FB_ASSIGN(const double after, measure_disk());
    RunRequest probe;  // one more pass, with times per node: what was it waiting for?
    probe.profile = true;
    probe.stateful = request.stateful;
    FB_ASSIGN(const RunOutcome profiled, run_passes(*engine_, inputs_, probe));
    if (beside_.known()) row["device_bytes_beside"] = beside_.taken_beside(outcome->memory.committed);
    fill_row(row, text, *engine_, *outcome, profiled.last, (before + after) / 2);
    if (cold && request.warm_up > 0) {  // the weights come for the first time: from the page cache what it holds, but with --direct on
      const double bytes = static_cast<double>(outcome->first_disk_bytes), seconds = outcome->first_pass_ms / 1e3;
      row["first_pass"] = json::object{{"ms", outcome->first_pass_ms},
                                       {"disk_bytes", bytes},
                                       {"over_disk_limit", bytes > 0 ? seconds * before * 1e9 / bytes : 0},
                                       {"load", load_json(engine_->io())}};
    }
    add_gpu(row, text, std::move(gpu));
    return row;
  }

  // What the GPU's clocks did: a row with lower clocks than the load asks for is no figure.
  void add_gpu(json::object& row, const std::string& text, json::value gpu) {
    const bool throttled = gpu.is_object() && gpu.as_object().at("throttled").as_bool();
    if (throttled) session_.print("{:>10} THROTTLED: {}\n", text, json::serialize(gpu.as_object().at("reasons")));
    row["throttled"] = throttled;
    row["gpu"] = std::move(gpu);
  }

  Result<json::object> measure_generation(json::object row, const std::string& text, Engine& engine) {
    sampler_.start();
    auto outcome = run_decode(engine, generation_->inputs, generation_->request);
    json::value gpu = sampler_.stop();
    if (!outcome.ok()) return refused(std::move(row), text, outcome.status());
    const std::vector<double> first = sorted_times(outcome->first_token_ms), prompt = sorted_times(outcome->prefill.pass_ms);
    const double batch = static_cast<double>(generation_->request.batch);
    const double prompt_rate = batch * static_cast<double>(generation_->request.prompt) / percentile(prompt, 50) * 1e3;
    add_memory(row, outcome->memory);
    row["prompt_tokens"] = generation_->request.prompt;
    row["decode_tokens"] = generation_->request.tokens;
    row["batch"] = generation_->request.batch;
    row["state_bytes"] = outcome->memory.state;
    row["first_token_ms"] = spread_json(first);
    row["prefill"] = phase_json(outcome->prefill, prompt);
    row["prefill"].as_object()["tokens_per_second"] = prompt_rate;
    double token_rate = 0;
    std::vector<double> times{0};
    if (!outcome->decode.pass_ms.empty()) {
      times = sorted_times(outcome->decode.pass_ms);
      token_rate = batch * static_cast<double>(times.size()) / outcome->decode.total_ms() * 1e3;
      row["decode"] = phase_json(outcome->decode, times);
      row["decode"].as_object()["tokens_per_second"] = token_rate;
    }
    json::array tokens;
    for (const std::int64_t token : outcome->tokens) tokens.push_back(token);
    row["tokens"] = std::move(tokens);
    row["refused"] = nullptr;
    const auto& last = row[outcome->decode.pass_ms.empty() ? "prefill" : "decode"].as_object();
    session_.print("{:>10} {:>12} {:>10.2f} ms {:>14.1f} {:>10.3f} {:>10.3f} {:>12.2f} {:>12} {}\n", text, outcome->memory.budget,
                   percentile(first, 50), prompt_rate, percentile(times, 50), percentile(times, 99), token_rate,
                   format_size(outcome->memory.state), std::string(last.at("bound_by").as_string()));
    add_gpu(row, text, std::move(gpu));
    return row;
  }

  // A kind of pass of a generation. What the host waited for is not known here: what came through the tiers decides.
  json::object phase_json(const PhaseOutcome& phase, const std::vector<double>& sorted) const {
    const double passes = static_cast<double>(sorted.size()), seconds = phase.total_ms() / 1e3;
    const double disk = static_cast<double>(phase.disk_bytes) / passes, link = static_cast<double>(phase.link_bytes) / passes;
    const double link_share = limits_.link > 0 ? link * passes / seconds / 1e9 / limits_.link : 0;
    const double disk_share = limits_.disk > 0 ? disk * passes / seconds / 1e9 / limits_.disk : 0;
    const bool waits = link_share > 0.5 || disk_share > 0.5;
    return {{"pass_ms", spread_json(sorted)},
            {"streamed_bytes", json::object{{"disk", disk}, {"link", link}}},
            {"disk_share", disk_share},
            {"link_share", link_share},
            {"bound_by", bound_by(disk, link, disk_share, link_share, waits ? 1 : 0, 0)}};
  }

  static void add_memory(json::object& row, const MemoryReport& memory) {
    row["budget_bytes"] = memory.budget;
    row["min_budget_bytes"] = memory.min_budget;
    row["full_budget_bytes"] = memory.full_budget;
    row["peak_arena_bytes"] = memory.peak_committed;
    row["host_cache_bytes"] = memory.host_cache;
  }

  Result<json::object> refused(json::object row, const std::string& text, const Status& status) {
    if (status.code() != Code::resource_exhausted) return status;
    row["refused"] = status.message();
    session_.print("{:>10} refused: {}\n", text, status.message());
    return row;
  }

  void fill_row(json::object& row, const std::string& text, const Engine& engine, const RunOutcome& outcome, const PassProfile& profile,
                double disk_limit) {
    const MemoryReport& memory = outcome.memory;
    const std::vector<double> sorted = sorted_times(outcome.pass_ms);
    const double passes = static_cast<double>(sorted.size());
    const double disk = static_cast<double>(outcome.disk_bytes) / passes, link = static_cast<double>(outcome.link_bytes) / passes;
    const double seconds = outcome.wall_ms / 1e3;
    const double disk_gbps = seconds > 0 ? static_cast<double>(outcome.disk_bytes) / seconds / 1e9 : 0;
    const double link_gbps = seconds > 0 ? static_cast<double>(outcome.link_bytes) / seconds / 1e9 : 0;
    const double disk_share = disk_limit > 0 ? disk_gbps / disk_limit : 0, link_share = limits_.link > 0 ? link_gbps / limits_.link : 0;
    double waited = 0, read = 0;
    for (const PassProfile::Op& op : profile.ops) {
      waited += op.wait_ms;
      if (op.op != "Gather") read += static_cast<double>(op.weight_bytes);  // a gather reads rows
    }
    const double memory_limit = limits_.device_memory > 0 ? limits_.device_memory : limits_.memory;
    const double memory_share = memory_limit > 0 ? read / percentile(sorted, 50) / 1e6 / memory_limit : 0;
    const std::string bound =
        bound_by(disk, link, disk_share, link_share, profile.milliseconds > 0 ? waited / profile.milliseconds : 0, memory_share);
    json::array times;
    for (const double ms : outcome.pass_ms) times.push_back(ms);
    add_memory(row, memory);
    row["arena"] = json::object{
        {"state", memory.state}, {"activations", memory.activations}, {"ring", memory.ring}, {"resident", memory.resident_weights}};
    row["pass_ms"] = spread_json(sorted);
    row["passes"] = std::move(times);
    row["streamed_bytes"] = json::object{{"disk", disk}, {"link", link}};  // per pass
    row["disk_gbps"] = disk_gbps;
    row["disk_limit_gbps"] = disk_limit;
    row["disk_share"] = disk_share;
    row["link_share"] = link_share;
    row["memory_share"] = memory_share;
    row["host_cores"] = outcome.wall_ms > 0 ? outcome.cpu_ms / outcome.wall_ms : 0;
    row["bound_by"] = bound;
    row["refused"] = nullptr;
    const Engine::IoInfo io = engine.io();
    from_page_cache_ = from_page_cache_ || io.page_cache_bytes > 0;
    row["io"] = json::object{{"engine", io.engine},
                             {"direct", io.direct},
                             {"registered", io.registered},
                             {"queue_depth", io.queue_depth},
                             {"page_cache_bytes", io.page_cache_bytes}};
    session_.print("{:>10} {:>12} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>12} {:>6.0f}% {:>6.1f}% {}\n", text, memory.budget,
                   sorted.front(), percentile(sorted, 50), percentile(sorted, 90), percentile(sorted, 99), sorted.back(),
                   format_size(static_cast<std::uint64_t>(disk)), disk_share * 100, link_share * 100, bound);
  }

  // Waiting under a fifth of the pass is compute, or memory where weights are read at over 70 % of its rate. Else the tier that gave the
  // bytes; a disk far below its limit behind coded chunks is decode.
  std::string bound_by(double disk, double link, double disk_share, double link_share, double waited, double memory_share) const {
    // What a device's queue waited is not in its kernels' times.
    if (link > 0 && link_share > 0.8) return "link";
    if ((disk <= 0 && link <= 0) || waited < 0.2) return memory_share > 0.7 ? "memory" : "compute";
    if (disk < link) return "link";
    return disk_share < 0.6 && coded() ? "decode" : "disk";
  }
  bool coded() const {
    for (const plan::StoredChunk& chunk : setup_.plan.data().embedded) {
      if (chunk.codec != 0) return true;
    }
    for (const auto& file : files_) {
      if (file->name().ends_with(".shard")) return true;
    }
    return false;
  }

  Session& session_;
  EngineSetup setup_;
  std::vector<NamedTensor> inputs_;
  std::optional<Generation> generation_;
  GpuSampler sampler_;
  DeviceMemory beside_;  // before engine_ was made
  std::optional<Engine> engine_;
  std::vector<std::unique_ptr<File>> files_;
  Limits limits_;
  bool from_page_cache_ = false;
};

// --prompt, --decode. The batch is that of --shapes.
Result<std::optional<Generation>> generation_of(const Session& session, const Plan& plan, const InputRequest& wanted) {
  const ParsedOptions& given = session.options;
  if (!given.has("prompt") && !given.has("decode")) return std::optional<Generation>();
  if (!wanted.files.empty()) return Status(Code::invalid_argument, "--prompt and --decode make the inputs themselves: leave --input out");
  if (given.integer("contexts") > 1) return Status(Code::invalid_argument, "--prompt and --decode measure one context");
  FB_ASSIGN(DecodeInputs inputs, DecodeInputs::of(plan.inputs(), plan.outputs(), plan.state_pairs()));
  DecodeRequest request;
  request.prompt = given.integer("prompt");
  request.tokens = given.integer("decode");
  request.iterations = given.has("iterations") ? static_cast<int>(given.integer("iterations")) : 3;
  request.seed = wanted.seed;
  if (const auto shape = wanted.shapes.find(inputs.token_input()); shape != wanted.shapes.end() && !shape->second.empty())
    request.batch = shape->second[0];
  if (request.batch < 1)
    return Status(Code::invalid_argument, fmt::format("--shapes: \"{}\" needs a batch of 1 or more", inputs.token_input()));
  return std::optional<Generation>(Generation{std::move(inputs), request});
}

}  // namespace

Status run_bench(Session& session) {
  FB_ASSIGN(EngineSetup setup, engine_setup(session));
  FB_ASSIGN(const InputRequest wanted, input_request(session));
  FB_ASSIGN(std::optional<Generation> generation, generation_of(session, setup.plan, wanted));
  FB_ASSIGN(std::vector<NamedTensor> inputs, make_inputs(setup.plan, wanted));
  return Bench(session, std::move(setup), std::move(inputs), std::move(generation)).run();
}

}  // namespace forebay::tools
