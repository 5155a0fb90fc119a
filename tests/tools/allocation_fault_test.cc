// F45: the n-th allocation fails, once or from then on, in every verb that matters. The command ends with the right result or with exit
// code 6 and one clear error; what it was writing is whole or not there. Only the start, which libraries need to set themselves up and which
// `--version` goes through too, may end in a signal.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "command_runner.h"
#include "support/fault_fs.h"

namespace forebay::tools_test {
namespace {

using Words = std::vector<std::string>;

class AllocationFault : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new WorkFolder;
    ASSERT_EQ(run_command({"synth", "llama", "--params", "2M", "--dtype", "f32", "-o", at("m")}).exit, 0);
    ASSERT_EQ(run_command({"build", at("m/model.onnx"), "--strip", "--refit", "all", "-o", at("p.fbp")}).exit, 0);
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static std::string at(const std::string& name) { return folder_->path(name); }

  static long allocations(const Words& words) {
    const CommandResult result = run_command(words, {{}, {{"LD_PRELOAD", FAILING_MALLOC}, {"FAILING_MALLOC_COUNT", at("count")}}, -1});
    EXPECT_EQ(result.exit, 0) << result.err;
    long count = 0;
    std::ifstream(at("count")) >> count;
    return count;
  }

  // `out`: what the command writes; whatever is there afterwards must be what it writes without a fault.
  static void sweep(const Words& words, const std::string& out) {
    const long start = allocations({"--version"});
    std::filesystem::remove_all(at(out));
    const long sites = allocations(words);
    ASSERT_GT(sites, start);
    const std::map<std::string, std::string> whole = content(out);
    const long tries = forebay::test::full_fault_sweep() ? 400 : 12;
    int refused = 0;
    for (const bool lasting : {false, true}) {
      for (long i = 0; i <= tries; ++i) {
        const long nth = 1 + (sites - 1) * i / tries;
        SCOPED_TRACE("allocation " + std::to_string(nth) + " of " + std::to_string(sites) + (lasting ? ", lasting" : ""));
        std::filesystem::remove_all(at(out));
        std::map<std::string, std::string> environment{{"LD_PRELOAD", FAILING_MALLOC}, {"FAILING_MALLOC_NTH", std::to_string(nth)}};
        if (lasting) environment["FAILING_MALLOC_LASTING"] = "1";
        const CommandResult result = run_command(words, {{}, environment, -1});
        const bool aborted_early = result.exit > 128 && nth <= start;
        const bool clean = result.exit == 0 || (result.exit == 6 && result.err.find("out_of_memory") != std::string::npos) || aborted_early;
        EXPECT_TRUE(clean) << "exit " << result.exit << ": " << result.err;
        const std::map<std::string, std::string> now = content(out);
        const bool whole_or_nothing = now.empty() ? result.exit != 0 || whole.empty() : now == whole;
        EXPECT_TRUE(whole_or_nothing);
        forebay::test::note_fault(clean && whole_or_nothing);
        refused += result.exit != 0 ? 1 : 0;
      }
    }
    EXPECT_GT(refused, 0);
  }

  // Files below `out` and what is in them; temporary ones (a name with a dot in front) are not part of a result.
  static std::map<std::string, std::string> content(const std::string& out) {
    std::map<std::string, std::string> files;
    const auto read = [&](const std::filesystem::path& path) {
      std::ifstream in(path, std::ios::binary);
      files[path.filename().string()].assign(std::istreambuf_iterator<char>(in), {});
    };
    if (std::filesystem::is_regular_file(at(out))) read(at(out));
    if (!std::filesystem::is_directory(at(out))) return files;
    if (!std::filesystem::exists(at(out) + "/forebay.index")) return files;  // without its index it is no set
    for (const auto& entry : std::filesystem::directory_iterator(at(out))) read(entry.path());
    return files;
  }

  static WorkFolder* folder_;
};
WorkFolder* AllocationFault::folder_ = nullptr;

TEST_F(AllocationFault, F45Build) { sweep({"build", at("m/model.onnx"), "--strip", "--refit", "all", "-o", at("b.fbp")}, "b.fbp"); }
TEST_F(AllocationFault, F45Refit) { sweep({"refit", at("p.fbp"), "--weights", at("m"), "-o", at("r.fbp")}, "r.fbp"); }
TEST_F(AllocationFault, F45Pack) { sweep({"pack", at("p.fbp"), "--weights", at("m"), "-o", at("shards")}, "shards"); }
TEST_F(AllocationFault, F45Run) { sweep({"run", at("p.fbp"), "--weights", at("m"), "--budget", "50%"}, "nothing"); }

}  // namespace
}  // namespace forebay::tools_test
