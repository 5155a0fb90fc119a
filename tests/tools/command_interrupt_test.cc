// Ctrl-C at many moments of every writing verb: exit 130 (or 0 when it came too late), and nothing half-written.
#include <gtest/gtest.h>

#include <algorithm>

#include "tools/command_runner.h"

namespace forebay::tools_test {
namespace {

struct WritingVerb {
  const char* name;
  std::vector<std::string> words;  // OUT stands for the output
};

TEST(Interrupt, LeavesNothingHalfWritten) {
  const WorkFolder source;
  const std::string model = source.path("m/model.onnx"), plan = source.path("m.plan");
  ASSERT_EQ(run_command({"synth", "llama", "--params", "40M", "-o", source.path("m")}).exit, 0);
  ASSERT_EQ(run_command({"build", model, "-o", plan, "--strip"}).exit, 0);
  const std::vector<WritingVerb> verbs{
      {"synth", {"synth", "llama", "--params", "40M", "-o", "OUT"}},
      {"build", {"build", model, "-o", "OUT"}},
      {"pack", {"pack", plan, "--weights", model, "-o", "OUT", "--codec", "zstd"}},
      {"refit", {"refit", plan, "--weights", model, "-o", "OUT"}},
  };
  int interrupted = 0;
  for (const WritingVerb& verb : verbs) {
    for (const int delay : {5, 15, 40, 80, 160}) {
      const WorkFolder work;
      std::vector<std::string> words = verb.words;
      std::replace(words.begin(), words.end(), std::string("OUT"), work.path("out"));
      CommandOptions options;
      options.signal_after_ms = delay;
      const CommandResult result = run_command(words, options);
      // A signal before the handler is there ends the process by itself.
      EXPECT_TRUE(result.exit == 0 || result.exit == 130) << verb.name << " after " << delay << " ms: " << result.exit << " " << result.err;
      if (result.exit == 0) continue;
      ++interrupted;
      std::vector<std::string> left = work.names();
      left.erase(std::remove(left.begin(), left.end(), "out"), left.end());  // an empty folder may stay
      for (const std::string& name : left) ADD_FAILURE() << verb.name << " after " << delay << " ms left " << name;
    }
  }
  EXPECT_GT(interrupted, 0);
}

TEST(Interrupt, RunStopsBetweenPasses) {
  const WorkFolder work;
  ASSERT_EQ(run_command({"synth", "llama", "--params", "1M", "-o", work.path("m")}).exit, 0);
  ASSERT_EQ(run_command({"build", work.path("m/model.onnx"), "-o", work.path("m.plan")}).exit, 0);
  CommandOptions options;
  options.signal_after_ms = 500;
  const CommandResult result = run_command({"run", work.path("m.plan"), "--iterations", "100000000", "--json"}, options);
  EXPECT_EQ(result.exit, 130);
  EXPECT_EQ(result.json().at("error").as_object().at("code"), "cancelled");
}

}  // namespace
}  // namespace forebay::tools_test
