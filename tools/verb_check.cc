// forebay check: every node that cannot be built, at once.
#include <charconv>

#include "base/check.h"
#include "forebay/builder.h"
#include "json_out.h"
#include "session.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

// A problem's op is "Op" or "domain.Op"; the message of an operator names its version as "(opset N)".
json::object unsupported_json(const Problem& problem) {
  json::object out;
  std::string op = problem.op, domain;
  if (const std::size_t dot = op.rfind('.'); dot != std::string::npos) {
    domain = op.substr(0, dot);
    op.erase(0, dot + 1);
  }
  constexpr std::string_view kVersion = "(opset ";
  std::int64_t version = -1;
  if (const std::size_t at = problem.message.find(kVersion); at != std::string::npos) {
    const char* end = problem.message.data() + problem.message.size();
    std::from_chars(problem.message.data() + at + kVersion.size(), end, version);
  }
  out["node"] = problem.node;
  out["op"] = op;
  out["domain"] = domain.empty() ? "ai.onnx" : domain;
  if (version < 0) out["version"] = nullptr;
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
