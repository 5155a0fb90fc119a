#include <chrono>

#include "api/kernel_times.h"
#include "api/weight_catalog.h"
#include "base/check.h"
#include "builder/build.h"
#include "forebay/builder.h"
#include "onnx/onnx_model.h"
#include "plan/plan_io.h"
#include "refit/refit.h"
#include "runtime/device_library.h"
#include "runtime/thread_pool.h"

namespace forebay {
namespace {

Result<builder::Options> builder_options(const BuildOptions& options) {
  builder::Options out;
  if (options.strip && options.refit == Refit::none) {
    return Status(Code::invalid_argument, "--strip and --refit none exclude each other: a stripped plan must take its weights back");
  }
  FB_TRY(check_device(options.device));
  if (options.device == "cpu" && (!options.exclude_kernels.empty() || !options.timing_cache.empty())) {
    return Status(Code::invalid_argument,
                  "kernels are chosen, and excluded, for a device: the CPU's follow from its instruction set; give --device cuda");
  }
  for (const std::string& name : options.exclude_kernels) {
    if (name.empty() || name.find_first_of(",\n") != std::string::npos)
      return Status(Code::invalid_argument, "'" + name + "' names no kernel");
  }
  out.refit = options.refit == Refit::all ? plan::RefitMode::all : options.refit == Refit::identical ? plan::RefitMode::identical : plan::RefitMode::none;
  out.slab_bytes = options.slab_bytes;
  for (const ShapeRange& range : options.shapes) {
    if (range.min.size() != range.max.size() || range.opt.size() != range.max.size()) {
      return Status(Code::invalid_argument, "the minimum, typical and maximum shapes of input '" + range.input + "' have different ranks");
    }
    out.input_shapes[range.input] = {range.min, range.opt, range.max};
  }
  out.inputs = options.inputs;
  out.outputs = options.outputs;
  out.fuse = options.fuse;
  out.channels_last = options.device == "cuda";
  out.state_pairs = options.state_pairs;
  out.bounds = options.bounds;
  out.progress = options.progress;
  return out;
}

// A section for the device's kernels beside the CPU's: timed where the device is there, else empty, and heuristics choose when it is
// loaded.
Status add_device_kernels(plan::Plan& plan, const BuildOptions& options, ThreadPool& pool, Logger& logger, BuildReport* report) {
  const auto start = std::chrono::steady_clock::now();
  std::string excluded;
  for (const std::string& name : options.exclude_kernels) excluded += (excluded.empty() ? "" : ",") + name;
  if (!excluded.empty()) plan.numerics.emplace_back(std::string(kExcludeKey), excluded);
  if (!options.timing_cache.empty())
    FB_TRY(TimingCache::read(posix_file_system(), options.timing_cache).status());  // said with or without the device
  ChoiceOutcome outcome;
  outcome.section = {options.device, "heuristic", {}};
  if (auto device = load_device(options.device); device.ok()) {
    FB_ASSIGN(outcome, api::choose_on_device(std::make_shared<const plan::Plan>(plan), declared_shapes(plan), **device, pool,
                                             {options.build_budget_bytes, 0, options.timing_cache}, logger));
  } else {
    logger.log(LogLevel::warning,
               "kernels for " + options.device +
                   " are not timed, heuristics choose when the plan is loaded (forebay run --retime times them there): " +
                   device.status().to_string());
  }
  report->kernel_problems = outcome.problems;
  report->kernels_timed = outcome.timed;
  report->kernels_cached = outcome.cached;
  report->kernels_failed = outcome.failed;
  for (const plan::KernelChoice& choice : outcome.section.entries) report->host_nodes += choice.kernel.starts_with("host.") ? 1 : 0;
  report->kernels_by = outcome.section.made_by;
  report->choice_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  plan = *with_kernels(plan, std::move(outcome.section));
  return {};
}

Result<plan::SerializeOptions> serialize_options(const std::string& compatible_with) {
  plan::SerializeOptions out;
  if (compatible_with.empty()) return out;
  if (compatible_with != "1.0" && compatible_with != "1") {
    return Status(Code::invalid_argument, "unknown plan format version '" + compatible_with + "'; this build writes 1.0");
  }
  out.compatible_major = 1;
  out.compatible_minor = 0;
  return out;
}

}  // namespace

Result<BuildReport> build(const std::string& model_path, const std::string& plan_path, const BuildOptions& options) {
  Logger& logger = options.logger != nullptr ? *options.logger : null_logger();
  FB_ASSIGN(const builder::Options inner, builder_options(options));
  FB_ASSIGN(const plan::SerializeOptions serialize, serialize_options(options.compatible_with));
  FileSystem& fs = posix_file_system();
  FB_ASSIGN(onnx::Model model, onnx::read_model(fs, model_path, onnx::Limits{}));
  ThreadPool pool(api::compute_threads(options.threads));
  FB_ASSIGN(builder::Output built, builder::build(std::move(model), inner, pool, logger));
  BuildReport report;
  if (options.device != "cpu") FB_TRY(add_device_kernels(built.plan, options, pool, logger, &report));
  report.model_nodes = built.summary.model_nodes;
  report.plan_nodes = built.summary.plan_nodes;
  report.fused_nodes = built.summary.fused_nodes;
  report.folded_nodes = built.summary.folded_nodes;
  report.removed_nodes = built.summary.removed_nodes;
  report.model_weight_bytes = built.summary.model_weight_bytes;
  report.kept_bytes = built.summary.kept_bytes;
  FB_ASSIGN(const std::vector<std::byte> structure, plan::serialize_plan(built.plan, serialize));
  report.stripped_bytes = structure.size();
  if (options.strip) {
    FB_TRY(plan::write_stripped_plan(fs, plan_path, built.plan, serialize));
    report.plan_bytes = structure.size();
    return report;
  }
  refit::Options refit_options;
  refit_options.progress = options.progress;
  const auto shared = std::make_shared<const plan::Plan>(std::move(built.plan));
  FB_ASSIGN(const refit::EmbedResult embedded,
            refit::embed(fs, shared, refit::Catalog::from_memory(std::move(built.sources)), plan_path, refit_options, pool, logger));
  report.plan_bytes = embedded.plan_bytes;
  return report;
}

Result<std::vector<Problem>> check_model(const std::string& model_path) {
  FB_ASSIGN(const onnx::Model model, onnx::read_model(posix_file_system(), model_path, onnx::Limits{}));
  return builder::check(model);
}

}  // namespace forebay
