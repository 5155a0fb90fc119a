#include "refit_setup.h"

#include "base/check.h"
#include "json_out.h"

namespace forebay::tools {

WeightSources weight_sources(const Session& session) {
  WeightSources sources;
  sources.paths = session.options.list("weights");
  sources.map_file = session.options.text("map");
  sources.strict = session.options.flag("strict");
  sources.finite = session.options.flag("finite");
  sources.allow_inexact = session.options.list("allow-inexact");
  return sources;
}

Refitter::Options refitter_options(Session& session) {
  Refitter::Options options;
  options.threads = static_cast<int>(session.options.integer("threads"));
  options.logger = &session.console;
  options.progress = session.console.progress();
  return options;
}

Result<refit::Options> refit_options(const Session& session) {
  refit::Options options;
  if (const std::string map = session.options.text("map"); !map.empty()) {
    FB_ASSIGN(options.map, refit::NameMap::read(posix_file_system(), map));
  }
  options.strict = session.options.flag("strict");
  options.finite = session.options.flag("finite");
  options.allow_inexact = session.options.list("allow-inexact");
  return options;
}

void print_refit_report(Session& session, const RefitReport& report) {
  const auto list = [&](std::string_view title, const std::vector<Problem>& problems) {
    if (problems.empty()) return;
    session.print("{} ({}):\n", title, problems.size());
    for (const Problem& problem : problems) session.print("  - {}\n", problem_line(problem));
  };
  list("missing", report.missing);
  list("mismatched", report.mismatched);
  list("not used by the plan", report.extra);
  list("warnings", report.warnings);
}

}  // namespace forebay::tools
