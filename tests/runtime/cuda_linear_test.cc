// forebay.Linear with many rows and a weight in slabs on the CUDA device: close to the CPU, and the same bits however slabs share launches.
#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

struct LinearCase {
  std::int64_t rows, columns, depth, slab;
  const char* activation = "";
  bool bias = true, turned = false;  // turned: W is [depth, columns], cut along its depth
};

class CudaLinear : public CudaKernels {};

TEST_F(CudaLinear, SlabsShareLaunchesWithoutChangingBits) {
  const LinearCase cases[] = {{197, 768, 768, 160, "Gelu"},
                              {9, 100, 3072, 48, ""},
                              {128, 512, 64, 80, "Relu", false},
                              {1100, 1600, 264, 112, ""},
                              {33, 40, 8, 16, "GeluTanh"},
                              {700, 1000, 2048, 64, "Swish", false},
                              {197, 768, 768, 160, "Gelu", true, true},
                              {1500, 1536, 1000, 112, "", true, true},
                              {20, 104, 3080, 48, "Relu", false, true}};
  for (const DType type : {DType::f16, DType::bf16}) {
    for (const LinearCase& c : cases) {
      const HostTensor x = random_tensor(random_, type, Shape{c.rows, c.depth}),
                       w = random_tensor(random_, type, c.turned ? Shape{c.depth, c.columns} : Shape{c.columns, c.depth}),
                       b = random_tensor(random_, type, Shape{c.columns});
      NodeRun run{"forebay", "Linear", 1, {{"activation", plan::AttributeValue(std::string(c.activation))}}, {&x, &w}, 1, 1, {}};
      if (c.bias) run.inputs.push_back(&b);
      if (std::string(c.activation) == "Swish") run.attributes.push_back({"activation_alpha", plan::AttributeValue(1.0f)});
      if (c.turned) run.attributes.push_back({"transB", plan::AttributeValue(std::int64_t{0})});
      const std::int64_t rows = w.shape()[0];
      for (std::int64_t at = 0; at < rows; at += c.slab) run.slab_rows.push_back(std::min(c.slab, rows - at));
      const std::string what = std::string(dtype_name(type)) + ", case " + std::to_string(&c - cases);
      compare(run, 10 * tolerance_of(type), what);
      auto apart = on_device(run);
      merge_ = true;
      auto together = on_device(run);
      merge_ = false;
      ASSERT_TRUE(apart.ok() && together.ok()) << what;
      EXPECT_TRUE(same_bytes((*apart)[0], (*together)[0])) << what;
    }
  }
  EXPECT_EQ(ids_.size(), 1u);
  EXPECT_TRUE(ids_.contains("cuda.linear_hopper") || ids_.contains("cuda.linear_mma"));
  EXPECT_EQ(merged_, 2 * 9);
}

}  // namespace
}  // namespace forebay::testing
