// The forebay command: picks the verb, parses its options, runs it, turns its Status into the exit code.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "build_info.h"
#include "console.h"
#include "forebay/version.h"
#include "help_text.h"
#include "json_out.h"
#include "option_parse.h"
#include "session.h"

namespace forebay::tools {
namespace {

#ifdef FOREBAY_RUNTIME_ONLY
constexpr std::string_view kProgram = "forebay-run";
#else
constexpr std::string_view kProgram = "forebay";
#endif

int put(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  return std::fflush(stdout) == 0 ? 0 : 8;
}

int fail(const Status& status, bool as_json) {
  if (as_json) {
    json::object object;
    object["error"] = error_json(status);
    put(json::serialize(object) + "\n");
  } else {
    const std::string text = error_text(status, color_wanted(STDERR_FILENO));
    std::fwrite(text.data(), 1, text.size(), stderr);
  }
  return exit_code(status);
}

int print_version(bool as_json) {
  if (!as_json) return put(fmt::format("{} {} ({})\n", kProgram, version_string(), kBuildCommit));
  json::object object, libraries;
  object["schema"] = "forebay.version/1";
  object["version"] = version_string();
  object["commit"] = kBuildCommit;
  object["compiler"] = kBuildCompiler;
  object["build_type"] = kBuildType;
  object["cuda"] = nullptr;
  for (const auto& [name, version] : kBuildLibraries) {
    if (*version != 0) libraries[name] = version;
  }
  object["libraries"] = std::move(libraries);
  return put(json::serialize(object) + "\n");
}

Status unknown_verb(const std::string& word) {
  std::vector<std::string> names{"completion"};
  for (const VerbSpec& verb : verb_specs()) names.emplace_back(verb.name);
  const std::string near = nearest(word, names);
  Problem problem;
  problem.code = "usage";
  problem.message = fmt::format("unknown verb \"{}\"", word);
  problem.hint = near.empty() ? fmt::format("{} --help lists the verbs", kProgram) : fmt::format("did you mean {} {}?", kProgram, near);
  return Status(Code::invalid_argument, std::move(problem));
}

int run_verb(const VerbSpec& verb, const std::vector<std::string>& arguments) {
  bool as_json = false;
  for (const std::string& word : arguments) as_json = as_json || word == "--json";
  auto parsed = parse_options(verb, arguments);
  if (!parsed.ok()) return fail(parsed.status(), as_json);
  if (parsed->flag("help")) return put(verb_help(verb, color_wanted(STDOUT_FILENO)));
  install_signal_handlers();
  Session session(verb, std::move(parsed).value());
  Status status = check_version();
  try {
    if (status.ok()) status = verb.run(session);
  } catch (const std::bad_alloc&) {
    status = Status(Code::out_of_memory, fmt::format("the host refused memory in forebay {}", verb.name));
  } catch (const std::exception& error) {  // nothing of ours throws; what does is a bug
    status = Status(Code::internal, fmt::format("unexpected exception in forebay {}: {}", verb.name, error.what()));
  }
  return session.finish(status);
}

int run_program(const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    if (words.size() > 1) {
      if (const VerbSpec* verb = find_verb(words[1])) return put(verb_help(*verb, color_wanted(STDOUT_FILENO)));
    }
    const int code = put(program_help(color_wanted(STDOUT_FILENO)));
    return words.empty() ? 2 : code;
  }
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  const bool as_json = !rest.empty() && rest.back() == "--json";
  if (words[0] == "--version" || words[0] == "version") return print_version(as_json);
  if (words[0] == "completion") {
    if (rest.size() == 1 && rest[0] == "bash") return put(bash_completion(kProgram));
    if (rest.size() == 1 && rest[0] == "markdown") return put(options_markdown());
    return fail(Status(Code::invalid_argument, "completion takes one word: bash"), as_json);
  }
  const VerbSpec* verb = find_verb(words[0]);
  if (verb == nullptr) return fail(unknown_verb(words[0]), as_json);
  return run_verb(*verb, rest);
}

}  // namespace
}  // namespace forebay::tools

int main(int argc, char** argv) {
  try {
    // OpenSSL sets itself up at its first use and may crash there when memory is refused: so at the start, with nothing begun yet.
    static_cast<void>(forebay::sha256({}));
    return forebay::tools::run_program(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
  } catch (const std::bad_alloc&) {  // not even the error could be put together
    constexpr std::string_view kText = "forebay: out_of_memory: the host refuses memory\n";
    static_cast<void>(!::write(STDERR_FILENO, kText.data(), kText.size()));
    return 6;
  }
}
