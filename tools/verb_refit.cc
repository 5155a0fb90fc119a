// forebay refit: weights into a plan, or with --dry-run every reason why not.
#include "base/check.h"
#include "json_out.h"
#include "refit_setup.h"
#include "verbs.h"

namespace forebay::tools {

Status run_refit(Session& session) {
  const bool dry = session.options.flag("dry-run");
  const std::string output = session.options.text("output");
  if (output.empty() && !dry) return Status(Code::invalid_argument, "refit needs -o PLAN2, or --dry-run");
  const WeightSources sources = weight_sources(session);
  if (sources.empty()) return Status(Code::invalid_argument, "refit needs --weights SRC...");
  FB_ASSIGN(Plan plan, Plan::load(session.operand()));
  const std::size_t weights = plan.weights().size();
  Refitter refitter(std::move(plan), refitter_options(session));
  RefitReport report;
  Status checked = refitter.check(sources, &report);
  add_refit_report(session.result, report);
  if (dry) {
    session.console.clear_progress();
    print_refit_report(session, report);
    if (checked.ok()) session.print("all {} weights can be made from these sources\n", weights);
    return checked;
  }
  FB_TRY(std::move(checked));
  auto embedded = refitter.embed(sources, output);
  FB_TRY(embedded.status());
  add_refit_report(session.result, *embedded);
  session.result["output"] = output;
  session.print("{} weights read, {} written to {}\n", weights, format_size(embedded->bytes_written), output);
  for (const Problem& warning : embedded->warnings) session.console.log(LogLevel::warning, problem_line(warning));
  return {};
}

}  // namespace forebay::tools
