#include "help_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "forebay/version.h"

namespace forebay::tools {
namespace {

constexpr std::string_view kProgram =
#ifdef FOREBAY_RUNTIME_ONLY
    "forebay-run";
#else
    "forebay";
#endif

std::string bold(std::string_view text, bool color) { return color ? fmt::format("\033[1m{}\033[0m", text) : std::string(text); }

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string spelling(const OptionSpec& option) {
  std::string out = option.letter != 0 ? fmt::format("-{}, ", option.letter) : std::string("    ");
  out += fmt::format("--{}", option.name);
  if (option.kind == Kind::optional_path) return out + std::string(option.value);
  std::string_view value = option.value;
  if (option.kind == Kind::choice) value = option.choices;
  if (!value.empty()) out += fmt::format(" {}", value);
  return out;
}

bool used_by(const VerbSpec& verb, const OptionSpec& option) {
  return in_list(verb.options, option.name) || in_list(kCommonOptions, option.name);
}

std::string program_of(std::string_view example) {  // the examples are written for `forebay`
  return std::string(kProgram) + std::string(example.substr(std::string_view("forebay").size()));
}

}  // namespace

std::string program_help(bool color) {
  std::string out = bold("Examples", color) + "\n";
#ifndef FOREBAY_RUNTIME_ONLY
  out += "  forebay demo\n  forebay build model.onnx -o model.plan --strip\n";
#endif
  out += fmt::format("  {} run model.plan --weights model.onnx --budget 8GiB\n\n", kProgram);
  out += fmt::format("{} {}: runs models that do not fit, with the same bits at every budget\n\n", kProgram, version_string());
  out += bold("Verbs", color) + "\n";
  for (const VerbSpec& verb : verb_specs()) out += fmt::format("  {:<12} {}\n", verb.name, verb.summary);
  out += "  completion   print the completion script: completion bash\n";
  out += fmt::format("\n{} VERB --help describes a verb; {} --version [--json] names this build\n", kProgram, kProgram);
  out += "Exit codes: 0 ok, 1 comparison failed, 2 usage, 3 model or plan invalid or unsupported, 4 weights missing or mismatched,\n"
         "  5 digest mismatch or truncation, 6 out of budget, 7 device unavailable, 8 read or write error, 9 internal error, 130 interrupted\n";
  return out;
}

std::string verb_help(const VerbSpec& verb, bool color) {
  std::string out = bold("Examples", color) + "\n";
  for (const std::string_view line : lines_of(verb.examples)) out += fmt::format("  {}\n", program_of(line));
  out += fmt::format("\n{} {}{}{} [options]: {}\n\n", kProgram, verb.name, verb.operands.empty() ? "" : " ", verb.operands, verb.summary);
  out += bold("Options", color) + " (environment twin in brackets; the command line wins)\n";
  for (const OptionSpec& option : option_specs()) {
    if (!used_by(verb, option)) continue;
    out += fmt::format("  {}\n", spelling(option));
    std::string text(option.help);
    if (option.kind != Kind::choice && !option.choices.empty()) text += fmt::format(" ({})", option.choices);
    if (!option.otherwise.empty()) text += fmt::format("; default {}", option.otherwise);
    out += fmt::format("          {}", text);
    out += option.name == "help" ? "\n" : fmt::format(" [{}]\n", environment_name(option.name));
  }
  if (in_list(verb.options, "weights")) out += "\nLists may be repeated or given several values; in the environment they are separated by commas.\n";
  return out;
}

std::string bash_completion(std::string_view program) {
  std::string verbs = "completion";
  for (const VerbSpec& verb : verb_specs()) verbs += fmt::format(" {}", verb.name);
  const std::string function = fmt::format("_{}", program == "forebay" ? "forebay" : "forebay_run");
  std::string out = fmt::format(
      "# bash completion of {0}, made by `{0} completion bash`\n"
      "{1}() {{\n"
      "  local current=\"${{COMP_WORDS[COMP_CWORD]}}\" previous=\"${{COMP_WORDS[COMP_CWORD-1]}}\" verb=\"${{COMP_WORDS[1]}}\" options=\"\"\n"
      "  COMPREPLY=()\n"
      "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
      "    COMPREPLY=($(compgen -W \"{2} --help --version\" -- \"$current\"))\n"
      "    return\n"
      "  fi\n"
      "  case \"$previous\" in\n",
      program, function, verbs);
  for (const OptionSpec& option : option_specs()) {
    if (option.choices.empty()) continue;
    std::string words(option.choices);
    std::replace(words.begin(), words.end(), '|', ' ');
    out += fmt::format("    --{}) COMPREPLY=($(compgen -W \"{}\" -- \"$current\")); return ;;\n", option.name, words);
  }
  out += "  esac\n  case \"$verb\" in\n    completion) options=\"bash\" ;;\n";
  for (const VerbSpec& verb : verb_specs()) {
    out += fmt::format("    {}) options=\"", verb.name);
    bool first = true;
    for (const OptionSpec& option : option_specs()) {
      if (!used_by(verb, option)) continue;
      out += fmt::format("{}--{}", first ? "" : " ", option.name);
      first = false;
    }
    out += "\" ;;\n";
  }
  out += fmt::format(
      "  esac\n"
      "  if [[ \"$current\" == -* || \"$verb\" == completion ]]; then\n"
      "    COMPREPLY=($(compgen -W \"$options\" -- \"$current\"))\n"
      "  else\n"
      "    COMPREPLY=($(compgen -f -- \"$current\"))\n"
      "  fi\n"
      "}}\n"
      "complete -o filenames -F {} {}\n",
      function, program);
  return out;
}

std::string options_markdown() {
  std::string out = "| verb | does |\n|---|---|\n";
  for (const VerbSpec& verb : verb_specs()) out += fmt::format("| `{} {}` | {} |\n", verb.name, verb.operands, verb.summary);
  out += "\n| option | environment | default | verbs | meaning |\n|---|---|---|---|---|\n";
  for (const OptionSpec& option : option_specs()) {
    if (option.name == "help") continue;
    std::string verbs;
    for (const VerbSpec& verb : verb_specs()) {
      if (in_list(verb.options, option.name)) verbs += fmt::format("{}{}", verbs.empty() ? "" : ", ", verb.name);
    }
    std::string shown = spelling(option), escaped;
    for (const char c : shown) escaped += c == '|' ? std::string("\\|") : std::string(1, c);
    escaped.erase(0, escaped.find('-'));
    out += fmt::format("| `{}` | `{}` | {} | {} | {} |\n", escaped, environment_name(option.name), option.otherwise,
                       verbs.empty() ? "all" : verbs, option.help);
  }
  return out;
}

}  // namespace forebay::tools
