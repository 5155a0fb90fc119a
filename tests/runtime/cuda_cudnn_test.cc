// cuDNN's engines beside the CPU's kernel: each that is listed is right, gives its own bits again, whole and in slabs, and from what is
// written down of it. Skips where there is no GPU or no cuDNN, and says so.
#include <algorithm>
#include <cmath>

#include "runtime/choosing_kernel.h"
#include "runtime/cuda_runner.h"

namespace forebay::testing {
namespace {

using Ints = std::vector<std::int64_t>;

struct ConvCase {
  DType type;
  Ints x;  // [N,H,W,C]
  std::int64_t filters, taps;
  std::int64_t group = 1, stride = 1;
  const char* activation = "";
  bool adds = false;
};

class CudaCudnn : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    device_ = CudaRunner::create(&why);
    if (device_ == nullptr) GTEST_SKIP() << why;
    const auto& numerics = device_->device->info().numerics;
    if (std::none_of(numerics.begin(), numerics.end(), [](const auto& entry) { return entry.first == "cudnn"; }))
      GTEST_SKIP() << "no cuDNN here";
  }

  // Operands stay in `held_` until the next case.
  NodeRun conv(const ConvCase& c) {
    held_.clear();
    const std::int64_t pad = c.taps / 2, height = (c.x[1] + 2 * pad - c.taps) / c.stride + 1,
                       width = (c.x[2] + 2 * pad - c.taps) / c.stride + 1;
    const Shape shapes[] = {Shape(c.x), Shape{c.filters, c.taps * c.taps * c.x[3] / c.group}, Shape{c.filters},
                            Shape{c.x[0], height, width, c.filters}};
    for (const Shape& shape : shapes) held_.push_back(random_tensor(random_, c.type, shape));
    NodeRun run{"forebay", "NhwcConv", 1, {}, {&held_[0], &held_[1], &held_[2]}, 1, plan::kNone, {}};
    if (c.adds) run.inputs.push_back(&held_[3]);
    run.attributes = {{"kernel_shape", Ints{c.taps, c.taps}},
                      {"group", c.group},
                      {"strides", Ints{c.stride, c.stride}},
                      {"pads", Ints{pad, pad, pad, pad}}};
    if (*c.activation != 0) run.attributes.push_back({"activation", std::string(c.activation)});
    if (std::string(c.activation) == "Swish") run.attributes.push_back({"activation_alpha", 1.0f});
    if (std::string(c.activation) == "LeakyRelu") run.attributes.push_back({"activation_alpha", 0.25f});
    if (std::string(c.activation) == "Clip")
      run.attributes.insert(run.attributes.end(), {{"activation_alpha", -0.5f}, {"activation_beta", 0.75f}});
    return run;
  }
  // Of cuDNN alone; the kernel is the runner's.
  std::vector<KernelWay> engines(const NodeRun& run) {
    device_->way.reset();
    const auto usual = device_->run(run);
    EXPECT_TRUE(usual.ok()) << usual.status().to_string();
    auto* const choosing = dynamic_cast<ChoosingKernel*>(device_->kernel.get());
    std::vector<KernelWay> ways = choosing != nullptr ? choosing->ways() : std::vector<KernelWay>();
    std::erase_if(ways, [](const KernelWay& way) { return way.kernel != "cuda.cudnn"; });
    return ways;
  }
  static double worst(const HostTensor& want, const HostTensor& got) {
    double most = 0;
    for (std::int64_t i = 0; i < want.shape().elements(); ++i) {
      const double error = std::abs(number(want, i) - number(got, i)) / std::max(1.0, std::abs(number(want, i)));
      if (!(error <= most)) most = error;
    }
    return most;
  }

  std::unique_ptr<CudaRunner> device_;
  std::mt19937_64 random_{20261122};
  std::vector<HostTensor> held_;
};

TEST_F(CudaCudnn, EveryEngineIsRightAndComesAgainHoweverFiltersAreCut) {
  std::size_t served = 0;
  for (const ConvCase& c :
       {ConvCase{DType::f16, {2, 28, 28, 64}, 256, 1, 1, 1, "Relu", true}, ConvCase{DType::f16, {3, 23, 21, 64}, 72, 3, 1, 1, "Relu"},
        ConvCase{DType::bf16, {2, 14, 14, 128}, 136, 3, 1, 2, ""}, ConvCase{DType::f16, {2, 33, 31, 24}, 144, 1, 1, 1, "Swish"},
        ConvCase{DType::bf16, {1, 7, 7, 512}, 64, 3, 1, 1, "", true}, ConvCase{DType::f16, {2, 40, 44, 4}, 64, 7, 1, 2, "Relu"},
        ConvCase{DType::f16, {2, 15, 15, 64}, 64, 3, 4, 1, "Clip"}, ConvCase{DType::bf16, {2, 9, 9, 32}, 32, 1, 1, 1, "LeakyRelu"}}) {
    NodeRun run = conv(c);
    const auto want = run_node(run, device_->pool);
    ASSERT_TRUE(want.ok()) << want.status().to_string();
    const std::vector<KernelWay> ways = engines(run);
    served += ways.empty() ? 0 : 1;
    for (const KernelWay& way : ways) {
      device_->way = way;
      run.sliced = plan::kNone;
      run.slab_rows.clear();
      const auto whole = device_->run(run), again = device_->run(run);
      ASSERT_TRUE(whole.ok() && again.ok()) << way.config << ": " << whole.status().to_string();
      EXPECT_EQ(device_->id, "cuda.cudnn");
      EXPECT_LE(worst((*want)[0], (*whole)[0]), c.type == DType::f16 ? 0.02 : 0.06) << way.config;
      EXPECT_TRUE(same_bytes((*whole)[0], (*again)[0])) << way.config;
      if (c.group != 1 || c.x[3] % 8 != 0) continue;
      run.sliced = 1;
      for (std::int64_t at = 0; at < c.filters; at += 40) run.slab_rows.push_back(std::min<std::int64_t>(40, c.filters - at));
      const auto apart = device_->run(run), together = device_->run(run, {}, true);
      ASSERT_TRUE(apart.ok() && together.ok()) << way.config << ": " << apart.status().to_string();
      EXPECT_TRUE(same_bytes((*whole)[0], (*apart)[0]) && same_bytes((*whole)[0], (*together)[0])) << way.config;
    }
  }
  EXPECT_GE(served, 4u);
}

TEST_F(CudaCudnn, NotANumberGoesThroughAnActivation) {
  for (const char* activation : {"Relu", "Clip", "Swish"}) {
    const NodeRun run = conv({DType::f16, {1, 8, 8, 64}, 64, 1, 1, 1, activation});
    held_[0].as<std::uint16_t>()[3 * 64 + 5] = 0x7e00;  // of one pixel
    const auto want = run_node(run, device_->pool);
    ASSERT_TRUE(want.ok()) << want.status().to_string();
    for (const KernelWay& way : engines(run)) {
      device_->way = way;
      const auto got = device_->run(run);
      ASSERT_TRUE(got.ok()) << way.config << ": " << got.status().to_string();
      for (std::int64_t i = 0; i < (*want)[0].shape().elements(); ++i)
        ASSERT_EQ(std::isnan(number((*want)[0], i)), std::isnan(number((*got)[0], i))) << activation << " " << way.config << " at " << i;
    }
  }
}

// A plan or a file of times can say anything: only what the library itself lists for these shapes is taken.
TEST_F(CudaCudnn, WhatTheLibraryDoesNotListIsRefusedAndChangesNothing) {
  const NodeRun run = conv({DType::f16, {2, 28, 28, 64}, 256, 1, 1, 1, "Relu"});
  const std::vector<KernelWay> ways = engines(run);
  ASSERT_FALSE(ways.empty());
  auto* const choosing = dynamic_cast<ChoosingKernel*>(device_->kernel.get());
  ASSERT_NE(choosing, nullptr);
  const std::string before(device_->kernel->id());
  const std::uint64_t bytes = device_->kernel->workspace_bytes();
  const std::string& good = ways[0].config;
  std::vector<std::string> wrong{"", "nonsense", "v1" + good.substr(1), good + " ", good + "1", good.substr(0, good.find(" workspace="))};
  const std::size_t engine = good.find("engine=") + 7;
  wrong.push_back(good.substr(0, engine) + "9999" + good.substr(good.find(' ', engine)));
  for (const std::string& config : wrong) {
    EXPECT_EQ(choosing->take({"cuda.cudnn", config}).code(), Code::unsupported) << config;
    EXPECT_EQ(device_->kernel->id(), before);
    EXPECT_EQ(device_->kernel->workspace_bytes(), bytes);
  }
  ASSERT_TRUE(choosing->take(ways[0]).ok());
  EXPECT_EQ(device_->kernel->id(), "cuda.cudnn");
  EXPECT_EQ(choosing->take({"cuda.cudnn", "nonsense"}).code(), Code::unsupported);
  EXPECT_EQ(device_->kernel->id(), "cuda.cudnn");
}

TEST_F(CudaCudnn, WhatIsExcludedIsNotOffered) {
  const NodeRun run = conv({DType::f16, {2, 28, 28, 64}, 256, 1, 1, 1, "Relu"});
  ASSERT_FALSE(engines(run).empty());
  auto* const choosing = dynamic_cast<ChoosingKernel*>(device_->kernel.get());
  ASSERT_NE(choosing, nullptr);
  const std::string problem = choosing->problem();
  choosing->exclude([](std::string_view name) { return name == "cuda.cudnn"; });
  EXPECT_EQ(choosing->problem(), problem);
  const std::vector<KernelWay> left = choosing->ways();
  EXPECT_GE(left.size(), 2u);
  for (const KernelWay& way : left) EXPECT_NE(way.kernel, "cuda.cudnn") << way.config;
}

}  // namespace
}  // namespace forebay::testing
