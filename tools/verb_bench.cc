// forebay bench: passes over a grid of budgets, each row beside the disk's own speed measured just before and after it.
#include <algorithm>

#include "base/check.h"
#include "context_runs.h"
#include "engine_setup.h"
#include "input_maker.h"
#include "json_out.h"
#include "machine_limits.h"
#include "plan/plan_data.h"
#include "raw_read.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

struct Limits {
  double disk = 0, link = 0, memory = 0;
  std::string disk_engine;
  bool disk_direct = false;
};

double percentile(const std::vector<double>& sorted, double p) {  // nearest rank
  const std::size_t rank = static_cast<std::size_t>(p / 100.0 * static_cast<double>(sorted.size()) + 0.999999);
  return sorted[std::min(sorted.size() - 1, rank == 0 ? 0 : rank - 1)];
}

class Bench {
 public:
  Bench(Session& session, EngineSetup setup, std::vector<NamedTensor> inputs)
      : session_(session), setup_(std::move(setup)), inputs_(std::move(inputs)) {}

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
    }
    FB_TRY(measure_disk().status());
    session_.print("{:>10} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>7} {:>7} {}\n", "budget", "bytes", "min ms", "p50 ms", "p90 ms", "p99 ms",
                   "max ms", "disk/pass", "disk", "link", "bound by");
    json::array rows;
    for (const std::string& text : budgets) {
      FB_TRY(check_interrupted());
      FB_ASSIGN(const Budget budget, Budget::parse(text));
      FB_ASSIGN(json::object row, measure_row(text, budget));
      rows.push_back(std::move(row));
    }
    session_.result["machine"] = machine_json();
    session_.result["limits"] = json::object{{"disk_gbps", limits_.disk}, {"link_gbps", limits_.link}, {"memory_gbps", limits_.memory},
                                             {"disk_engine", limits_.disk_engine}, {"disk_direct", limits_.disk_direct}};
    session_.result["rows"] = std::move(rows);
    session_.print("limits of this machine, same run: disk {:.2f} GB/s ({}{}), copy {:.2f} GB/s, memory {:.2f} GB/s\n", limits_.disk, limits_.disk_engine,
                   limits_.disk_direct ? ", direct" : ", buffered: this may be the page cache", limits_.link, limits_.memory);
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

  Result<json::object> measure_row(const std::string& text, const Budget& budget) {
    json::object row;
    row["budget"] = text;
    EngineOptions options = setup_.options;
    options.budget = budget;
    FB_ASSIGN(const DeviceMemory beside, DeviceMemory::open(options));
    auto engine = Engine::create(setup_.plan, setup_.sources, options);
    if (!engine.ok()) return refused(std::move(row), text, engine.status());
    FB_ASSIGN(const double before, measure_disk());
    RunRequest request;
    request.iterations = session_.options.has("iterations") ? static_cast<int>(session_.options.integer("iterations")) : 10;
    request.contexts = static_cast<int>(session_.options.integer("contexts"));
    request.warm_up = static_cast<int>(session_.options.integer("warm-up"));
    request.stateful = session_.options.flag("stateful");
    auto outcome = run_passes(*engine, inputs_, request);
    if (!outcome.ok()) return refused(std::move(row), text, outcome.status());
    FB_ASSIGN(const double after, measure_disk());
    RunRequest probe;  // one more pass, with times per node: what was it waiting for?
    probe.profile = true;
    probe.stateful = request.stateful;
    FB_ASSIGN(const RunOutcome profiled, run_passes(*engine, inputs_, probe));
    if (beside.known()) row["device_bytes_beside"] = beside.taken_beside(outcome->memory.committed);
    fill_row(row, text, *engine, *outcome, profiled.last, (before + after) / 2);
    return row;
  }

  Result<json::object> refused(json::object row, const std::string& text, const Status& status) {
    if (status.code() != Code::resource_exhausted) return status;
    row["refused"] = status.message();
    session_.print("{:>10} refused: {}\n", text, status.message());
    return row;
  }

  void fill_row(json::object& row, const std::string& text, const Engine& engine, const RunOutcome& outcome, const PassProfile& profile, double disk_limit) {
    const MemoryReport& memory = outcome.memory;
    std::vector<double> sorted = outcome.pass_ms;
    std::sort(sorted.begin(), sorted.end());
    const double passes = static_cast<double>(sorted.size());
    const double disk = static_cast<double>(outcome.disk_bytes) / passes, link = static_cast<double>(outcome.link_bytes) / passes;
    const double seconds = outcome.wall_ms / 1e3;
    const double disk_gbps = seconds > 0 ? static_cast<double>(outcome.disk_bytes) / seconds / 1e9 : 0;
    const double link_gbps = seconds > 0 ? static_cast<double>(outcome.link_bytes) / seconds / 1e9 : 0;
    const double disk_share = disk_limit > 0 ? disk_gbps / disk_limit : 0, link_share = limits_.link > 0 ? link_gbps / limits_.link : 0;
    double waited = 0;
    for (const PassProfile::Op& op : profile.ops) waited += op.wait_ms;
    const std::string bound = bound_by(disk, link, disk_share, link_share, profile.milliseconds > 0 ? waited / profile.milliseconds : 0);
    json::array times;
    for (const double ms : outcome.pass_ms) times.push_back(ms);
    row["budget_bytes"] = memory.budget;
    row["min_budget_bytes"] = memory.min_budget;
    row["full_budget_bytes"] = memory.full_budget;
    row["peak_arena_bytes"] = memory.peak_committed;
    row["host_cache_bytes"] = memory.host_cache;
    row["pass_ms"] = json::object{{"min", sorted.front()}, {"p50", percentile(sorted, 50)}, {"p90", percentile(sorted, 90)},
                                  {"p99", percentile(sorted, 99)}, {"max", sorted.back()}};
    row["passes"] = std::move(times);
    row["streamed_bytes"] = json::object{{"disk", disk}, {"link", link}};  // per pass
    row["disk_gbps"] = disk_gbps;
    row["disk_limit_gbps"] = disk_limit;
    row["disk_share"] = disk_share;
    row["link_share"] = link_share;
    row["bound_by"] = bound;
    row["host_cores"] = outcome.host_cores;
    row["refused"] = nullptr;
    const Engine::IoInfo io = engine.io();
    row["io"] = json::object{{"engine", io.engine}, {"direct", io.direct}, {"registered", io.registered}, {"queue_depth", io.queue_depth}};
    session_.print("{:>10} {:>12} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>12} {:>6.0f}% {:>6.1f}% {}\n", text, memory.budget, sorted.front(),
                   percentile(sorted, 50), percentile(sorted, 90), percentile(sorted, 99), sorted.back(),
                   format_size(static_cast<std::uint64_t>(disk)), disk_share * 100, link_share * 100, bound);
  }

  // Waiting under a fifth of the pass is compute. Else the tier that gave the bytes; a disk far below its limit behind coded chunks is decode.
  std::string bound_by(double disk, double link, double disk_share, double link_share, double waited) const {
    // What a device's queue waited is not in its kernels' times.
    if (link > 0 && link_share > 0.8) return "link";
    if ((disk <= 0 && link <= 0) || waited < 0.2) return "compute";
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
  std::vector<std::unique_ptr<File>> files_;
  Limits limits_;
};

}  // namespace

Status run_bench(Session& session) {
  FB_ASSIGN(EngineSetup setup, engine_setup(session));
  FB_ASSIGN(const InputRequest wanted, input_request(session));
  FB_ASSIGN(std::vector<NamedTensor> inputs, make_inputs(setup.plan, wanted));
  return Bench(session, std::move(setup), std::move(inputs)).run();
}

}  // namespace forebay::tools
