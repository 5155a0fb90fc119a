// The file of --map: one renaming a line.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "refit/catalog.h"

namespace forebay::refit {
namespace {

constexpr std::uint64_t kMaxMapBytes = 64ull << 20;
constexpr std::string_view kBlank = " \t\r";

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// A '#' begins a comment at the start of a line and after a blank: names may hold one elsewhere.
std::string_view without_comment(std::string_view line) {
  for (std::size_t at = line.find('#'); at != std::string_view::npos; at = line.find('#', at + 1))
    if (at == 0 || kBlank.find(line[at - 1]) != std::string_view::npos) return line.substr(0, at);
  return line;
}

Problem bad_line(const std::string& file, std::size_t number, std::string message) {
  Problem problem;
  problem.code = "map_invalid";
  problem.message = "line " + std::to_string(number) + ": " + std::move(message);
  problem.file = file;
  problem.hint = "write lines as: plan_name = source_name [transpose]";
  return problem;
}

// Empty on success, else what is wrong with the line.
std::string parse_line(std::string_view line, std::string& plan_name, NameMap::Entry& entry) {
  std::size_t at = line.find(" = ");
  std::size_t width = 3;
  if (at == std::string_view::npos) {
    at = line.find('=');
    width = 1;
  }
  if (at == std::string_view::npos) return "there is no '='";
  const std::string_view left = trim(line.substr(0, at));
  std::string_view right = trim(line.substr(at + width));
  if (left.empty()) return "there is no name before '='";
  if (right.empty()) return "there is no name after '='";
  if (const std::size_t blank = right.find_first_of(kBlank); blank != std::string_view::npos) {
    const std::string_view word = trim(right.substr(blank));
    if (word != "transpose") return "'" + std::string(word.substr(0, 80)) + "' is not understood; only 'transpose' may follow the name";
    entry.transpose = true;
    right = right.substr(0, blank);
  }
  plan_name = left;
  entry.source = right;
  return {};
}

}  // namespace

Result<NameMap> NameMap::read(FileSystem& fs, const std::string& path) {
  FB_ASSIGN(const std::unique_ptr<File> file, fs.open_read(path, DirectIo::off));
  FB_ASSIGN(const FileIdentity identity, file->identity());
  if (identity.bytes > kMaxMapBytes)
    return Status(Code::invalid_argument, "the name map has " + std::to_string(identity.bytes) + " bytes, above the limit of " +
                                              std::to_string(kMaxMapBytes)).with_file(file->name());
  std::string text(static_cast<std::size_t>(identity.bytes), '\0');
  FB_TRY(file->read_exactly(0, std::as_writable_bytes(std::span(text))));

  NameMap map;
  std::map<std::string, std::size_t> line_of;
  std::vector<Problem> problems;
  std::size_t number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = trim(without_comment(rest.substr(0, end)));
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
    ++number;
    if (line.empty()) continue;
    std::string name;
    Entry entry;
    if (std::string wrong = parse_line(line, name, entry); !wrong.empty()) {
      problems.push_back(bad_line(file->name(), number, std::move(wrong)));
    } else if (const auto [at, fresh] = line_of.emplace(name, number); !fresh) {
      problems.push_back(bad_line(file->name(), number, "'" + name + "' is already renamed in line " + std::to_string(at->second)));
    } else {
      map.entries.emplace(std::move(name), std::move(entry));
    }
  }
  if (!problems.empty()) {
    std::string message = "the name map has " + std::to_string(problems.size()) + " bad lines: " + problems.front().message;
    return Status(Code::invalid_argument, std::move(message), std::move(problems));
  }
  return map;
}

}  // namespace forebay::refit
