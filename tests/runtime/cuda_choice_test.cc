// Ways of the CUDA device's products: each is right, is measured, and gives its own bits again from what is written down of it. Skips where
// there is no GPU, and says so.
#include <algorithm>
#include <cmath>
#include <set>

#include "runtime/choosing_kernel.h"
#include "runtime/cuda_runner.h"
#include "runtime/run_timer.h"

namespace forebay::testing {
namespace {

class CudaChoice : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    device_ = CudaRunner::create(&why);
    if (device_ == nullptr) GTEST_SKIP() << why;
  }
  std::unique_ptr<CudaRunner> device_;
  std::mt19937_64 random_{20261123};
};

double worst_error(const HostTensor& want, const HostTensor& got) {
  double worst = 0;
  for (std::int64_t i = 0; i < want.shape().elements(); ++i)
    worst = std::max(worst, std::abs(number(want, i) - number(got, i)) / std::max(1.0, std::abs(number(want, i))));
  return worst;
}

TEST_F(CudaChoice, EveryWayIsRightAndComesAgain) {
  struct Case {
    DType type;
    std::int64_t m, n, k;
    bool turned, finished;
    std::vector<std::int64_t> slabs;
  };
  std::set<std::string> seen;
  for (const Case& c :
       {Case{DType::f32, 64, 768, 512, true, false, {256, 256, 256}}, Case{DType::bf16, 64, 768, 512, true, false, {256, 256, 256}},
        Case{DType::f16, 200, 328, 520, true, true, {160, 160, 8}}, Case{DType::bf16, 130, 392, 264, false, false, {}},
        Case{DType::bf16, 77, 264, 600, false, true, {256, 256, 88}}, Case{DType::f16, 33, 136, 40, false, false, {}}}) {
    const HostTensor a = random_tensor(random_, c.type, Shape{c.m, c.k}),
                     b = random_tensor(random_, c.type, c.turned ? Shape{c.n, c.k} : Shape{c.k, c.n}),
                     bias = random_tensor(random_, c.type, Shape{c.n});
    NodeRun run{"", "Gemm", 13, {{"transB", std::int64_t{c.turned}}}, {&a, &b}, 1, c.slabs.empty() ? plan::kNone : 1, c.slabs};
    if (c.finished) run.inputs.push_back(&bias);
    const auto want = run_node(run, device_->pool);
    ASSERT_TRUE(want.ok()) << want.status().to_string();
    device_->way.reset();
    const auto first = device_->run(run);
    ASSERT_TRUE(first.ok()) << first.status().to_string();
    auto* const choosing = dynamic_cast<ChoosingKernel*>(device_->kernel.get());
    ASSERT_NE(choosing, nullptr);
    const std::string problem = choosing->problem();
    const std::vector<KernelWay> ways = choosing->ways();
    ASSERT_FALSE(ways.empty());
    EXPECT_EQ(ways.back(), (KernelWay{"cuda.gemm_tiles", ""}));
    for (const KernelWay& way : ways) {
      std::vector<HostTensor> made;
      seen.insert(way.kernel);
      for (int round = 0; round < 2; ++round) {
        device_->way = way;
        auto got = device_->run(run);
        ASSERT_TRUE(got.ok()) << way.config << ": " << got.status().to_string();
        EXPECT_EQ(device_->id, way.kernel);
        EXPECT_LE(worst_error((*want)[0], (*got)[0]), c.type == DType::f32   ? 1e-4
                                                      : c.type == DType::f16 ? 0.02
                                                                             : 0.06)
            << problem << ", " << way.kernel << " " << way.config;
        made.push_back(std::move((*got)[0]));
      }
      EXPECT_TRUE(same_bytes(made[0], made[1])) << problem << ", " << way.kernel << " " << way.config;
      EXPECT_GT(device_->microseconds, 0.5) << way.kernel;
      EXPECT_LT(device_->microseconds, 1e5) << way.kernel;
    }
  }
  EXPECT_TRUE(seen.contains("cuda.gemm_mma") && seen.contains("cuda.gemm_tiles"));
}

TEST_F(CudaChoice, WhatIsNotOfThisLibraryIsRefusedAndChangesNothing) {
  const HostTensor a = random_tensor(random_, DType::bf16, Shape{64, 512}), b = random_tensor(random_, DType::bf16, Shape{768, 512});
  const NodeRun run{"", "Gemm", 13, {{"transB", std::int64_t{1}}}, {&a, &b}, 1, 1, {256, 256, 256}};
  ASSERT_TRUE(device_->run(run).ok());
  auto* const choosing = dynamic_cast<ChoosingKernel*>(device_->kernel.get());
  ASSERT_NE(choosing, nullptr);
  const std::string before(device_->kernel->id());
  for (const KernelWay& way : {KernelWay{"cuda.cublaslt", "v1 algo=0 word=0.0.0.0.0.0.0.0"}, KernelWay{"cuda.cublaslt", "nonsense"},
                               KernelWay{"cuda.nobody", ""}}) {
    EXPECT_EQ(choosing->take(way).code(), Code::unsupported) << way.config;
    EXPECT_EQ(device_->kernel->id(), before);
  }
}

// A plan or a file of times can say anything: only what the library itself lists for these shapes is taken.
TEST_F(CudaChoice, AnAlgorithmThatTheLibraryDoesNotListIsRefused) {
  const HostTensor a = random_tensor(random_, DType::bf16, Shape{64, 512}), b = random_tensor(random_, DType::bf16, Shape{768, 512});
  const NodeRun run{"", "Gemm", 13, {{"transB", std::int64_t{1}}}, {&a, &b}, 1, 1, {256, 256, 256}};
  ASSERT_TRUE(device_->run(run).ok());
  auto* const choosing = dynamic_cast<ChoosingKernel*>(device_->kernel.get());
  ASSERT_NE(choosing, nullptr);
  std::vector<std::string> listed;
  for (const KernelWay& way : choosing->ways()) {
    if (way.kernel == "cuda.cublaslt") listed.push_back(way.config);
  }
  if (listed.empty()) GTEST_SKIP() << "no cuBLASLt here";
  int refused = 0;
  for (const std::string& config : listed) {
    ASSERT_TRUE(choosing->take({"cuda.cublaslt", config}).ok()) << config;
    for (std::size_t at = config.find(" word=") + 6; at < config.size(); ++at) {
      if (config[at] == '.') continue;
      std::string other = config;
      other[at] = config[at] == '0' ? '1' : '0';
      if (std::find(listed.begin(), listed.end(), other) != listed.end()) continue;
      EXPECT_EQ(choosing->take({"cuda.cublaslt", other}).code(), Code::unsupported) << other;
      ++refused;
    }
  }
  EXPECT_GT(refused, 10);
}

}  // namespace
}  // namespace forebay::testing
