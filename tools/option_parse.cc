#include "option_parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <boost/smart_ptr/make_shared.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/byte_size.h"
#include "base/check.h"

namespace forebay::tools {
namespace po = boost::program_options;
namespace {

std::vector<const OptionSpec*> options_of(const VerbSpec& verb) {
  std::vector<const OptionSpec*> found;
  for (const OptionSpec& option : option_specs()) {
    if (in_list(verb.options, option.name) || in_list(kCommonOptions, option.name)) found.push_back(&option);
  }
  return found;
}

Status usage(std::string message, std::string hint) {
  Problem problem;
  problem.code = "usage";
  problem.message = std::move(message);
  problem.hint = std::move(hint);
  return Status(Code::invalid_argument, std::move(problem));
}

// trtexec spellings become ours; "--json FILE.json" of conformance becomes one word, since --json alone has no value.
std::vector<std::string> expand_aliases(const VerbSpec& verb, std::span<const std::string> arguments) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--") {
      out.insert(out.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i), arguments.end());
      break;
    }
    if (verb.name == "conformance" && word == "--json" && i + 1 < arguments.size() && arguments[i + 1].ends_with(".json")) {
      out.push_back("--json=" + arguments[++i]);
      continue;
    }
    bool replaced = false;
    if (word.starts_with("--")) {
      const std::size_t equal = std::min(word.find('='), word.size());
      const std::string name = word.substr(2, equal - 2), value = equal < word.size() ? word.substr(equal + 1) : "";
      for (const AliasSpec& alias : alias_specs()) {
        if (alias.spelling != name || !in_list(alias.verbs, verb.name)) continue;
        replaced = true;
        std::string_view rest = alias.becomes;
        while (!rest.empty()) {
          const std::size_t end = std::min(rest.find(' '), rest.size());
          std::string next(rest.substr(0, end));
          rest.remove_prefix(std::min(end + 1, rest.size()));
          if (next == "@") next = value;
          else if (next.ends_with('=')) next += value;
          out.push_back(std::move(next));
        }
        break;
      }
    }
    if (!replaced) out.push_back(word);
  }
  return out;
}

bool valid_number(const std::string& text, double& value) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  return result.ec == std::errc() && result.ptr == end && std::isfinite(value);
}

Status check_value(const OptionSpec& option, const std::string& value, std::string_view from) {
  const auto bad = [&](std::string_view expected) {
    return usage(fmt::format("{} \"{}\": expected {}", from, value, expected), fmt::format("the help of the verb describes --{}", option.name));
  };
  const auto is_choice = [&] {
    std::string_view rest = option.choices;
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find('|'), rest.size());
      if (rest.substr(0, end) == value) return true;
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return false;
  };
  switch (option.kind) {
    case Kind::choice:
      if (!is_choice()) return bad(option.choices);
      break;
    case Kind::integer: {
      std::int64_t number = 0;
      const char* end = value.data() + value.size();
      const auto result = std::from_chars(value.data(), end, number);
      if (result.ec != std::errc() || result.ptr != end || number < option.minimum) {
        return bad(fmt::format("a whole number of at least {}", option.minimum));
      }
      break;
    }
    case Kind::real: {
      double number = 0;
      if (!valid_number(value, number) || number < 0) return bad("a number that is not negative");
      break;
    }
    case Kind::size:
      if (is_choice()) break;
      if (const auto bytes = parse_byte_size(value); !bytes.ok() || *bytes < static_cast<std::uint64_t>(option.minimum)) {
        return bad("a size such as 64KiB, 8MiB or 6GB");
      }
      break;
    case Kind::text:
    case Kind::path:
      if (value.empty()) return bad("a value");
      break;
    case Kind::flag:
    case Kind::optional_path:
      break;
  }
  return {};
}

Status unknown_option(const VerbSpec& verb, const std::string& word) {
  std::string name = word.substr(0, word.find('='));
  while (name.starts_with('-')) name.erase(0, 1);
  std::vector<std::string> names;
  for (const OptionSpec* option : options_of(verb)) names.emplace_back(option->name);
  const std::string near = nearest(name, names);
  return usage(fmt::format("unknown option {} of forebay {}", word, verb.name),
               near.empty() ? fmt::format("forebay {} --help lists the options", verb.name) : fmt::format("did you mean --{}?", near));
}

std::vector<std::string> split_commas(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(','), text.size());
    if (end > 0) out.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

po::options_description describe(const std::vector<const OptionSpec*>& specs) {
  po::options_description description;
  for (const OptionSpec* option : specs) {
    std::string name(option->name);
    if (option->letter != 0) name += std::string(",") + option->letter;
    po::value_semantic* semantic = nullptr;
    if (option->kind == Kind::flag) {
      semantic = po::bool_switch();  // the description owns it
    } else {
      auto* value = po::value<std::vector<std::string>>();
      if (option->many) value->multitoken();
      semantic = value;
    }
    description.add(boost::make_shared<po::option_description>(name.c_str(), semantic));
  }
  return description;
}

}  // namespace

Result<ParsedOptions> parse_options(const VerbSpec& verb, std::span<const std::string> arguments) {
  ParsedOptions parsed;
  const std::vector<const OptionSpec*> specs = options_of(verb);
  std::vector<std::string> words;
  for (std::string& word : expand_aliases(verb, arguments)) {  // -vv is -v twice; a flag may come any number of times
    if (word == "-v" || word == "--verbose") parsed.verbosity_ += 1;
    else if (word == "-vv") parsed.verbosity_ += 2;
    else if (word == "--json") parsed.values_["json"] = {""};  // its value must be adjacent: the next word is an operand
    else if (word.starts_with("--json=")) parsed.values_["json"] = {word.substr(std::string_view("--json=").size())};
    else words.push_back(std::move(word));
  }
  try {
    namespace style = po::command_line_style;
    const po::options_description description = describe(specs);
    const auto result = po::command_line_parser(words)
                            .options(description)
                            .style(style::allow_long | style::allow_short | style::allow_dash_for_short | style::long_allow_next |
                                   style::long_allow_adjacent | style::short_allow_next | style::short_allow_adjacent)
                            .allow_unregistered()
                            .run();
    for (const po::basic_option<char>& option : result.options) {
      if (option.unregistered) {
        return unknown_option(verb, option.original_tokens.empty() ? option.string_key : option.original_tokens.front());
      }
      if (option.position_key >= 0 || option.string_key.empty()) {
        for (const std::string& value : option.value) parsed.operands_.push_back(value);
        continue;
      }
      std::vector<std::string>& values = parsed.values_[option.string_key];
      const OptionSpec* spec = find_option(option.string_key);
      if (spec != nullptr && !spec->many && !values.empty() && spec->kind != Kind::flag) {
        return usage(fmt::format("--{} is given twice", option.string_key), "give it once");
      }
      for (const std::string& value : option.value) values.push_back(value);
      if (option.value.empty()) values.emplace_back();
    }
  } catch (const po::error& error) {
    return usage(error.what(), fmt::format("forebay {} --help shows how", verb.name));
  }
  for (const OptionSpec* option : specs) {
    const std::string name(option->name), twin = environment_name(option->name);
    if (const auto given = parsed.values_.find(name); given != parsed.values_.end()) {
      for (const std::string& value : given->second) FB_TRY(check_value(*option, value, "--" + name));
      continue;
    }
    const char* value = std::getenv(twin.c_str());  // NOLINT: options are read once, before any thread starts
    if (value == nullptr || *value == 0 || name == "help") continue;
    const std::string_view word = value;
    if (option->kind == Kind::flag || option->kind == Kind::optional_path) {
      if (word == "0" || word == "false" || word == "no") continue;
      if (name == "verbose") {
        parsed.verbosity_ = std::max(parsed.verbosity_, word == "2" ? 2 : 1);
        continue;
      }
      const bool plain = word == "1" || word == "true" || word == "yes";
      parsed.values_[name] = {plain || option->kind == Kind::flag ? std::string() : std::string(word)};
      continue;
    }
    std::vector<std::string>& values = parsed.values_[name];
    values = option->many ? split_commas(word) : std::vector<std::string>{std::string(word)};
    for (const std::string& one : values) FB_TRY(check_value(*option, one, twin));
  }
  if (parsed.flag("help")) return parsed;
  const int count = static_cast<int>(parsed.operands_.size());
  if (count < verb.min_operands) {
    return usage(fmt::format("forebay {} needs {}", verb.name, verb.operands), fmt::format("forebay {} --help shows examples", verb.name));
  }
  if (verb.max_operands >= 0 && count > verb.max_operands) {
    return usage(fmt::format("unexpected \"{}\"", parsed.operands_[static_cast<std::size_t>(verb.max_operands)]),
                 fmt::format("forebay {} takes {}", verb.name, verb.operands.empty() ? "options only" : verb.operands));
  }
  return parsed;
}

bool ParsedOptions::flag(std::string_view name) const { return has(name); }

std::string ParsedOptions::text(std::string_view name) const {
  if (const auto found = values_.find(std::string(name)); found != values_.end() && !found->second.empty()) return found->second.back();
  const OptionSpec* option = find_option(name);
  return option != nullptr ? std::string(option->otherwise) : std::string();
}

std::int64_t ParsedOptions::integer(std::string_view name) const {
  const std::string value = text(name);
  std::int64_t number = 0;
  std::from_chars(value.data(), value.data() + value.size(), number);  // checked when parsed
  return number;
}

double ParsedOptions::real(std::string_view name) const {
  double number = 0;
  valid_number(text(name), number);
  return number;
}

std::optional<std::uint64_t> ParsedOptions::size(std::string_view name) const {
  const auto bytes = parse_byte_size(text(name));
  return bytes.ok() ? std::optional(*bytes) : std::nullopt;
}

std::vector<std::string> ParsedOptions::list(std::string_view name) const {
  std::vector<std::string> out;
  const auto found = values_.find(std::string(name));
  if (found == values_.end()) return out;
  const OptionSpec* option = find_option(name);
  if (option != nullptr && option->kind == Kind::path) return found->second;  // a file name may hold commas
  for (const std::string& value : found->second) {
    for (std::string& one : split_commas(value)) out.push_back(std::move(one));
  }
  return out;
}

std::string format_size(std::uint64_t bytes) {
  static constexpr std::array<std::string_view, 6> kNames{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kNames.size()) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.{}f} {}", value, value < 10 ? 2 : 1, kNames[unit]);
}

}  // namespace forebay::tools
