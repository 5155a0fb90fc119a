// forebay run: passes under a budget; outputs as .npy and as digests.
#include <algorithm>
#include <mutex>

#include "base/check.h"
#include "base/npy.h"
#include "budget_sweep.h"
#include "context_runs.h"
#include "engine_setup.h"
#include "input_maker.h"
#include "json_out.h"
#include "trace_file.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

// Writes each debug tensor as NAME.debugK.npy, K counting its writes. The first failure is kept and ends the writing.
class DebugWriter {
 public:
  explicit DebugWriter(std::string folder) : folder_(std::move(folder)) {}
  void write(const DebugTensor& seen) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!status_.ok()) return;
    const std::uint64_t number = counts_[std::string(seen.name)]++;
    const std::string file = fmt::format("{}.debug{}.npy", value_file_name(std::string(seen.name)), number);
    status_ = write_npy(posix_file_system(), join_path(folder_, file), seen.tensor);
    ++written_;
  }
  Status status() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return status_;
  }
  std::uint64_t written() const { return written_; }

 private:
  std::string folder_;
  std::mutex mutex_;
  Status status_;
  std::map<std::string, std::uint64_t> counts_;
  std::uint64_t written_ = 0;
};

Status write_outputs(Session& session, const std::vector<NamedTensor>& outputs, const std::string& folder) {
  json::object digests;
  for (const NamedTensor& output : outputs) {
    json::object one = tensor_json(output.tensor);
    session.print("{:<32} {:<5} {:<20} sha256 {}\n", output.name, dtype_name(output.tensor.dtype()), output.tensor.shape().to_string(),
                  std::string_view(one["sha256"].as_string()));
    if (!folder.empty()) {
      const std::string path = join_path(folder, value_file_name(output.name) + ".npy");
      FB_TRY(write_npy(posix_file_system(), path, output.tensor));
      one["file"] = path;
    }
    digests[output.name] = std::move(one);
  }
  session.result["outputs"] = std::move(digests);
  return {};
}

void report(Session& session, const Engine& engine, const RunOutcome& outcome) {
  const MemoryReport& memory = outcome.memory;
  session.result["device"] = engine.device_name();
  session.result["numerics_id"] = engine.numerics_id();
  add_memory(session.result, memory);
  session.result["streamed_bytes"] = json::object{{"disk", outcome.disk_bytes}, {"link", outcome.link_bytes}};
  session.result["gathered_bytes"] = outcome.gathered_bytes;
  json::array times;
  for (const double ms : outcome.pass_ms) times.push_back(ms);
  session.result["pass_ms"] = std::move(times);
  session.result["generation"] = engine.generation();
  session.result["integrity"] = engine.integrity();
  const Engine::IoInfo io = engine.io();
  session.result["io"] = json::object{{"engine", io.engine},           {"why", io.why},
                                      {"direct", io.direct},           {"registered", io.registered},
                                      {"queue_depth", io.queue_depth}, {"page_cache_bytes", io.page_cache_bytes},
                                      {"no_room_ms", io.no_room_ms}};
  session.result["load"] = load_json(io);
  std::vector<double> sorted = outcome.pass_ms;
  std::sort(sorted.begin(), sorted.end());
  session.print("budget {} (minimum {}, nothing streams from {}, full {}); peak arena {}\n", format_size(memory.budget), format_size(memory.min_budget),
                format_size(memory.no_stream_budget), format_size(memory.full_budget), format_size(memory.peak_committed));
  session.print("{} pass{}, median {:.3f} ms; {} from disk, {} from host memory; reads by {}{}\n", sorted.size(),
                sorted.size() == 1 ? "" : "es", sorted[sorted.size() / 2], format_size(outcome.disk_bytes), format_size(outcome.link_bytes),
                io.engine, io.direct ? ", direct" : ", buffered");
  if (io.load_ms > 0) {
    session.print("weights came in {:.1f} ms: {}, {:.2f} GB/s; {} were read from the page cache\n", io.load_ms,
                  format_size(io.loaded_bytes), static_cast<double>(io.loaded_bytes) / io.load_ms / 1e6, format_size(io.page_cache_bytes));
  }
  session.print("numerics {}\n", engine.numerics_id());
}

}  // namespace

Status run_run(Session& session) {
  FB_ASSIGN(EngineSetup setup, engine_setup(session));
  FB_ASSIGN(const InputRequest wanted, input_request(session));
  FB_ASSIGN(const std::vector<NamedTensor> inputs, make_inputs(setup.plan, wanted));
  const std::string folder = session.options.text("output-dir"), profile = session.options.text("profile"), trace = session.options.text("trace");
  RunRequest request;
  request.iterations = static_cast<int>(session.options.integer("iterations"));
  request.contexts = static_cast<int>(session.options.integer("contexts"));
  request.stateful = session.options.flag("stateful");
  request.profile = !profile.empty() || !trace.empty();
  request.debug_names = session.options.list("debug-tensors");
  DebugWriter debug(folder);
  if (!request.debug_names.empty()) {
    if (folder.empty()) return Status(Code::invalid_argument, "--debug-tensors needs --output-dir DIR");
    if (request.debug_names == std::vector<std::string>{"all"}) request.debug_names.clear();
    request.debug = [&debug](const DebugTensor& seen) { debug.write(seen); };
  }
  if (!folder.empty()) FB_TRY(posix_file_system().make_folder(folder));
  FB_ASSIGN(DeviceMemory beside, DeviceMemory::open(setup.options));
  FB_ASSIGN(Engine engine, Engine::create(setup.plan, setup.sources, setup.options));
  FB_ASSIGN(const RunOutcome outcome, run_passes(engine, inputs, request));
  FB_TRY(debug.status());
  report(session, engine, outcome);
  if (beside.known()) session.result["device_bytes_beside"] = beside.taken_beside(engine.memory().committed);
  FB_TRY(write_outputs(session, outcome.outputs, folder));
  if (const int sweep = static_cast<int>(session.options.integer("sweep")); sweep > 0) FB_TRY(sweep_budgets(session, engine, inputs, sweep));
  if (debug.written() > 0) session.result["debug_tensors"] = debug.written();
  if (!profile.empty()) FB_TRY(write_profile(profile, outcome.last));
  if (!trace.empty()) FB_TRY(write_trace(trace, outcome.last));
  return {};
}

}  // namespace forebay::tools
