// Texts made from the option table: help, the list for shells that complete, the environment twins.
#pragma once

#include <string>

#include "option_table.h"

namespace forebay::tools {

std::string program_help(bool color);
std::string verb_help(const VerbSpec& verb, bool color);  // examples first
std::string bash_completion(std::string_view program);
// Markdown tables of all verbs and options, for the documentation.
std::string options_markdown();

}  // namespace forebay::tools
