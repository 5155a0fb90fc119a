// Drivers and devices that will not do, through a driver made for it (fake_driver.cc): one line with the reason, exit 7, and the CPU works
// on.
#include <gtest/gtest.h>

#include <fstream>

#include "tools/command_runner.h"

namespace forebay::tools_test {
namespace {

class CommandDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(run_command({"synth", "llama", "--params", "1M", "-o", work_.path("m"), "--json"}).exit, 0);
    ASSERT_EQ(run_command({"build", work_.path("m/model.onnx"), "-o", plan(), "--strip", "--json"}).exit, 0);
  }
  std::string plan() const { return work_.path("m.plan"); }
  static CommandOptions with_driver(const std::string& folder, const std::string& says = "") {
    CommandOptions options;
    options.environment = {{"LD_LIBRARY_PATH", folder},
                           {"FOREBAY_FAKE_DRIVER", says},
                           {"FOREBAY_CUDA_LIBRARY", FOREBAY_CUDA_LIBRARY_FILE},
                           {"CUDA_VISIBLE_DEVICES", "0"}};
    return options;
  }
  void expect_refused(const CommandOptions& options, const std::string& why, const std::string& next) {
    SCOPED_TRACE(why);
    const CommandResult refused = run_command({"run", plan(), "--weights", work_.path("m"), "--device", "cuda"}, options);
    EXPECT_EQ(refused.exit, 7) << refused.err;
    EXPECT_TRUE(refused.err.starts_with("forebay: unavailable: " + why + "\n")) << refused.err;
    EXPECT_NE(refused.err.find(next), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find("--device cpu"), std::string::npos) << refused.err;
    EXPECT_EQ(run_command({"run", plan(), "--weights", work_.path("m"), "--json"}, options).exit, 0);
  }
  WorkFolder work_;
};

TEST_F(CommandDevice, IsRefusedWithTheReason) {
  const std::string fake = FOREBAY_FAKE_DRIVER_FOLDER, needed = std::to_string(FOREBAY_CUDA_MAJOR);
  const std::string good = needed + "000 0 ";
  expect_refused(with_driver(fake, "11040 0 1 9 0"), "the NVIDIA driver supports CUDA 11.4, this build needs " + needed + ".0 or newer",
                 "update the driver");
  expect_refused(with_driver(fake, needed + "000 100 0 0 0"), "the CUDA driver shows no device",
                 "CUDA_VISIBLE_DEVICES");  // CUDA_ERROR_NO_DEVICE
  expect_refused(with_driver(fake, good + "0 0 0"), "the CUDA driver shows no device", "CUDA_VISIBLE_DEVICES");
  expect_refused(
      with_driver(fake, needed + "000 803 1 9 0"),
      "the NVIDIA driver does not work: starting it, error 803 (system has unsupported display driver / cuda driver combination)",
      "nvidia-smi");
  expect_refused(with_driver(fake, needed + "000 4711 1 9 0"),
                 "the NVIDIA driver does not work: starting it, error 4711 (an error without a name)", "nvidia-smi");
  expect_refused(with_driver(fake, good + "1 3 5"),
                 "Fake 9000 has compute capability 3.5, this build needs " + std::string(FOREBAY_CUDA_OLDEST_TEXT) + " or newer",
                 "8.0 or newer");
}

// This driver says that all is well, and then can do nothing: what CUDA's runtime calls that is its own affair, but no bug of ours.
TEST_F(CommandDevice, WhatFailsBehindTheDriversAnswersIsTheDevices) {
  const CommandResult refused = run_command({"run", plan(), "--weights", work_.path("m"), "--device", "cuda"},
                                            with_driver(FOREBAY_FAKE_DRIVER_FOLDER, std::to_string(FOREBAY_CUDA_MAJOR) + "000 0 1 90 0"));
  EXPECT_EQ(refused.exit, 7) << refused.err;
  EXPECT_TRUE(refused.err.starts_with("forebay: unavailable: choosing the device: cudaError")) << refused.err;
  EXPECT_NE(refused.err.find("--device cpu"), std::string::npos) << refused.err;
}

TEST_F(CommandDevice, NoDriverIsSaid) {
  { std::ofstream(work_.path("libcuda.so.1")) << std::string(4096, 'x'); }
  expect_refused(with_driver(work_.path()), "no NVIDIA driver is there (libcuda.so.1)", "--gpus all");
}

}  // namespace
}  // namespace forebay::tools_test
