// forebay estimate: minimum, no-stream and full budget, and what a pass would take at several budgets. Reads headers and tables, never a
// payload. The sizes are an engine's, with the plan's states bound (`run --stateful`) and raw chunks, or those of the shards given. On a
// device other than the CPU a pass of its kernels, without the weights, is timed: with states bound where --stateful is given, else as
// `run` and `bench` make it.
#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "builder/build.h"
#include "engine_setup.h"
#include "input_maker.h"
#include "json_out.h"
#include "machine_limits.h"
#include "onnx/onnx_model.h"
#include "plan/plan_io.h"
#include "raw_read.h"
#include "refit/catalog.h"
#include "refit/shard_reader.h"
#include "runtime/arena_layout.h"
#include "runtime/compiled_plan.h"
#include "runtime/device_library.h"
#include "runtime/prepared_pass.h"
#include "runtime/state_room.h"
#include "stream/bound_generation.h"
#include "stream/residency.h"
#include "stream/streamer.h"
#include "temporary_folder.h"
#include "trial_pass.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

constexpr double kAssumedDiskGbps = 2.0, kAssumedMemoryGbps = 10.0;  // --quick
constexpr double kAssumedLinkGbps = 50.0, kAssumedDeviceMemoryGbps = 3000.0;
constexpr std::uint64_t kProbeBytes = 256ull << 20;

#ifdef FOREBAY_RUNTIME_ONLY
Result<std::shared_ptr<const plan::Plan>> open_structure(Session& session) {
  return plan::read_plan(posix_file_system(), session.operand(), nullptr);
}
#else
Result<std::shared_ptr<const plan::Plan>> open_structure(Session& session) {
  const std::string& path = session.operand();
  if (!path.ends_with(".onnx")) return plan::read_plan(posix_file_system(), path, nullptr);
  FB_ASSIGN(onnx::Model model, onnx::read_model(posix_file_system(), path, {}));
  ThreadPool pool(1);
  FB_ASSIGN(builder::Output built, builder::build(std::move(model), {}, pool, session.console));
  return std::make_shared<const plan::Plan>(std::move(built.plan));
}
#endif

struct Rates {
  double disk = kAssumedDiskGbps, memory = kAssumedMemoryGbps;  // memory: of the device
  double link = 0;                                              // from the host cache to the device; 0: the device reads host memory
  double resident_ms = 0;                                       // a pass with nothing to stream; 0: its bytes over `memory`
  bool measured = false;
  const char* streamed_by() const { return link > 0 ? "link" : "disk"; }
  double streamed_gbps() const { return link > 0 ? link : disk; }
};

// Writes a file of random-looking bytes into the folder that holds the plan, and reads it past the page cache.
Result<Rates> measure(Session& session) {
  Rates rates;
  const std::string device = session.options.text("device");
  const bool cpu = device.empty() || device == "cpu";
  if (!cpu) {
    rates.link = kAssumedLinkGbps;
    rates.memory = kAssumedDeviceMemoryGbps;
  }
  if (session.options.flag("quick")) return rates;
  if (!cpu) {
    FB_ASSIGN(rates.link, device_link_gbps(device, 0.3));
    FB_ASSIGN(rates.memory, device_memory_gbps(device, 0.2));
  }
  const int threads = session.options.integer("threads") > 0 ? static_cast<int>(session.options.integer("threads")) : default_threads();
  if (cpu) rates.memory = memory_read_gbps(threads, 0.3);
  const std::vector<std::string> paths = session.options.list("path");
  const std::string folder = paths.empty() ? folder_of(session.operand()) : paths.front();
  auto work = TemporaryFolder::create(folder, false);
  if (!work.ok()) return rates;  // a read-only folder: the assumed rate stays, and is shown as assumed
  const std::string path = join_path(work->path(), "probe");
  FB_ASSIGN(auto probe, DurableFile::create(posix_file_system(), path, kProbeBytes));
  std::vector<std::byte> block(8ull << 20);
  for (std::uint64_t at = 0; at < kProbeBytes; at += block.size()) {
    FB_TRY(check_interrupted());
    for (std::size_t i = 0; i < block.size(); i += 512) block[i] = static_cast<std::byte>((at + i) >> 9);
    FB_TRY(probe->append(block));
  }
  FB_TRY(probe->commit());
  std::vector<std::unique_ptr<File>> files;
  FB_ASSIGN(auto file, posix_file_system().open_read(path, DirectIo::prefer));
  files.push_back(std::move(file));
  RawReadOptions options;
  options.seconds = 0.7;
  FB_ASSIGN(const RawReadResult read, raw_read(files, options));
  if (read.gbps > 0) rates.disk = read.gbps;
  rates.measured = true;
  return rates;
}

struct Demand {
  ArenaDemand arena;
  stream::ResidencyOrder order;
  std::vector<stream::ChunkTraits> traits;
  std::uint64_t used_bytes = 0;  // read by kernels in one pass
};

// Of shards as they are stored; else of raw chunks, wherever they lie.
Result<std::vector<stream::ChunkShape>> chunk_shapes(const Session& session, const std::shared_ptr<const plan::Plan>& plan, Logger& logger) {
  plan::Generation generation{1, plan, {}};
  if (const std::vector<std::string> sources = session.options.list("weights"); !sources.empty()) {
    FB_ASSIGN(const auto catalog, refit::Catalog::open(posix_file_system(), sources, logger));
    if (const auto shards = catalog->shards()) {
      FB_TRY(shards->check_plan(*plan));
      FB_ASSIGN(generation.binding, shards->bind(*plan));
    }
  }
  generation.binding.chunks.resize(plan->chunks.size());
  return stream::widest_shapes(*plan, generation);
}

Result<Demand> demand_of(const std::shared_ptr<const CompiledPlan>& compiled, const std::vector<std::pair<std::string, Shape>>& shapes,
                         std::span<const stream::ChunkShape> chunks, bool staged, Device* device) {
  ThreadPool pool(1);
  const plan::Plan& plan = *compiled->plan;
  const std::vector<StateBinding> bindings = planned_states(plan);
  FB_ASSIGN(const auto prepared, prepare_pass(compiled, shapes, pool, bindings, device));
  Demand demand;
  demand.traits = stream::chunk_traits(plan, compiled->program);
  demand.order = stream::residency_order(demand.traits);
  demand.arena.source = stream::source_limits(compiled->program, chunks, demand.order.total_bytes(), staged);
  demand.arena.gathered_bytes = compiled->gathered_bytes;
  demand.arena.activation_bytes = prepared->activation_bytes;
  demand.arena.arena_bytes = 1ull << 50;
  if (device != nullptr) demand.arena.granule = device->info().granule;
  for (std::size_t i = 0; i < bindings.size(); ++i) demand.arena.state_bytes += state_room(plan, *prepared, bindings, i).bytes();
  for (const stream::ChunkTraits& chunk : demand.traits) demand.used_bytes += chunk.raw_bytes * chunk.uses;
  return demand;
}

json::object row_of(Session& session, const Demand& demand, const BudgetBytes& sizes, std::uint64_t bytes, const Rates& rates) {
  json::object row{{"budget_bytes", bytes}};
  const auto layout = plan_arena(demand.arena, std::min(bytes, sizes.full));
  if (!layout.ok()) {
    row["refused"] = layout.status().message();
    session.print("{:>14}  refused: {}\n", format_size(bytes), layout.status().message());
    return row;
  }
  const std::size_t resident = stream::resident_count(demand.order, layout->resident_bytes);
  std::uint64_t streamed = 0;
  for (std::size_t i = resident; i < demand.order.order.size(); ++i) {
    const stream::ChunkTraits& chunk = demand.traits[demand.order.order[i]];
    streamed += chunk.raw_bytes * chunk.uses;
  }
  const double streamed_ms = static_cast<double>(streamed) / rates.streamed_gbps() / 1e6;
  const double memory_ms = rates.resident_ms > 0 ? rates.resident_ms : static_cast<double>(demand.used_bytes) / rates.memory / 1e6, predicted = std::max(streamed_ms, memory_ms);
  const char* bound = streamed_ms > memory_ms ? rates.streamed_by() : "compute";
  row["predicted_ms"] = predicted;
  row["streamed_bytes"] = streamed;
  row["bound_by"] = bound;
  session.print("{:>14}  {:>10.2f} ms  {:>12} streamed  {}\n", format_size(bytes), predicted, format_size(streamed), bound);
  return row;
}

}  // namespace

Status run_estimate(Session& session) {
  FB_ASSIGN(const auto structure, open_structure(session));
  FB_ASSIGN(const auto compiled, compile_plan(structure));
  FB_ASSIGN(const InputRequest wanted, input_request(session));
  FB_ASSIGN(const auto shapes, input_shapes(*structure, wanted));
  const std::string kind = session.options.text("device");
  const bool staged = !kind.empty() && kind != "cpu";
  std::unique_ptr<Device> device;
  if (staged && !session.options.flag("quick")) {
    FB_ASSIGN(device, load_device(kind));
    FB_TRY(device->free_bytes().status());  // it starts: kernels are prepared as they would run
  }
  FB_ASSIGN(const auto chunks, chunk_shapes(session, structure, session.console));
  FB_ASSIGN(const Demand demand, demand_of(compiled, shapes, chunks, staged, device.get()));
  FB_ASSIGN(Rates rates, measure(session));
  if (device != nullptr) {
    // As `run` and `bench` would: states pass through the host unless they are bound.
    const auto states = session.options.flag("stateful") ? planned_states(*structure) : std::vector<StateBinding>();
    const auto trial = trial_pass_ms(std::move(device), compiled, shapes, states, session.console);
    if (trial.ok()) rates.resident_ms = *trial;
    if (!trial.ok()) session.console.log(LogLevel::info, "no pass without weights: " + trial.status().to_string());
  }
  const BudgetBytes sizes = budget_bytes(demand.arena);
  json::object made;
  for (const auto& [name, shape] : shapes) made[name] = dims_json(shape.dims());
  session.result["min_budget_bytes"] = sizes.min;
  session.result["no_stream_budget_bytes"] = sizes.no_stream;
  session.result["full_budget_bytes"] = sizes.full;
  session.result["weights_bytes"] = structure->weight_bytes();
  session.result["minimum"] = json::object{{"activation_bytes", demand.arena.activation_bytes}, {"state_bytes", demand.arena.state_bytes},
                                           {"ring_bytes", demand.arena.source.min_ring_bytes}};
  session.result["shapes"] = std::move(made);
  session.result["rates"] =
      json::object{{"disk_gbps", rates.disk}, {"link_gbps", rates.link}, {"memory_gbps", rates.memory}, {"resident_ms", rates.resident_ms}, {"measured", rates.measured}};
  session.print("minimum   {:>12}  (activations {}, state {}, ring {})\nno stream {:>12}\nfull      {:>12}\n", format_size(sizes.min),
                format_size(demand.arena.activation_bytes), format_size(demand.arena.state_bytes), format_size(demand.arena.source.min_ring_bytes),
                format_size(sizes.no_stream), format_size(sizes.full));
  session.print("at {} {:.2f} GB/s and memory {:.2f} GB/s ({}), for inputs", rates.streamed_by(), rates.streamed_gbps(), rates.memory,
                rates.measured ? "measured" : "assumed");
  for (const auto& [name, shape] : shapes) session.print(" {}={}", name, shape.to_string());
  session.print("\n");
  std::vector<std::string> budgets = session.options.list("budget");
  if (budgets.empty()) budgets = {"5%", "10%", "25%", "50%", "75%", "100%"};
  json::array rows;
  if (session.options.list("budget").empty()) rows.push_back(row_of(session, demand, sizes, sizes.min, rates));
  for (const std::string& text : budgets) {
    FB_ASSIGN(const Budget budget, Budget::parse(text));
    rows.push_back(row_of(session, demand, sizes, resolve_budget(budget, sizes, sizes.full), rates));
  }
  session.result["rows"] = std::move(rows);
  return {};
}

}  // namespace forebay::tools
