// forebay conformance: ONNX backend test folders; counts passed, wrong, unsupported, skipped and names each case.
#include <array>
#include <chrono>

#include "base/check.h"
#include "conformance_worker.h"
#include "session.h"
#include "temporary_folder.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

bool chosen(const std::vector<std::string>& filters, const std::string& name) {
  if (filters.empty()) return true;
  for (const std::string& filter : filters) {
    if (name.find(filter) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

Status run_conformance(Session& session) {
  std::vector<ConformanceCase> cases;
  const std::vector<std::string> filters = session.options.list("filter");
  for (const std::string& folder : session.options.operands()) {
    FB_ASSIGN(auto found, find_cases(folder));
    for (ConformanceCase& one : found) {
      if (chosen(filters, one.name)) cases.push_back(std::move(one));
    }
  }
  FB_ASSIGN(const TemporaryFolder work, TemporaryFolder::create("", true));
  CaseOptions options;
  options.device = session.options.text("device");
  options.threads = static_cast<int>(session.options.integer("threads"));
  options.work_folder = work.path();
  const ProgressFunction progress = session.console.progress();
  std::array<std::uint64_t, 4> counts{};
  std::uint64_t on_host = 0;  // of those passed, on a device other than the host: with nodes that the host ran
  json::array listed;
  CaseWorker worker(cases, options);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    if (!progress("cases", i, cases.size())) return Status(Code::cancelled, "interrupted");
    const auto begin = std::chrono::steady_clock::now();
    const CaseResult result = worker.run(i);
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begin;
    ++counts[static_cast<std::size_t>(result.status)];
    if (result.status == CaseStatus::passed && result.reason.starts_with("on the host")) ++on_host;
    json::object one{{"name", cases[i].name}, {"status", case_status_name(result.status)}, {"ms", spent.count()}};
    if (!result.reason.empty()) one["reason"] = result.reason;
    listed.push_back(std::move(one));
    if (result.status == CaseStatus::passed && session.options.verbosity() == 0) continue;
    session.print("{:<12} {:<60} {}\n", case_status_name(result.status), cases[i].name, result.reason);
  }
  session.result["passed"] = counts[0];
  session.result["wrong"] = counts[1];
  session.result["unsupported"] = counts[2];
  session.result["skipped"] = counts[3];
  session.result["passed_in_part_on_host"] = on_host;
  session.result["cases"] = std::move(listed);
  session.print("{} cases: {} passed, {} wrong, {} unsupported, {} skipped\n", cases.size(), counts[0], counts[1], counts[2], counts[3]);
  if (on_host > 0) session.print("{} of those passed ran nodes on the host\n", on_host);
  if (counts[1] > 0) return Status(Code::gate_failed, fmt::format("{} of {} cases gave a wrong answer", counts[1], cases.size()));
  return {};
}

}  // namespace forebay::tools
