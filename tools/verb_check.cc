// forebay check: every node that cannot be built, at once.
#include "base/check.h"
#include "forebay/builder.h"
#include "json_out.h"
#include "session.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

// Problem carries "domain" and "version" inside `op` as "domain:Op-version" or "Op-version"; a plain op has neither.
json::object unsupported_json(const Problem& problem) {
  json::object out;
  std::string op = problem.op, domain, version;
  if (const std::size_t colon = op.rfind(':'); colon != std::string::npos) {
    domain = op.substr(0, colon);
    op.erase(0, colon + 1);
  }
  if (const std::size_t dash = op.rfind('-'); dash != std::string::npos && dash + 1 < op.size()) {
    version = op.substr(dash + 1);
    op.erase(dash);
  }
  out["node"] = problem.node;
  out["op"] = op;
  out["domain"] = domain.empty() ? "ai.onnx" : domain;
  if (version.empty()) out["version"] = nullptr;
  else out["version"] = version;
  out["reason"] = problem.message;
  out["where"] = problem.file;
  return out;
}

}  // namespace

Status run_check(Session& session) {
  FB_ASSIGN(std::vector<Problem> problems, check_model(session.operand()));
  json::array unsupported;
  for (const Problem& problem : problems) unsupported.push_back(unsupported_json(problem));
  session.result["model"] = session.operand();
  session.result["unsupported"] = std::move(unsupported);
  if (problems.empty()) {
    session.print("{}: every node can be built\n", session.operand());
    return {};
  }
  const std::string message = fmt::format("{} of the model's nodes cannot be built", problems.size());
  return Status(Code::unsupported, message, std::move(problems));
}

}  // namespace forebay::tools
