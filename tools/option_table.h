// The one table of verbs and options. It drives parsing (option_parse.h), help and completion (help_text.h) and the environment twins.
// To add an option: a row in kOptions and its name in the verb's list. To add a verb: a row in kVerbs and a file verb_NAME.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "forebay/status.h"

namespace forebay::tools {

class Session;

enum class Kind : unsigned char {
  flag,      // no value
  text,
  path,      // completed with file names
  integer,   // >= minimum
  real,      // >= 0
  size,      // bytes: 4096, 64KiB, 6GiB, 1.5GB
  choice,    // one of `choices`
  optional_path,  // --json or --json=FILE
};

struct OptionSpec {
  std::string_view name;     // kebab-case, without dashes
  char letter = 0;           // -o
  Kind kind = Kind::flag;
  bool many = false;         // may be given several times, with several values each
  std::string_view value;    // how the help shows the value
  std::string_view choices;  // "a|b|c" for Kind::choice; also values that a size takes besides numbers
  std::string_view otherwise;  // the default as the help shows it; empty: none
  std::string_view help;
  long long minimum = 0;
};

struct VerbSpec {
  std::string_view name;
  std::string_view operands;  // "PLAN", "DIR...", ""
  int min_operands = 0, max_operands = 0;  // max -1: any number
  std::string_view summary;
  std::string_view examples;  // one a line
  std::string_view options;   // names, separated by spaces; the common ones are added to each verb
  Status (*run)(Session&) = nullptr;
};

// A spelling of trtexec with the same meaning here. Accepted, not shown in the help. `becomes` may be several words; "@" stands for an operand.
struct AliasSpec {
  std::string_view spelling;  // without dashes
  std::string_view verbs;     // separated by spaces
  std::string_view becomes;   // "--strip --refit=all"; a value given with the alias is appended to the last word
};

std::span<const OptionSpec> option_specs();
std::span<const VerbSpec> verb_specs();
std::span<const AliasSpec> alias_specs();
inline constexpr std::string_view kCommonOptions = "json verbose help";

const OptionSpec* find_option(std::string_view name);
const VerbSpec* find_verb(std::string_view name);
bool in_list(std::string_view list, std::string_view word);  // words separated by spaces
std::string environment_name(std::string_view option);       // "host-cache" -> "FOREBAY_HOST_CACHE"
// The candidate with the smallest edit distance, when it is near enough to be worth a suggestion; else empty.
std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace forebay::tools
