#include "builder/build.h"

#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "builder/lower_scan.h"
#include "builder/lower_vendor.h"
#include "builder/model_import.h"
#include "builder/passes.h"
#include "builder/plan_emit.h"
#include "builder/slab_layout.h"
#include "builder/source_digests.h"
#include "plan/plan_io.h"

namespace forebay::builder {
namespace {

constexpr std::uint64_t kMaxSlabBytes = 1ull << 30;

Status check_options(const Options& options) {
  if (options.slab_bytes != 0 && (options.slab_bytes < kMinSlabBytes || options.slab_bytes > kMaxSlabBytes))
    return Status(Code::invalid_argument, "a slab of " + std::to_string(options.slab_bytes) + " bytes was asked for; " +
                                              std::to_string(kMinSlabBytes) + " to " + std::to_string(kMaxSlabBytes) + " are possible");
  if (options.device != "cpu") {
    Problem problem;
    problem.code = "unknown_device";
    problem.message = "this build has no kernels for device '" + options.device + "'";
    problem.hint = "build for cpu";
    return Status(Code::unavailable, std::move(problem));
  }
  return {};
}

// Everything wrong at once. Malformed nodes come before unsupported ones: they make the whole model invalid.
Status as_status(const std::string& model, std::vector<Problem> invalid, std::vector<Problem> unsupported) {
  if (invalid.empty() && unsupported.empty()) return {};
  const Code code = invalid.empty() ? Code::unsupported : Code::invalid_model;
  const std::string count = std::to_string(invalid.empty() ? unsupported.size() : invalid.size());
  std::vector<Problem> all = std::move(invalid);
  all.insert(all.end(), std::make_move_iterator(unsupported.begin()), std::make_move_iterator(unsupported.end()));
  for (Problem& problem : all)
    if (problem.file.empty()) problem.file = model;
  const std::string message =
      count + (code == Code::unsupported ? " unsupported node(s) in " : " invalid node(s) in ") + model + ": " + all[0].message;
  return Status(code, message, std::move(all));
}

Status check_outputs(const Ir& ir) {
  for (const auto& [id, declared] : ir.declared_outputs) {
    const IrValue& value = ir.values[id];
    if (value.poisoned || !value.type.present() || declared.dtype == DType::none || declared.dtype == value.type.dtype) continue;
    Problem problem;
    problem.code = "output_type";
    problem.tensor = value.name;
    problem.message = "output '" + value.name + "' is declared as " + std::string(dtype_name(declared.dtype)) +
                      ", but the graph computes " + std::string(dtype_name(value.type.dtype));
    return Status(Code::invalid_model, std::move(problem));
  }
  return {};
}


class Session {
 public:
  Session(Ir ir, ThreadPool& pool)
      : ir_(std::move(ir)), host_(ir_, OpRegistry::builtin(), pool), types_(ir_, OpRegistry::builtin(), host_),
        context_{ir_, OpRegistry::builtin(), host_, types_} {}

  Ir& ir() { return ir_; }
  PassContext& context() { return context_; }
  TypeInference& types() { return types_; }

  Status optimise(const Options& options, Summary& summary) {
    summary.model_nodes = ir_.node_count();
    std::size_t fused = 0, folded = 0;
    FB_TRY(pass_branch(context_).status());
    FB_TRY(pass_identity(context_).status());
    FB_ASSIGN(folded, pass_fold(context_));
    summary.folded_nodes += folded;
    FB_TRY(pass_dead_code(context_).status());
    FB_TRY(pass_common(context_).status());
    if (options.fuse) {
      using Pass = Result<std::size_t> (*)(PassContext&);
      for (const Pass pass : {pass_hard_swish, pass_activation, pass_norm, pass_select, pass_rotary, pass_attention, pass_moves, pass_attention_heads,
                              pass_conv_affine, pass_conv_bn, pass_conv_affine, pass_qdq, pass_quant, pass_linear, pass_epilogue, pass_quant_conv,
                              pass_skip_norm}) {
        FB_ASSIGN(fused, pass(context_));
        summary.fused_nodes += fused;
        FB_TRY(pass_dead_code(context_).status());  // what a pass went round must not count as a reader in the next
      }
      if (options.channels_last) {
        FB_TRY(pass_patches(context_).status());
        FB_TRY(pass_nhwc(context_).status());
      }
      FB_ASSIGN(folded, pass_fold(context_));
      summary.folded_nodes += folded;
    }
    pass_parameters(context_);
    FB_TRY(pass_dead_code(context_).status());
    return options.fuse ? pass_siblings(context_).status() : Status();
  }

 private:
  Ir ir_;
  HostValues host_;
  TypeInference types_;
  PassContext context_;
};

Status digest_sources(EmitOutput& emitted, const Ir& ir, const Options& options) {
  std::vector<bool> wanted(emitted.plan.sources.size(), options.refit == plan::RefitMode::identical);
  for (const plan::Constant& constant : emitted.plan.constants)
    for (const std::uint32_t source : constant.sources) wanted[source] = wanted[source] || constant.kept;
  std::uint64_t total = 0, done = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (wanted[i]) total += ir.sources[emitted.ir_sources[i]].bytes();
  std::vector<std::byte> buffer;
  const DigestProgress progress = [&](std::uint64_t bytes) {
    done += bytes;
    return !options.progress || options.progress("digests", done, total);
  };
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i]) continue;
    FB_ASSIGN(emitted.plan.sources[i].sha256, digest_source(ir.sources[emitted.ir_sources[i]], buffer, progress));
    emitted.plan.sources[i].has_sha256 = true;
  }
  return {};
}

Status report_stage(const Options& options, const char* stage, std::uint64_t done, std::uint64_t total) {
  if (!options.progress || options.progress(stage, done, total)) return {};
  return Status(Code::cancelled, "stopped on request");
}

void summarise(const EmitOutput& emitted, const Ir& ir, Summary& summary) {
  for (const plan::Graph& graph : emitted.plan.graphs) summary.plan_nodes += graph.nodes.size();
  for (const plan::Constant& constant : emitted.plan.constants)
    if (constant.kept) summary.kept_bytes += constant.data.size();
  summary.removed_nodes = summary.model_nodes > summary.plan_nodes ? summary.model_nodes - summary.plan_nodes : 0;
  for (const SourceTensor& source : ir.sources) summary.model_weight_bytes += source.bytes();
}

}  // namespace

Result<Output> build(onnx::Model model, const Options& options, ThreadPool& pool, Logger& logger) {
  FB_TRY(check_options(options));
  FB_TRY(report_stage(options, "graph", 0, 1));
  FB_TRY(onnx::inline_functions(model, onnx::Limits()));
  std::vector<Problem> unsupported;
  FB_ASSIGN(Ir imported, import_model(model, unsupported));
  Session session(std::move(imported), pool);
  FB_TRY(pass_cut(session.context(), options.inputs, options.outputs));
  lower_vendor(session.ir(), session.types());
  lower_batched_scans(session.ir());
  session.types().run();
  unsupported.insert(unsupported.end(), session.types().unsupported.begin(), session.types().unsupported.end());
  FB_TRY(as_status(model.file_name, session.types().invalid, std::move(unsupported)));
  FB_TRY(check_outputs(session.ir()));
  FB_TRY(lower_scan_axes(session.context()));

  Output out;
  FB_TRY(session.optimise(options, out.summary));
  EmitInput input{session.ir(), OpRegistry::builtin(), options, model.file_name, {}, {}};
  FB_ASSIGN(input.ranges, shape_ranges(session.ir(), options));
  FB_ASSIGN(input.states, find_state_pairs(session.ir(), options));
  FB_ASSIGN(EmitOutput emitted, emit_plan(input));
  FB_TRY(digest_sources(emitted, session.ir(), options));
  if (Status status = plan::validate_plan(emitted.plan); !status.ok())
    return Status(Code::internal, std::move(status).with_context("the builder made a plan that does not hold together").to_string());
  summarise(emitted, session.ir(), out.summary);
  for (const std::uint32_t index : emitted.ir_sources) out.sources.push_back(session.ir().sources[index]);
  out.plan = std::move(emitted.plan);
  logger.log(LogLevel::info,
             "event=plan_built nodes=" + std::to_string(out.summary.plan_nodes) + " weights=" + std::to_string(out.plan.weights.size()) +
                 " weight_bytes=" + std::to_string(out.plan.weight_bytes()) + " chunks=" + std::to_string(out.plan.chunks.size()) +
                 " slab_bytes=" + std::to_string(out.plan.slab_bytes));
  FB_TRY(report_stage(options, "graph", 1, 1));
  return out;
}

std::vector<Problem> check(const onnx::Model& model) {
  onnx::Model copy = model;
  std::vector<Problem> problems;
  if (const Status status = onnx::inline_functions(copy, onnx::Limits()); !status.ok()) return status.problems();
  Result<Ir> imported = import_model(copy, problems);
  if (!imported.ok()) {
    const std::vector<Problem>& invalid = imported.status().problems();
    problems.insert(problems.end(), invalid.begin(), invalid.end());
    return problems;
  }
  ThreadPool pool(1);
  Session session(std::move(imported).value(), pool);
  if (const Status status = pass_dead_code(session.context()).status(); !status.ok()) return status.problems();
  lower_vendor(session.ir(), session.types());
  lower_batched_scans(session.ir());
  session.types().run();
  const Status all = as_status(copy.file_name, session.types().invalid, session.types().unsupported);
  if (!all.ok()) problems.insert(problems.end(), all.problems().begin(), all.problems().end());
  if (const Status outputs = check_outputs(session.ir()); !outputs.ok())
    problems.insert(problems.end(), outputs.problems().begin(), outputs.problems().end());
  return problems;
}

}  // namespace forebay::builder
