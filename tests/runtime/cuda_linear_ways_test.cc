// Every way of forebay.Linear on the CUDA device: close to the CPU, and the same bits however slabs share launches. Skips where there is no
// GPU, and says so.
#include <cmath>
#include <map>
#include <set>

#include "runtime/cuda_runner.h"

namespace forebay::testing {
namespace {

struct WaysCase {
  std::int64_t rows, columns, depth, slab;  // slab 0: the weight is whole
  bool turned = false;                      // W is [depth, columns], cut along its depth
  const char* activation = "";
};
std::string text_of(const WaysCase& c, DType type) {
  return std::to_string(c.rows) + "x" + std::to_string(c.columns) + "x" + std::to_string(c.depth) + (c.turned ? "_kn_" : "_nk_") +
         std::string(dtype_name(type));
}

double worst_of(const HostTensor& want, const HostTensor& got) {
  double worst = 0;
  for (std::int64_t i = 0; i < want.shape().elements(); ++i) {
    const double error = std::abs(number(want, i) - number(got, i)) / std::max(1.0, std::abs(number(want, i)));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

class CudaLinearWays : public ::testing::Test {
 protected:
  struct Node {
    HostTensor x, w, bias;
    NodeRun run;
  };
  void SetUp() override {
    std::string why;
    device_ = CudaRunner::create(&why);
    if (device_ == nullptr) GTEST_SKIP() << why;
  }

  void make(const WaysCase& c, DType type, Node* node) {
    node->x = random_tensor(random_, type, Shape{c.rows, c.depth});
    node->w = random_tensor(random_, type, c.turned ? Shape{c.depth, c.columns} : Shape{c.columns, c.depth});
    node->bias = random_tensor(random_, type, Shape{c.columns});
    NodeRun& run = node->run;
    run = {"forebay", "Linear", 1, {{"activation", plan::AttributeValue(std::string(c.activation))}}, {&node->x, &node->w, &node->bias}};
    if (c.turned) run.attributes.push_back({"transB", plan::AttributeValue(std::int64_t{0})});
    const std::int64_t rows = node->w.shape()[0];
    if (c.slab > 0) run.sliced = 1;
    for (std::int64_t at = 0; c.slab > 0 && at < rows; at += c.slab) run.slab_rows.push_back(std::min(c.slab, rows - at));
  }
  std::vector<KernelWay> ways_of(const NodeRun& run) {
    device_->way.reset();
    const auto first = device_->run(run);
    EXPECT_TRUE(first.ok()) << first.status().to_string();
    auto* const choosing = dynamic_cast<ChoosingKernel*>(device_->kernel.get());
    return choosing == nullptr ? std::vector<KernelWay>() : choosing->ways();
  }

  std::unique_ptr<CudaRunner> device_;
  std::mt19937_64 random_{20261127};
};

TEST_F(CudaLinearWays, OwnWaysAreRightAndSlabsShareLaunchesWithoutChangingBits) {
  const WaysCase cases[] = {{197, 768, 768, 160, false, "Gelu"},
                            {197, 768, 768, 160, true, "Gelu"},
                            {9, 100, 3072, 48},
                            {130, 264, 520, 0},
                            {77, 392, 600, 112, true, "Relu"},
                            {20, 104, 3080, 48, true},
                            {33, 40, 8, 16},
                            {300, 520, 128, 64, true},
                            {260, 1000, 200, 0, true, "Swish"},
                            {777, 520, 704, 144, true},
                            {600, 776, 264, 208, false, "Relu"},
                            {51, 128, 384, 256, true},  // fewer steps of depth than the most splits: none may be left without
                            {10, 136, 192, 80, true}};
  std::set<std::string> seen;
  for (const DType type : {DType::f16, DType::bf16}) {
    for (const WaysCase& c : cases) {
      Node node;
      make(c, type, &node);
      if (std::string(c.activation) == "Swish") node.run.attributes.push_back({"activation_alpha", plan::AttributeValue(1.0f)});
      const auto want = run_node(node.run, device_->pool);
      ASSERT_TRUE(want.ok()) << want.status().to_string();
      std::map<std::string, HostTensor> by_splits;  // of cuda.linear_hopper: tiles are of no account
      for (const KernelWay& way : ways_of(node.run)) {
        if (!way.kernel.starts_with("cuda.linear")) continue;
        const std::string what = text_of(c, type) + " " + way.kernel + " " + way.config;
        device_->way = way;
        auto apart = device_->run(node.run);
        ASSERT_TRUE(apart.ok()) << what << ": " << apart.status().to_string();
        EXPECT_EQ(device_->id, way.kernel);
        EXPECT_LE(worst_of((*want)[0], (*apart)[0]), type == DType::f16 ? 0.01 : 0.08) << what;
        const auto together = device_->run(node.run, {}, true);
        ASSERT_TRUE(together.ok()) << what << ": " << together.status().to_string();
        EXPECT_EQ(device_->merged, c.slab > 0) << what;
        EXPECT_TRUE(same_bytes((*apart)[0], (*together)[0])) << what;
        device_->gap = 192;
        const auto scattered = device_->run(node.run, {}, true);
        device_->gap = 0;
        ASSERT_TRUE(scattered.ok()) << what << ": " << scattered.status().to_string();
        EXPECT_TRUE(same_bytes((*apart)[0], (*scattered)[0])) << what << ", slabs that do not lie behind each other";
        seen.insert(way.kernel);
        if (way.kernel != "cuda.linear_hopper") continue;
        const std::size_t named = way.config.find(" splits");
        const auto [kept, first] =
            by_splits.try_emplace(named == std::string::npos ? "" : way.config.substr(named), std::move((*apart)[0]));
        EXPECT_TRUE(first || same_bytes(kept->second, (*apart)[0])) << what;
      }
    }
  }
  EXPECT_TRUE(seen.contains("cuda.linear_mma"));
#ifdef FOREBAY_CUDA_HOPPER
  const auto& numerics = device_->device->info().numerics;
  const bool hopper = std::find(numerics.begin(), numerics.end(), std::pair<std::string, std::string>("sm", "90")) != numerics.end();
  EXPECT_EQ(seen.contains("cuda.linear_hopper"), hopper);
#endif
}

// Sizes of encoders and prompts. The times are properties of the report (--gtest_output).
TEST_F(CudaLinearWays, WaysAgreeAtRealSizes) {
  const WaysCase cases[] = {{128, 768, 768, 0, true},   {128, 3072, 768, 0, true},  {128, 768, 3072, 0, true},  {197, 2304, 768, 0, true},
                            {1024, 768, 768, 0, true},  {1024, 3072, 768, 0, true}, {1024, 768, 3072, 0, true}, {6304, 768, 768, 0, true},
                            {6304, 3072, 768, 0, true}, {512, 2048, 2048, 0},       {2048, 4096, 4096, 0}};
  for (const WaysCase& c : cases) {
    Node node;
    make(c, DType::bf16, &node);
    HostTensor first;
    for (const KernelWay& way : ways_of(node.run)) {
      if (way.kernel == "cuda.gemm_tiles") continue;
      const std::string what = text_of(c, DType::bf16) + "_" + way.kernel + "_" + way.config.substr(0, way.config.find(" word="));
      device_->way = way;
      auto made = device_->run(node.run);
      const bool own = way.kernel.starts_with("cuda.linear");
      if (!own && !made.ok() && made.status().code() == Code::unsupported) continue;  // what the library lists it need not serve
      ASSERT_TRUE(made.ok()) << what << ": " << made.status().to_string();
      RecordProperty(what, std::to_string(device_->microseconds));
      if (first.bytes() == 0) {
        first = std::move((*made)[0]);
      } else {
        EXPECT_LE(worst_of(first, (*made)[0]), 0.08) << what;
      }
    }
  }
}

}  // namespace
}  // namespace forebay::testing
