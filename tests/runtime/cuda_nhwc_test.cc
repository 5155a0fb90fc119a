// Channels-last operators on the CUDA device, beside the CPU's kernels: close, and the same bits for each call and each cut of a weight.
#include "runtime/cuda_harness.h"
#include "runtime/cuda_runner.h"

namespace forebay::testing {
namespace {

using Ints = std::vector<std::int64_t>;

plan::AttributeValue ints(Ints values) {
  return plan::AttributeValue(std::move(values));
}

struct ConvCase {
  Ints x;  // [N,H,W,C]
  std::int64_t filters;
  Ints kernel;
  std::int64_t group = 1;
  Ints strides = {1, 1}, pads = {0, 0, 0, 0}, dilations = {1, 1};
  const char* activation = "";
};

// Every tile; few channels; filters that are no multiple of 8; sums in a cluster and without; images of one pixel; groups.
const ConvCase kConvs[] = {
    {{2, 33, 35, 4}, 64, {7, 7}, 1, {2, 2}, {3, 3, 3, 3}, {1, 1}, "Relu"},
    {{9, 64, 64, 4}, 72, {3, 3}, 1, {2, 1}, {1, 1, 1, 1}, {1, 1}, ""},
    {{1, 28, 28, 64}, 256, {1, 1}, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, "HardSwish"},
    {{9, 48, 48, 64}, 192, {3, 3}, 1, {1, 1}, {1, 1, 1, 1}, {1, 1}, "Relu"},
    {{9, 64, 64, 24}, 48, {3, 3}, 1, {1, 1}, {1, 1, 1, 1}, {1, 1}, "Swish"},
    {{1, 7, 7, 512}, 130, {3, 3}, 1, {1, 1}, {1, 1, 1, 1}, {1, 1}, ""},
    {{2, 14, 14, 256}, 80, {1, 1}, 1, {2, 2}, {0, 0, 0, 0}, {1, 1}, ""},
    {{3, 1, 1, 40}, 10, {1, 1}, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, "Sigmoid"},
    {{2, 15, 13, 32}, 48, {3, 3}, 4, {2, 1}, {1, 0, 2, 1}, {2, 1}, "Clip"},
    {{2, 17, 17, 24}, 24, {5, 5}, 24, {2, 2}, {2, 2, 2, 2}, {1, 1}, "Swish"},
    {{2, 19, 18, 264}, 264, {3, 3}, 264, {1, 1}, {1, 1, 1, 1}, {1, 1}, ""},
    {{1, 20, 23, 32}, 32, {3, 3}, 32, {2, 2}, {1, 1, 1, 1}, {1, 1}, "Relu"},
    {{1, 20, 23, 40}, 40, {5, 5}, 40, {1, 1}, {2, 2, 2, 2}, {1, 1}, ""},
    {{1, 14, 14, 320}, 320, {7, 7}, 320, {1, 1}, {3, 3, 3, 3}, {1, 1}, ""},
    {{2, 16, 16, 16}, 16, {3, 2}, 16, {1, 2}, {1, 0, 1, 1}, {2, 3}, ""},
};

class CudaNhwc : public CudaKernels {
 protected:
  static double worst(const HostTensor& a, const HostTensor& b) {
    double most = 0;
    for (std::int64_t i = 0; i < a.shape().elements(); ++i) {
      const double error = std::abs(number(a, i) - number(b, i)) / std::max(1.0, std::abs(number(a, i)));
      if (!(error <= most)) most = error;
    }
    return most;
  }
  void repeats(const NodeRun& run, const std::string& what) {
    auto once = on_device(run), again = on_device(run);
    ASSERT_TRUE(once.ok() && again.ok()) << what;
    EXPECT_TRUE(same_bytes((*once)[0], (*again)[0])) << what;
  }
  NodeRun conv_run(const ConvCase& c, std::initializer_list<const HostTensor*> inputs) {
    NodeRun run{"forebay", "NhwcConv", 1, {}, inputs, 1, plan::kNone, {}};
    run.attributes = {{"kernel_shape", ints(c.kernel)},
                      {"group", plan::AttributeValue(c.group)},
                      {"strides", ints(c.strides)},
                      {"pads", ints(c.pads)},
                      {"dilations", ints(c.dilations)}};
    if (*c.activation != 0) run.attributes.push_back({"activation", plan::AttributeValue(std::string(c.activation))});
    if (std::string(c.activation) == "Clip") run.attributes.push_back({"activation_beta", plan::AttributeValue(0.75f)});
    if (std::string(c.activation) == "Swish") run.attributes.push_back({"activation_alpha", plan::AttributeValue(1.0f)});
    return run;
  }
};

TEST_F(CudaNhwc, ConvolutionsAreCloseWholeAndInSlabs) {
  for (const DType type : {DType::f16, DType::bf16}) {
    for (const ConvCase& c : kConvs) {
      const std::int64_t each = c.x[3] / c.group, depth = c.kernel[0] * c.kernel[1] * each;
      const HostTensor x = random_tensor(random_, type, Shape(c.x)), w = random_tensor(random_, type, Shape{c.filters, depth}),
                       b = random_tensor(random_, type, Shape{c.filters});
      NodeRun run = conv_run(c, {&x, &w, &b});
      HostTensor sum;  // every other case adds an image
      if (((&c - kConvs) & 1) != 0) {
        auto plain = run_node(run, pool_);
        ASSERT_TRUE(plain.ok()) << plain.status().to_string();
        sum = random_tensor(random_, type, (*plain)[0].shape());
        run.inputs.push_back(&sum);
      }
      const std::string what = std::string(dtype_name(type)) + ", case " + std::to_string(&c - kConvs);
      // Both round once from sums in f32; the sums differ in their order.
      const double tolerance = 10 * tolerance_of(type) + 5e-8 * static_cast<double>(depth);
      compare(run, tolerance, what);
      repeats(run, what);
      if (c.group != 1) continue;
      run.sliced = 1;
      run.slab_rows = random_cut(random_, c.filters);
      compare(run, tolerance, what + " in " + std::to_string(run.slab_rows.size()) + " slabs");
      const std::int64_t size = 16 * (1 + static_cast<std::int64_t>(random_() % 4));
      run.slab_rows.clear();
      for (std::int64_t at = 0; at < c.filters; at += size) run.slab_rows.push_back(std::min(size, c.filters - at));
      auto apart = on_device(run);
      merge_ = true;
      auto together = on_device(run);
      merge_ = false;
      ASSERT_TRUE(apart.ok() && together.ok()) << what;
      EXPECT_TRUE(same_bytes((*apart)[0], (*together)[0])) << what << " in slabs of " << size;
    }
  }
  ids_.erase("cuda.nhwc.wgmma");  // on 9.0 alone
  ids_.erase("cuda.nhwc.tma");
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.nhwc.mma", "cuda.nhwc.stem", "cuda.nhwc.depthwise"}));
}

// Odd edges of every tile, whole and with slabs in one launch.
TEST_F(CudaNhwc, EveryWayIsClose) {
  std::string why;
  const auto runner = CudaRunner::create(&why);
  ASSERT_NE(runner, nullptr) << why;
  const ConvCase cases[] = {{{5, 41, 43, 64}, 200, {3, 3}, 1, {1, 1}, {1, 1, 1, 1}, {1, 1}, "Relu"},
                            {{17, 40, 37, 40}, 72, {3, 3}, 1, {2, 1}, {1, 1, 0, 1}, {1, 1}, ""},
                            {{5, 77, 77, 8}, 136, {1, 1}, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, "HardSwish"},
                            {{5, 41, 43, 136}, 72, {1, 1}, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, "Swish"},
                            {{5, 77, 77, 4}, 64, {7, 7}, 1, {1, 1}, {3, 3, 3, 3}, {1, 1}, ""},
                            {{40, 77, 75, 4}, 100, {7, 6}, 1, {3, 2}, {3, 2, 3, 3}, {2, 1}, "Relu"},
                            {{2, 33, 35, 4}, 32, {3, 3}, 1, {2, 2}, {1, 1, 1, 1}, {1, 1}, "Swish"},
                            {{7, 29, 31, 128}, 136, {3, 2}, 1, {2, 3}, {1, 2, 0, 1}, {2, 1}, ""},
                            {{9, 14, 14, 512}, 256, {1, 1}, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, "Relu"},
                            {{9, 28, 28, 72}, 256, {1, 1}, 1, {2, 2}, {0, 0, 0, 0}, {1, 1}, ""}};
  for (const DType type : {DType::f16, DType::bf16}) {
    for (const ConvCase& c : cases) {
      const std::int64_t depth = c.kernel[0] * c.kernel[1] * c.x[3];
      const HostTensor x = random_tensor(random_, type, Shape(c.x)), w = random_tensor(random_, type, Shape{c.filters, depth}),
                       b = random_tensor(random_, type, Shape{c.filters});
      NodeRun run = conv_run(c, {&x, &w, &b});
      const HostTensor factors = random_tensor(random_, type, Shape{c.x[3] == 136 ? c.x[0] : 1, 1, 1, c.x[3]});
      if (c.x[3] == 136 || c.x[3] == 8) run.inputs.insert(run.inputs.end(), {nullptr, &factors});
      auto expected = run_node(run, pool_);
      ASSERT_TRUE(expected.ok());
      runner->way.reset();
      ASSERT_TRUE(runner->run(run).ok());
      auto* const choosing = dynamic_cast<ChoosingKernel*>(runner->kernel.get());
      ASSERT_NE(choosing, nullptr);
      const std::vector<KernelWay> ways = choosing->ways();
      EXPECT_GE(ways.size(), 2u);
      for (const KernelWay& way : ways) {
        const std::string what =
            std::string(dtype_name(type)) + ", case " + std::to_string(&c - cases) + ", " + way.kernel + " " + way.config;
        runner->way = way;
        run.sliced = plan::kNone;
        run.slab_rows.clear();
        auto whole = runner->run(run);
        ASSERT_TRUE(whole.ok()) << what << ": " << whole.status().to_string();
        EXPECT_LE(worst((*whole)[0], (*expected)[0]), 10 * tolerance_of(type) + 5e-8 * static_cast<double>(depth)) << what;
        run.sliced = 1;
        for (std::int64_t at = 0; at < c.filters; at += 48) run.slab_rows.push_back(std::min<std::int64_t>(48, c.filters - at));
        auto together = runner->run(run, {}, true);
        ASSERT_TRUE(together.ok()) << what << ": " << together.status().to_string();
        EXPECT_TRUE(same_bytes((*whole)[0], (*together)[0])) << what;
      }
    }
  }
}

// Kernels count in 32 bits.
TEST_F(CudaNhwc, WindowsBeyondTheirNumbersAreRefused) {
  const std::int64_t step = std::int64_t{1} << 31, pad = std::int64_t{1} << 28;
  const HostTensor x = random_tensor(random_, DType::f16, Shape{1, 4, 4, 8}), w = random_tensor(random_, DType::f16, Shape{8, 8});
  for (const ConvCase& c : {ConvCase{{}, 8, {1, 1}, 1, {step, 1}}, ConvCase{{}, 8, {1, 1}, 1, {step / 2, 1}, {0, 0, pad, 0}}}) {
    const auto refused = on_device(conv_run(c, {&x, &w}));
    EXPECT_EQ(refused.status().code(), Code::unsupported) << refused.status().to_string();
    EXPECT_NE(refused.status().to_string().find("bits"), std::string::npos) << refused.status().to_string();
  }
  const auto served = on_device(conv_run(ConvCase{{}, 8, {1, 1}, 1, {step / 2, 1}}, {&x, &w}));
  EXPECT_TRUE(served.ok()) << served.status().to_string();
}

TEST_F(CudaNhwc, PoolsFactorsAndTurnsAreClose) {
  using Attributes = std::vector<plan::Attribute>;
  const Attributes windows[] = {
      {{"kernel_shape", ints({3, 3})}, {"strides", ints({2, 2})}, {"pads", ints({1, 1, 1, 1})}},
      {{"kernel_shape", ints({2, 4})}, {"strides", ints({2, 3})}, {"ceil_mode", plan::AttributeValue(std::int64_t{1})}},
      {{"kernel_shape", ints({3, 2})}, {"dilations", ints({2, 3})}}};
  for (const DType type : {DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{3, 17, 23, 72}), scale = random_tensor(random_, type, Shape{3, 1, 1, 72}),
                     one = random_tensor(random_, type, Shape{1, 1, 1, 72});
    for (Attributes window : windows) {
      compare({"forebay", "NhwcMaxPool", 1, window, {&x}, 1, plan::kNone, {}}, 0, "max");
      for (const std::int64_t pads : {0, 1}) {
        window.push_back({"count_include_pad", plan::AttributeValue(pads)});
        compare({"forebay", "NhwcAveragePool", 1, window, {&x}, 1, plan::kNone, {}}, tolerance_of(type), "average");
        window.pop_back();
      }
    }
    compare({"forebay", "NhwcGlobalAveragePool", 1, {}, {&x}, 1, plan::kNone, {}}, tolerance_of(type), "mean");
    compare({"forebay", "NhwcScale", 1, {}, {&x, &scale}, 1, plan::kNone, {}}, 0, "scale");
    compare({"forebay", "NhwcScale", 1, {}, {&x, &one}, 1, plan::kNone, {}}, 0, "one scale");
    const Ints squeezes[] = {
        {3, 17, 23, 72, 10, 72}, {1, 61, 40, 32, 8, 32}, {2, 7, 7, 1152, 48, 1152}, {40, 5, 5, 16, 3, 40}, {2, 1, 1, 8, 1, 8}};
    for (const Ints& s : squeezes) {
      const HostTensor image = random_tensor(random_, type, Shape{s[0], s[1], s[2], s[3]}),
                       down = random_tensor(random_, type, Shape{s[4], s[3]}), up = random_tensor(random_, type, Shape{s[5], s[4], 1, 1}),
                       low = random_tensor(random_, type, Shape{s[4]}), high = random_tensor(random_, type, Shape{s[5]});
      const Attributes activations[] = {{{"squeeze_activation", plan::AttributeValue(std::string("Swish"))},
                                         {"squeeze_activation_alpha", plan::AttributeValue(1.0f)},
                                         {"activation", plan::AttributeValue(std::string("Sigmoid"))}},
                                        {{"squeeze_activation", plan::AttributeValue(std::string("Relu"))}}};
      const std::string what = "squeeze to " + std::to_string(s[4]);
      NodeRun run{"forebay", "NhwcSqueeze", 1, activations[0], {&image, &down, &low, &up, &high}, 1, plan::kNone, {}};
      compare(run, 4 * tolerance_of(type), what);
      repeats(run, what);
      compare({"forebay", "NhwcSqueeze", 1, activations[1], {&image, &down, nullptr, &up}, 1, plan::kNone, {}}, 4 * tolerance_of(type),
              what);
    }
    compare({"forebay", "NhwcFromNchw", 1, {}, {&x}, 1, plan::kNone, {}}, 0, "turn");
    const HostTensor image = random_tensor(random_, type, Shape{2, 3, 19, 31});
    compare({"forebay", "NhwcFromNchw", 1, {{"channels", plan::AttributeValue(std::int64_t{4})}}, {&image}, 1, plan::kNone, {}}, 0,
            "image");
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.nhwc.pool", "cuda.nhwc.squeeze", "cuda.nhwc.scale", "cuda.nhwc.from"}));
}

}  // namespace
}  // namespace forebay::testing
