// Kernel choices on the command line, on a machine without the device: what is recorded and said, and how times are shown.
#include <gtest/gtest.h>

#include <fstream>

#include "plan/plan_io.h"
#include "runtime/kernel_choice.h"
#include "tools/command_runner.h"

namespace forebay::tools_test {
namespace {

class CommandKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    nothing_.environment = {{"FOREBAY_CUDA_LIBRARY", work_.path("no-such-library.so")}};
    const CommandResult synth = run_command({"synth", "llama", "--params", "1M", "-o", work_.path("m"), "--json"});
    ASSERT_EQ(synth.exit, 0) << synth.err << synth.out;
  }
  std::string model() const { return work_.path("m/model.onnx"); }
  WorkFolder work_;
  CommandOptions nothing_;  // no device
};

TEST_F(CommandKernels, WithoutTheDeviceHeuristicsAreRecordedAndSaid) {
  const std::string plan = work_.path("a.plan");
  const CommandResult build = run_command(
      {"build", model(), "-o", plan, "--strip", "--device", "cuda", "--kernels", "own", "--exclude-kernels", "cuda.gemm_tiles", "--json"},
      nothing_);
  ASSERT_EQ(build.exit, 0) << build.out << build.err;
  EXPECT_NE(build.err.find("not timed"), std::string::npos) << build.err;
  const boost::json::object choice = build.json().at("kernel_choice").as_object();
  EXPECT_EQ(choice.at("by"), "heuristic");
  EXPECT_EQ(choice.at("timed"), 0);
  const auto read = plan::read_plan(posix_file_system(), plan, nullptr);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  ASSERT_EQ((*read)->kernels.size(), 2u);
  EXPECT_EQ((*read)->kernels[1].device_kind, "cuda");
  EXPECT_TRUE(kernel_excluded(**read, "cuda.cublaslt") && kernel_excluded(**read, "cuda.packed+cuda.cublaslt") &&
              kernel_excluded(**read, "cuda.cudnn") && kernel_excluded(**read, "cuda.gemm_tiles"));
  EXPECT_FALSE(kernel_excluded(**read, "cuda.gemv256"));
  EXPECT_EQ(run_command({"run", plan, "--weights", model(), "--json"}).exit, 0);  // the CPU runs it as ever
}

TEST_F(CommandKernels, WhatMakesNoSenseIsRefused) {
  const std::string plan = work_.path("b.plan"), cache = work_.path("times.txt");
  EXPECT_EQ(run_command({"build", model(), "-o", plan, "--kernels", "own", "--json"}).exit, 2);
  EXPECT_EQ(run_command({"build", model(), "-o", plan, "--device", "cuda", "--exclude-kernels", "a,,b", "--json"}, nothing_).exit,
            0);  // a list: empty words fall out
  { std::ofstream(cache) << "# times\nthis is no line of it\n"; }
  const CommandResult corrupt =
      run_command({"build", model(), "-o", plan, "--device", "cuda", "--timing-cache", cache, "--json"}, nothing_);
  EXPECT_EQ(corrupt.exit, 2);
  EXPECT_NE(corrupt.out.find("line 2"), std::string::npos) << corrupt.out;
  ASSERT_EQ(run_command({"build", model(), "-o", plan, "--strip", "--json"}).exit, 0);
  EXPECT_EQ(run_command({"run", plan, "--weights", model(), "--retime", "--json"}).exit, 2);
}

TEST_F(CommandKernels, InspectShowsTimesAndWhatRunsOnTheHost) {
  const std::string path = work_.path("c.plan");
  ASSERT_EQ(run_command({"build", model(), "-o", path, "--strip", "--json"}).exit, 0);
  const auto read = plan::read_plan(posix_file_system(), path, nullptr);
  ASSERT_TRUE(read.ok());
  plan::KernelSection section{"cuda", "timed on a GPU", {}};
  section.entries.push_back({0, 0, "cuda.cublaslt",
                             "product m=9\nproduct m=9 | cuda.cublaslt | v1 algo=3 word=ab | 1.500\nproduct m=9 | cuda.gemm_tiles |  | "
                             "20.000\nproduct m=9 | cuda.odd |  | failed"});
  section.entries.push_back({0, 1, "cuda.cublaslt", "product m=9"});
  section.entries.push_back({0, 2, "host.cpu.shape", ""});
  section.entries.push_back({0, 3, "cuda.cudnn", "nhwc_conv x\nnhwc_conv x | cuda.cudnn | v91002 engine=nonsense | 2.000"});
  plan::Plan timed = *with_kernels(**read, section);
  EXPECT_TRUE(calls_libraries(timed, "cuda"));
  EXPECT_TRUE(calls_libraries(**read, "cuda"));  // heuristics may take any library
  section.entries = {{0, 0, "cuda.gemm_tiles", "product m=9\nproduct m=9 | cuda.cublaslt | v1 algo=3 word=ab | 1.500"}};
  EXPECT_TRUE(calls_libraries(*with_kernels(**read, section), "cuda"));
  section.entries = {{0, 0, "cuda.gemm_tiles", "product m=9\nproduct m=9 | cuda.gemm_tiles |  | 1.500"}};
  EXPECT_FALSE(calls_libraries(timed, "cpu") || calls_libraries(*with_kernels(**read, section), "cuda"));
  ASSERT_TRUE(plan::write_stripped_plan(posix_file_system(), path, timed, {}).ok());
  const CommandResult text = run_command({"inspect", path});
  ASSERT_EQ(text.exit, 0) << text.err;
  for (const char* line :
       {"kernels for cuda (timed on a GPU):", "on the host: ", "product m=9 (2 nodes)", "*     1.500 us  cuda.cublaslt v1 algo=3\n",
        "     20.000 us  cuda.gemm_tiles", "failed  cuda.odd", "*     2.000 us  cuda.cudnn v91002 engine=nonsense"})
    EXPECT_NE(text.out.find(line), std::string::npos) << line << "\n" << text.out.substr(text.out.find("kernels for"));
  EXPECT_EQ(run_command({"run", path, "--weights", model(), "--json"}).exit, 0);  // a record of another device's is not read here
  const boost::json::object json = run_command({"inspect", path, "--json"}).json();
  const boost::json::object cuda = json.at("kernels").as_array().at(1).as_object();
  EXPECT_EQ(cuda.at("host_nodes").as_array().size(), 1u);
  const boost::json::array ways = cuda.at("problems").as_array().at(0).as_object().at("ways").as_array();
  ASSERT_EQ(ways.size(), 3u);
  EXPECT_TRUE(ways[0].as_object().at("chosen").as_bool());
  EXPECT_EQ(ways[0].as_object().at("config"), "v1 algo=3 word=ab");
  EXPECT_FALSE(ways[2].as_object().contains("us"));
}

}  // namespace
}  // namespace forebay::tools_test
