#include "api/weight_catalog.h"
#include "base/check.h"
#include "builder/build.h"
#include "forebay/builder.h"
#include "onnx/onnx_model.h"
#include "plan/plan_io.h"
#include "refit/refit.h"
#include "runtime/thread_pool.h"

namespace forebay {
namespace {

Result<builder::Options> builder_options(const BuildOptions& options) {
  builder::Options out;
  if (options.strip && options.refit == Refit::none) {
    return Status(Code::invalid_argument, "--strip and --refit none exclude each other: a stripped plan must take its weights back");
  }
  if (options.device != "cpu") return Status(Code::unavailable, "this build has no device '" + options.device + "'; use cpu");
  out.refit = options.refit == Refit::all ? plan::RefitMode::all : options.refit == Refit::identical ? plan::RefitMode::identical : plan::RefitMode::none;
  out.device = options.device;
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
  out.state_pairs = options.state_pairs;
  out.bounds = options.bounds;
  out.progress = options.progress;
  return out;
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
