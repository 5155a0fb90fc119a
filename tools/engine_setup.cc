#include "engine_setup.h"

#include <set>

#include "base/check.h"
#include "codec/shard_format.h"
#include "input_maker.h"
#include "refit/catalog.h"
#include "refit/shard_reader.h"
#include "refit_setup.h"
#include "runtime/device_library.h"

namespace forebay::tools {

Result<Budget> first_budget(const Session& session) {
  const std::vector<std::string> budgets = session.options.list("budget");
  if (budgets.empty()) return Budget::automatic();
  if (budgets.size() > 1) return Status(Code::invalid_argument, fmt::format("forebay {} takes one --budget", session.verb().name));
  return Budget::parse(budgets.front());
}

Result<EngineSetup> engine_setup(Session& session) {
  FB_ASSIGN(Plan plan, Plan::load(session.operand()));
  EngineSetup setup{std::move(plan), weight_sources(session), {}};
  const ParsedOptions& given = session.options;
  setup.options.device = given.text("device");
  if (session.verb().name != "bench") {
    FB_ASSIGN(setup.options.budget, first_budget(session));
  }
  setup.options.host_cache_bytes = given.size("host-cache");
  setup.options.io = given.text("io");
  setup.options.direct = given.text("direct");
  setup.options.threads = static_cast<int>(given.integer("threads"));
  setup.options.concurrent_passes = static_cast<int>(given.integer("contexts"));
  setup.options.debug_sync = given.flag("debug-sync");
  setup.options.logger = &session.console;
  if (given.flag("retime") || !given.text("timing-cache").empty()) {
    setup.options.retime.emplace();
    setup.options.retime->timing_cache = given.text("timing-cache");
    FB_ASSIGN(const InputRequest wanted, input_request(session));
    FB_ASSIGN(setup.options.retime->shapes, input_shapes(setup.plan.data(), wanted));
  }
  return setup;
}

Result<DeviceMemory> DeviceMemory::open(const EngineOptions& options) {
  DeviceMemory memory;
  if (options.device.empty() || options.device == "cpu") return memory;
  FB_ASSIGN(memory.device_, load_device(options.device));
  FB_ASSIGN(memory.free_, memory.device_->free_bytes());
  return memory;
}

std::int64_t DeviceMemory::taken_beside(std::uint64_t committed) const {
  const auto now = device_->free_bytes();
  return now.ok() ? static_cast<std::int64_t>(free_) - static_cast<std::int64_t>(*now) - static_cast<std::int64_t>(committed) : 0;
}

Result<std::vector<std::unique_ptr<File>>> weight_files(const EngineSetup& setup, Logger& logger) {
  FileSystem& fs = posix_file_system();
  std::vector<std::unique_ptr<File>> files;
  if (setup.sources.empty()) {
    FB_ASSIGN(auto file, fs.open_read(setup.plan.path(), DirectIo::prefer));
    files.push_back(std::move(file));
    return files;
  }
  FB_ASSIGN(const auto catalog, refit::Catalog::open(fs, setup.sources.paths, logger));
  std::set<std::pair<std::string, std::string>> names;
  if (const auto shards = catalog->shards()) {
    for (const auto& file : shards->index().files) names.emplace(shards->folder(), file.name);
  }
  for (const std::string& name : catalog->names()) {
    const SourceTensor* tensor = catalog->find(name);
    if (tensor->file != nullptr && !tensor->open_name.empty()) names.emplace(tensor->open_folder, tensor->open_name);
  }
  for (const auto& [folder, name] : names) {
    // Without a folder it is the user's own word for a file.
    FB_ASSIGN(auto file, folder.empty() ? fs.open_read(name, DirectIo::prefer) : fs.open_beneath(folder, name, DirectIo::prefer));
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace forebay::tools
