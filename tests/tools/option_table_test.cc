#include "option_table.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <string>

#include "help_text.h"
#include "option_parse.h"
#include "shape_argument.h"

namespace forebay::tools {
namespace {

Result<ParsedOptions> parse(const char* verb, std::vector<std::string> words) { return parse_options(*find_verb(verb), words); }

std::vector<std::string> words_of(std::string_view list) {
  std::vector<std::string> words;
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(' '), list.size());
    if (end > 0) words.emplace_back(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return words;
}

TEST(OptionTable, EveryOptionOfEveryVerbIsInTheTable) {
  for (const VerbSpec& verb : verb_specs()) {
    for (const std::string& name : words_of(verb.options)) EXPECT_NE(find_option(name), nullptr) << verb.name << " --" << name;
    EXPECT_NE(verb.run, nullptr) << verb.name;
    EXPECT_FALSE(verb.examples.empty()) << verb.name;
  }
}

TEST(OptionTable, EveryOptionIsUsedAndNamedOnce) {
  std::set<std::string_view> names;
  std::set<char> letters;
  for (const OptionSpec& option : option_specs()) {
    EXPECT_TRUE(names.insert(option.name).second) << option.name;
    if (option.letter != 0) {
      EXPECT_TRUE(letters.insert(option.letter).second) << option.letter;
    }
    bool used = in_list(kCommonOptions, option.name);
    for (const VerbSpec& verb : verb_specs()) used = used || in_list(verb.options, option.name);
    EXPECT_TRUE(used) << option.name << " belongs to no verb";
  }
}

TEST(OptionTable, HelpBeginsWithExamplesAndNamesTheTwins) {
  for (const VerbSpec& verb : verb_specs()) {
    const std::string help = verb_help(verb, false);
    EXPECT_TRUE(help.starts_with("Examples\n  forebay ")) << help.substr(0, 60);
    for (const std::string& name : words_of(verb.options)) {
      EXPECT_NE(help.find("--" + name), std::string::npos) << verb.name << " " << name;
      EXPECT_NE(help.find("[" + environment_name(name) + "]"), std::string::npos) << verb.name << " " << name;
    }
    EXPECT_EQ(help.find('\033'), std::string::npos);
  }
  EXPECT_NE(verb_help(*find_verb("run"), true).find('\033'), std::string::npos);
}

TEST(OptionTable, CompletionKnowsEveryVerbAndItsOptions) {
  const std::string script = bash_completion("forebay");
  for (const VerbSpec& verb : verb_specs()) {
    const std::size_t at = script.find("    " + std::string(verb.name) + ") options=\"");
    ASSERT_NE(at, std::string::npos) << verb.name;
    const std::string line = script.substr(at, script.find('\n', at) - at);
    for (const std::string& name : words_of(verb.options)) EXPECT_NE(line.find("--" + name), std::string::npos) << verb.name << " " << name;
  }
  EXPECT_NE(options_markdown().find("`FOREBAY_HOST_CACHE`"), std::string::npos);
}

TEST(OptionParse, ReadsOperandsListsSizesAndFlags) {
  const auto parsed = parse("run", {"m.plan", "--weights", "a.onnx", "b,c.safetensors", "--budget=25%", "--host-cache", "2GiB", "-vv", "--stateful"});
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->operands(), std::vector<std::string>{"m.plan"});
  EXPECT_EQ(parsed->list("weights"), (std::vector<std::string>{"a.onnx", "b,c.safetensors"}));  // a comma may be part of a file's name
  EXPECT_EQ(parsed->list("budget"), std::vector<std::string>{"25%"});
  EXPECT_EQ(parsed->size("host-cache"), 2ull << 30);
  EXPECT_EQ(parsed->verbosity(), 2);
  EXPECT_TRUE(parsed->flag("stateful"));
  EXPECT_FALSE(parsed->flag("strict"));
  EXPECT_EQ(parsed->integer("iterations"), 1);  // the default
}

TEST(OptionParse, UnknownOptionNamesTheNearest) {
  const auto parsed = parse("run", {"m.plan", "--bugdet", "1GiB"});
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(exit_code(parsed.status()), 2);
  EXPECT_NE(parsed.status().problems().front().hint.find("--budget"), std::string::npos) << parsed.status().to_string();
}

TEST(OptionParse, RefusesBadValues) {
  const std::vector<std::vector<std::string>> bad{
      {"m.plan", "--iterations", "0"},  {"m.plan", "--iterations", "2x"}, {"m.plan", "--io", "fast"},   {"m.plan", "--host-cache", "lots"},
      {"m.plan", "--host-cache", "-1"}, {"m.plan", "--seed", "-3"},       {"m.plan", "--output-dir="},  {},
      {"m.plan", "extra.plan"},         {"m.plan", "--seed", "1", "--seed", "2"},
  };
  for (const auto& words : bad) {
    const auto parsed = parse("run", words);
    EXPECT_FALSE(parsed.ok()) << (words.empty() ? "" : words.back());
    if (!parsed.ok()) {
      EXPECT_EQ(parsed.status().code(), Code::invalid_argument);
    }
  }
}

TEST(OptionParse, EnvironmentTwinsStandInAndTheCommandLineWins) {
  ASSERT_EQ(setenv("FOREBAY_SEED", "17", 1), 0);
  ASSERT_EQ(setenv("FOREBAY_WEIGHTS", "a.onnx,b.onnx", 1), 0);
  ASSERT_EQ(setenv("FOREBAY_STRICT", "0", 1), 0);
  ASSERT_EQ(setenv("FOREBAY_FINITE", "1", 1), 0);
  const auto twin = parse("run", {"m.plan"});
  const auto given = parse("run", {"m.plan", "--seed", "3"});
  ASSERT_EQ(setenv("FOREBAY_SEED", "many", 1), 0);
  const auto bad = parse("run", {"m.plan"});
  for (const char* name : {"FOREBAY_SEED", "FOREBAY_WEIGHTS", "FOREBAY_STRICT", "FOREBAY_FINITE"}) unsetenv(name);
  ASSERT_TRUE(twin.ok());
  EXPECT_EQ(twin->integer("seed"), 17);
  EXPECT_EQ(twin->list("weights"), (std::vector<std::string>{"a.onnx", "b.onnx"}));
  EXPECT_FALSE(twin->flag("strict"));
  EXPECT_TRUE(twin->flag("finite"));
  ASSERT_TRUE(given.ok());
  EXPECT_EQ(given->integer("seed"), 3);
  ASSERT_FALSE(bad.ok());
  EXPECT_NE(bad.status().message().find("FOREBAY_SEED"), std::string::npos);
}

TEST(OptionParse, TakesTrtexecSpellingsWithTheSameMeaning) {
  const auto parsed = parse("build", {"--onnx=m.onnx", "--saveEngine=m.plan", "--stripWeights", "--maxShapes=x:8x3x224x224"});
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->operands(), std::vector<std::string>{"m.onnx"});
  EXPECT_EQ(parsed->text("output"), "m.plan");
  EXPECT_TRUE(parsed->flag("strip"));
  EXPECT_EQ(parsed->text("refit"), "identical");
  EXPECT_EQ(parsed->list("max-shapes"), std::vector<std::string>{"x:8x3x224x224"});
  EXPECT_EQ(verb_help(*find_verb("build"), false).find("saveEngine"), std::string::npos);  // hidden
}

TEST(OptionParse, ConformanceJsonMayNameItsFile) {
  const auto file = parse("conformance", {"node", "--json", "out.json"});
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->text("json"), "out.json");
  const auto plain = parse("inspect", {"--json", "model.safetensors.index.json"});
  ASSERT_TRUE(plain.ok()) << plain.status().to_string();
  EXPECT_EQ(plain->operands(), std::vector<std::string>{"model.safetensors.index.json"});
  EXPECT_TRUE(plain->has("json"));
  EXPECT_EQ(plain->text("json"), "");
}

TEST(ShapeArgument, ReadsBothSpellings) {
  const auto shapes = parse_shapes({"input:0:1x3x4", "other=2x5", "s=scalar"}, "shapes");
  ASSERT_TRUE(shapes.ok());
  EXPECT_EQ(shapes->at("input:0"), (std::vector<std::int64_t>{1, 3, 4}));
  EXPECT_EQ(shapes->at("other"), (std::vector<std::int64_t>{2, 5}));
  EXPECT_TRUE(shapes->at("s").empty());
  for (const char* bad : {"x", "x=", "x=1x", "x=-1", "x=1xA", "x=1x2x3x4x5x6x7x8x9", "=3"}) EXPECT_FALSE(parse_shapes({bad}, "shapes").ok()) << bad;
  EXPECT_FALSE(parse_shapes({"x=1", "x=2"}, "shapes").ok());
}

TEST(ShapeArgument, JoinsRanges) {
  const auto ranges = join_shape_ranges({"x=1x3"}, {}, {"x=8x3"});
  ASSERT_TRUE(ranges.ok());
  EXPECT_EQ(ranges->front().opt, (std::vector<std::int64_t>{8, 3}));
  EXPECT_FALSE(join_shape_ranges({"x=9x3"}, {}, {"x=8x3"}).ok());
  EXPECT_FALSE(join_shape_ranges({"x=1"}, {}, {"x=8x3"}).ok());
}

TEST(Sizes, AreWrittenForPeople) {
  EXPECT_EQ(format_size(512), "512 B");
  EXPECT_EQ(format_size(3ull << 29), "1.50 GiB");
}

}  // namespace
}  // namespace forebay::tools
