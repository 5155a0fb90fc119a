// forebay bench: passes over a grid of budgets, each row beside the disk's own speed measured before, between and after them. With --prompt
// whole generations of a decoder: prompt and tokens apart.
#include <algorithm>
#include <optional>

#include "base/check.h"
#include "context_runs.h"
#include "decode_run.h"
#include "disk_readings.h"
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

// NVIDIA's driver keeps a page table of page-locked memory on the device: 8 bytes for 4 KiB, in whatever pages the host has it.
constexpr std::uint64_t kLockedPerDeviceByte = 512;
constexpr double kColdReading = 3;  // seconds, before and behind the first pass

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
        sampler_(setup_.options.device),
        readings_(files_, session.options.text("io") != "threads" || !session.options.flag("quick")) {}

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
    FB_TRY(read_disk(0.5));
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
  // About as long as a pass: a disk that gives bursts shows another rate in a second than in five.
  Status read_disk(double seconds) {
    const double least = session_.options.flag("quick") ? 0.2 : 1, most = session_.options.flag("quick") ? 1 : 4;
    FB_TRY(readings_.take(std::clamp(seconds, least, most)));
    limits_.disk_engine = readings_.last().engine;
    limits_.disk_direct = readings_.last().direct;
    all_readings_.push_back(readings_.last().gbps);
    limits_.disk = disk_limit(all_readings_).median;
    return {};
  }

  // Readings of the disk between the passes of a row that reads it.
  Status beside(Moment moment, const PassProfile& last, bool cold) {
    const std::uint64_t read = engine_->io().disk_bytes;
    const double seconds = last.milliseconds / 1e3;
    if (moment == Moment::first || moment == Moment::warm) {
      if (cold) FB_TRY(read_disk(kColdReading));
      if (moment == Moment::warm) first_readings_ = readings_.gbps();
    } else if (moment == Moment::measured) {
      readings_.clear();
      row_ = {};
      row_.reads = last.disk_bytes > 0;
      if (row_.reads) FB_TRY(read_disk(seconds));
    } else {
      row_.disk_bytes += read - row_.seen;
      row_.bytes += read - row_.seen;
      row_.since += seconds;
      if (row_.reads && (moment == Moment::end || row_.since >= 1)) {
        FB_TRY(read_disk(row_.since));
        row_.rates.push_back(static_cast<double>(row_.bytes) / row_.since / 1e9);
        row_.bytes = 0;
        row_.since = 0;
      }
    }
    row_.seen = engine_->io().disk_bytes;  // what is read ahead meanwhile is in no pass's time
    return {};
  }

  // The engine of the row before serves on where the budget grows: its host cache is full already. Its peak would be wrong for a smaller
  // budget.
  Status open_engine(const Budget& budget) {
    if (engine_) {
      const std::uint64_t before = engine_->memory().budget;
      auto change = engine_->set_budget(budget);
      if (change.ok() && change->wait().ok() && engine_->memory().budget >= before) return {};
      engine_.reset();
      locked_ = 0;
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
    readings_.clear();
    RunRequest request;
    request.iterations = session_.options.has("iterations") ? static_cast<int>(session_.options.integer("iterations")) : 10;
    request.contexts = static_cast<int>(session_.options.integer("contexts"));
    request.warm_up = static_cast<int>(session_.options.integer("warm-up"));
    request.stateful = session_.options.flag("stateful");
    request.fill_host_cache = request.warm_up > 0;
    request.beside = [this, cold](Moment moment, const PassProfile& last) { return beside(moment, last, cold); };
    sampler_.start();
    auto outcome = run_passes(*engine_, inputs_, request);
    json::value gpu = sampler_.stop();
    if (!outcome.ok()) return refused(std::move(row), text, outcome.status());
    const std::vector<double> readings = readings_.gbps();
    RunRequest probe;  // one more pass, with times per node: what was it waiting for?
    probe.profile = true;
    probe.stateful = request.stateful;
    FB_ASSIGN(const RunOutcome profiled, run_passes(*engine_, inputs_, probe));
    locked_ = std::max(locked_, outcome->memory.host_cache);
    if (beside_.known()) {
      // Of a large host cache's page tables a part lies within the budget, where the arena leaves room for it.
      const MemoryReport& memory = outcome->memory;
      row["device_bytes_beside"] = beside_.taken_beside(memory.committed);
      row["device_bytes_beyond_budget"] = beside_.taken_beside(std::max(memory.committed, std::min(memory.budget, memory.full_budget)));
      row["host_cache_page_tables"] = locked_ / kLockedPerDeviceByte;  // of those
    }
    fill_row(row, text, *engine_, *outcome, profiled.last, readings);
    if (cold && request.warm_up > 0) {  // the weights come for the first time: from the page cache what it holds, but with --direct on
      const double bytes = static_cast<double>(outcome->first_disk_bytes), seconds = outcome->first_pass_ms / 1e3;
      const double over = bytes > 0 ? seconds * disk_limit(first_readings_).median * 1e9 / bytes : 0;
      row["first_pass"] = json::object{{"ms", outcome->first_pass_ms},
                                       {"disk_bytes", bytes},
                                       {"over_disk_limit", over},
                                       {"disk_limit", disk_limit_json(first_readings_)},
                                       {"load", load_json(engine_->io())}};
      session_.print("{:>10} first pass {:.0f} ms: {:.2f} times what its {} take at the disk's {:.2f} GB/s\n", "", outcome->first_pass_ms,
                     over, format_size(outcome->first_disk_bytes), disk_limit(first_readings_).median);
      warn_unsteady(first_readings_);
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

  // Readings that differ are no limit: the row says so.
  void warn_unsteady(const std::vector<double>& readings) {
    const DiskLimit limit = disk_limit(readings);
    if (limit.steady()) return;
    session_.print("{:>10} the disk's own readings beside it differ by {:.0f}%: {:.2f} to {:.2f} GB/s\n", "", limit.spread() * 100,
                   limit.low, limit.high);
  }

  void fill_row(json::object& row, const std::string& text, const Engine& engine, const RunOutcome& outcome, const PassProfile& profile,
                const std::vector<double>& readings) {
    const MemoryReport& memory = outcome.memory;
    const std::vector<double> sorted = sorted_times(outcome.pass_ms);
    const double passes = static_cast<double>(sorted.size());
    const double disk = static_cast<double>(outcome.disk_bytes) / passes, link = static_cast<double>(outcome.link_bytes) / passes;
    const double seconds = outcome.wall_ms / 1e3;
    const double disk_gbps = seconds > 0 ? static_cast<double>(row_.disk_bytes) / seconds / 1e9 : 0;
    const double link_gbps = seconds > 0 ? static_cast<double>(outcome.link_bytes) / seconds / 1e9 : 0;
    const double limit = disk_limit(readings).median;
    const double disk_share = tools::disk_share(row_.rates, readings), link_share = limits_.link > 0 ? link_gbps / limits_.link : 0;
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
    row["disk_limit_gbps"] = limit;
    row["disk_limit"] = disk_limit_json(readings);
    row["disk_share"] = disk_share;
    row["link_share"] = link_share;
    row["memory_share"] = memory_share;
    row["host_cores"] = outcome.wall_ms > 0 ? outcome.cpu_ms / outcome.wall_ms : 0;
    row["bound_by"] = bound;
    row["refused"] = nullptr;
    const Engine::IoInfo io = engine.io();
    from_page_cache_ = from_page_cache_ || io.page_cache_bytes > 0;
    const double cached =
        io.host_cache_wanted > 0 ? static_cast<double>(io.host_cache_bytes) / static_cast<double>(io.host_cache_wanted) : 1;
    row["host_cache_filled"] = cached;
    row["io"] = json::object{{"engine", io.engine},
                             {"direct", io.direct},
                             {"registered", io.registered},
                             {"queue_depth", io.queue_depth},
                             {"no_room_ms", io.no_room_ms},
                             {"page_cache_bytes", io.page_cache_bytes}};
    session_.print("{:>10} {:>12} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>12} {:>6.0f}% {:>6.1f}% {}\n", text, memory.budget,
                   sorted.front(), percentile(sorted, 50), percentile(sorted, 90), percentile(sorted, 99), sorted.back(),
                   format_size(static_cast<std::uint64_t>(disk)), disk_share * 100, link_share * 100, bound);
    if (disk > 0) warn_unsteady(readings);
    if (cached < 0.995) session_.print("{:>10} host cache {:.0f}% filled: later passes read less from the disk\n", "", cached * 100);
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
  DiskReadings readings_;  // of the row
  std::vector<double> all_readings_, first_readings_;
  struct {
    std::uint64_t disk_bytes = 0, seen = 0;  // read in passes; in all until the last look
    std::uint64_t bytes = 0;                 // of disk_bytes since the last reading,
    double since = 0;                        // seconds of passes since then
    std::vector<double> rates;               // of the passes between two readings
    bool reads = false;
  } row_;
  Limits limits_;
  bool from_page_cache_ = false;
  std::uint64_t locked_ = 0;  // host cache of engine_, at its largest: it gives none back
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
  request.warm_up = static_cast<int>(given.integer("warm-up"));
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
