// forebay build: ONNX model to plan.
#include "base/check.h"
#include "base/file.h"
#include "forebay/builder.h"
#include "json_out.h"
#include "session.h"
#include "shape_argument.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

Result<BuildOptions> build_options(Session& session) {
  const ParsedOptions& given = session.options;
  BuildOptions options;
  options.strip = given.flag("strip");
  const std::string refit = given.text("refit");
  options.refit = refit == "none" ? Refit::none : refit == "identical" ? Refit::identical : Refit::all;
  if (options.strip && options.refit == Refit::none) {
    Problem problem;
    problem.code = "usage";
    problem.message = "--strip --refit none would make a plan that can never run";
    problem.hint = "leave out --strip, or take --refit identical";
    return Status(Code::invalid_argument, std::move(problem));
  }
  options.device = given.text("device");
  options.build_budget_bytes = given.size("build-budget").value_or(options.build_budget_bytes);
  options.timing_cache = given.text("timing-cache");
  options.exclude_kernels = given.list("exclude-kernels");
  if (given.text("kernels") == "own") options.exclude_kernels.insert(options.exclude_kernels.end(), {"cublaslt", "cudnn"});
  options.slab_bytes = given.size("slab").value_or(0);
  FB_ASSIGN(const auto bounds, parse_shapes(given.list("bound"), "bound"));
  options.bounds.assign(bounds.begin(), bounds.end());
  FB_ASSIGN(options.shapes, join_shape_ranges(given.list("min-shapes"), given.list("opt-shapes"), given.list("max-shapes")));
  options.inputs = given.list("inputs");
  options.outputs = given.list("outputs");
  options.fuse = !given.flag("no-fuse");
  options.threads = static_cast<int>(given.integer("threads"));
  options.compatible_with = given.text("compatible-with");
  options.logger = &session.console;
  options.progress = session.console.progress();
  return options;
}

void print_table(Session& session, const BuildReport& report, const std::string& output, std::uint64_t model_bytes) {
  session.print("{:<18} {:>14} {:>14}\n", "", "before", "after");
  session.print("{:<18} {:>14} {:>14}\n", "file", model_bytes == 0 ? "?" : format_size(model_bytes), format_size(report.plan_bytes));
  session.print("{:<18} {:>14} {:>14}\n", "nodes", report.model_nodes, report.plan_nodes);
  session.print("{:<18} {:>14} {:>14}\n", "  fused", "", report.fused_nodes);
  session.print("{:<18} {:>14} {:>14}\n", "  folded", "", report.folded_nodes);
  session.print("{:<18} {:>14} {:>14}\n", "  removed", "", report.removed_nodes);
  const std::uint64_t inside = report.plan_bytes > report.stripped_bytes ? report.plan_bytes - report.stripped_bytes : 0;
  session.print("{:<18} {:>14} {:>14}\n", "weights", format_size(report.model_weight_bytes), format_size(inside));
  session.print("{:<18} {:>14} {:>14}\n", "  stripped plan", "", format_size(report.stripped_bytes));
  session.print("{:<18} {:>14} {:>14}\n", "  kept in the plan", "", format_size(report.kept_bytes));
  if (!report.kernels_by.empty()) {
    session.print("kernels: {}; {} problems, {} ways timed, {} known, {} failed, {:.2f} s; {} nodes run on the host\n", report.kernels_by,
                  report.kernel_problems, report.kernels_timed, report.kernels_cached, report.kernels_failed, report.choice_seconds,
                  report.host_nodes);
  }
  session.print("wrote {}\n", output);
}

}  // namespace

Status run_build(Session& session) {
  const std::string output = session.options.text("output");
  if (output.empty()) return Status(Code::invalid_argument, "forebay build needs -o PLAN");
  FB_ASSIGN(const BuildOptions options, build_options(session));
  FB_ASSIGN(const BuildReport report, build(session.operand(), output, options));
  session.result["plan"] = output;
  session.result["plan_bytes"] = report.plan_bytes;
  session.result["stripped_bytes"] = report.stripped_bytes;
  session.result["weights_bytes"] = report.model_weight_bytes;
  session.result["kept_bytes"] = report.kept_bytes;
  session.result["nodes"] = json::object{{"model", report.model_nodes}, {"plan", report.plan_nodes}, {"fused", report.fused_nodes},
                                         {"folded", report.folded_nodes}, {"removed", report.removed_nodes}};
  if (!report.kernels_by.empty()) {
    session.result["kernel_choice"] =
        json::object{{"by", report.kernels_by},         {"problems", report.kernel_problems}, {"timed", report.kernels_timed},
                     {"cached", report.kernels_cached}, {"failed", report.kernels_failed},    {"host_nodes", report.host_nodes},
                     {"seconds", report.choice_seconds}};
  }
  std::uint64_t model_bytes = 0;
  if (auto file = posix_file_system().open_read(session.operand(), DirectIo::off); file.ok()) {
    if (const auto identity = (*file)->identity(); identity.ok()) model_bytes = identity->bytes;
  }
  print_table(session, report, output, model_bytes);
  return {};
}

}  // namespace forebay::tools
