#include "json_out.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include "base/digest.h"

namespace forebay::tools {
namespace json = boost::json;

json::object problem_json(const Problem& problem) {
  json::object out;
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) out[key] = value;
  };
  add("code", problem.code);
  add("message", problem.message);
  add("file", problem.file);
  add("tensor", problem.tensor);
  add("node", problem.node);
  add("op", problem.op);
  if (problem.offset) out["offset"] = *problem.offset;
  add("hint", problem.hint);
  return out;
}

json::array problems_json(std::span<const Problem> problems) {
  json::array out;
  for (const Problem& problem : problems) out.push_back(problem_json(problem));
  return out;
}

json::object error_json(const Status& status) {
  json::object out;
  out["code"] = to_string(status.code());
  out["message"] = status.message();
  if (!status.problems().empty()) {
    const Problem& first = status.problems().front();
    if (!first.file.empty()) out["file"] = first.file;
    if (!first.tensor.empty()) out["tensor"] = first.tensor;
    if (first.offset) out["offset"] = *first.offset;
    if (!first.hint.empty()) out["hint"] = first.hint;
    out["problems"] = problems_json(status.problems());
  }
  return out;
}

json::array dims_json(std::span<const std::int64_t> dims) {
  json::array out;
  for (const std::int64_t dim : dims) out.push_back(dim);
  return out;
}

json::object tensor_json(const HostTensor& tensor) {
  json::object out;
  out["dtype"] = dtype_name(tensor.dtype());
  out["shape"] = dims_json(tensor.shape().dims());
  out["sha256"] = to_hex(sha256({tensor.data(), static_cast<std::size_t>(tensor.bytes())}));
  return out;
}

void add_memory(json::object& object, const MemoryReport& memory) {
  object["budget_bytes"] = memory.budget;
  object["min_budget_bytes"] = memory.min_budget;
  object["no_stream_budget_bytes"] = memory.no_stream_budget;
  object["full_budget_bytes"] = memory.full_budget;
  object["peak_arena_bytes"] = memory.peak_committed;
  object["resident_bytes"] = memory.resident_weights;
  object["ring_bytes"] = memory.ring;
  object["activation_bytes"] = memory.activations;
  object["state_bytes"] = memory.state;
  object["weights_bytes"] = memory.weights_total;
  object["host_cache_bytes"] = memory.host_cache;
}

json::value load_json(const Engine::IoInfo& io) {
  if (io.load_ms <= 0) return nullptr;
  const double bytes = static_cast<double>(io.loaded_bytes);
  return json::object{{"bytes", io.loaded_bytes}, {"ms", io.load_ms}, {"gbps", bytes / io.load_ms / 1e6}};
}

void add_refit_report(json::object& object, const RefitReport& report) {
  object["missing"] = problems_json(report.missing);
  object["extra"] = problems_json(report.extra);
  object["mismatched"] = problems_json(report.mismatched);
  object["warnings"] = problems_json(report.warnings);
  object["bytes_read"] = report.bytes_read;
  object["bytes_written"] = report.bytes_written;
}

std::string problem_line(const Problem& problem) {
  std::string where;
  const auto add = [&](std::string_view key, std::string_view value) {
    if (!value.empty()) where += fmt::format("{}{} {}", where.empty() ? "" : ", ", key, value);
  };
  add("node", problem.node);
  add("op", problem.op);
  add("tensor", problem.tensor);
  add("file", problem.file);
  if (problem.offset) add("byte", std::to_string(*problem.offset));
  std::string out = problem.message;
  if (!where.empty()) out += fmt::format("\n    where: {}", where);
  if (!problem.hint.empty()) out += fmt::format("\n    next:  {}", problem.hint);
  return out;
}

std::string error_text(const Status& status, bool color) {
  const std::string_view red = color ? "\033[1;31m" : "", plain = color ? "\033[0m" : "";
  std::string out = fmt::format("{}forebay: {}:{} {}\n", red, to_string(status.code()), plain, status.message());
  const std::vector<Problem>& problems = status.problems();
  constexpr std::size_t kShown = 50;
  if (problems.size() == 1) {
    const Problem& only = problems.front();
    Problem rest = only;
    rest.message = status.message().find(only.message) == std::string::npos ? only.message : "";
    const std::string line = problem_line(rest);
    if (!line.empty()) out += line.starts_with('\n') ? line.substr(1) + "\n" : "  " + line + "\n";
  } else {
    for (std::size_t i = 0; i < problems.size() && i < kShown; ++i) out += fmt::format("  - {}\n", problem_line(problems[i]));
    if (problems.size() > kShown) out += fmt::format("  and {} more; --json lists all\n", problems.size() - kShown);
  }
  if (status.code() == Code::internal) {
    const auto where = status.location();
    out += fmt::format("  this is a bug of forebay: please report it with this text and {}:{}\n", where.file_name(), where.line());
  }
  return out;
}

std::uint64_t peak_rss_bytes() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace forebay::tools
