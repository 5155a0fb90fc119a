// Convolutions, pools, norms and what else image models need on the CUDA device, beside the CPU's kernels: close, and the same bits for
// each call and each cut of a weight.
#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

using Ints = std::vector<std::int64_t>;

plan::AttributeValue ints(Ints values) {
  return plan::AttributeValue(std::move(values));
}
plan::AttributeValue integer(std::int64_t value) {
  return plan::AttributeValue(value);
}
plan::AttributeValue text(const char* value) {
  return plan::AttributeValue(std::string(value));
}

struct ConvCase {
  Ints x, w;
  std::int64_t group = 1;
  Ints strides = {}, pads = {}, dilations = {};
  bool bias = true;
  const char* activation = "";
};

// Odd sizes, sums of 147 and of 4608, images of one pixel, groups, one to three axes.
const ConvCase kConvs[] = {
    {{2, 3, 33, 35}, {64, 3, 7, 7}, 1, {2, 2}, {3, 3, 3, 3}, {}, true, "Relu"},
    {{1, 64, 28, 28}, {256, 64, 1, 1}, 1, {}, {}, {}, true, "HardSwish"},
    {{9, 64, 32, 32}, {192, 64, 3, 3}, 1, {}, {1, 1, 1, 1}, {}, false, "Relu"},
    {{1, 512, 7, 7}, {130, 512, 3, 3}, 1, {}, {1, 1, 1, 1}, {}, true, ""},
    {{2, 256, 14, 14}, {80, 256, 1, 1}, 1, {2, 2}, {}, {}, true, ""},
    {{3, 40, 1, 1}, {10, 40, 1, 1}, 1, {}, {}, {}, true, "Sigmoid"},
    {{2, 32, 15, 13}, {48, 8, 3, 3}, 4, {2, 1}, {1, 0, 2, 1}, {2, 1}, true, "Clip"},
    {{2, 7, 19}, {9, 7, 5}, 1, {2}, {2, 1}, {2}, true, "Gelu"},
    {{1, 5, 6, 7, 8}, {11, 5, 3, 2, 3}, 1, {1, 2, 1}, {1, 0, 1, 1, 1, 0}, {}, true, ""},
    {{1, 4, 20, 20}, {6, 4, 9, 9}, 1, {}, {4, 4, 4, 4}, {}, false, ""},
    {{2, 24, 17, 17}, {24, 1, 5, 5}, 24, {2, 2}, {2, 2, 2, 2}, {}, true, "Swish"},
    {{1, 6, 9, 9}, {18, 1, 3, 3}, 6, {}, {1, 1, 1, 1}, {}, false, ""},
    {{2, 3, 48, 48}, {96, 3, 16, 16}, 1, {16, 16}, {}, {}, true, ""},
};

class CudaConv : public CudaKernels {
 protected:
  void add_window(NodeRun& run, const ConvCase& c) {
    if (c.group != 1) run.attributes.push_back({"group", integer(c.group)});
    if (!c.strides.empty()) run.attributes.push_back({"strides", ints(c.strides)});
    if (!c.pads.empty()) run.attributes.push_back({"pads", ints(c.pads)});
    if (!c.dilations.empty()) run.attributes.push_back({"dilations", ints(c.dilations)});
    if (*c.activation != 0) run.attributes.push_back({"activation", text(c.activation)});
    if (std::string(c.activation) == "Clip") {
      run.attributes.push_back({"activation_alpha", plan::AttributeValue(-0.5f)});
      run.attributes.push_back({"activation_beta", plan::AttributeValue(0.75f)});
    }
    if (std::string(c.activation) == "Swish") run.attributes.push_back({"activation_alpha", plan::AttributeValue(1.0f)});
  }
  void repeats(const NodeRun& run, const std::string& what) {
    auto once = on_device(run), again = on_device(run);
    ASSERT_TRUE(once.ok() && again.ok()) << what;
    for (std::size_t o = 0; o < once->size(); ++o) EXPECT_TRUE(same_bytes((*once)[o], (*again)[o])) << what << ", output " << o;
  }
};

TEST_F(CudaConv, ConvolutionsAreCloseWholeAndInSlabs) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const ConvCase& c : kConvs) {
      const HostTensor x = random_tensor(random_, type, Shape(c.x)), w = random_tensor(random_, type, Shape(c.w)),
                       b = random_tensor(random_, type, Shape{c.w[0]});
      NodeRun run{"forebay", "Conv", 1, {}, {&x, &w, c.bias ? &b : nullptr}, 1, plan::kNone, {}};
      add_window(run, c);
      HostTensor sum;  // every other case adds an image
      if (((&c - kConvs) & 1) != 0) {
        auto plain = run_node(run, pool_);
        ASSERT_TRUE(plain.ok());
        sum = random_tensor(random_, type, (*plain)[0].shape());
        run.inputs.push_back(&sum);
      }
      const std::string what = std::string(dtype_name(type)) + ", case " + std::to_string(&c - kConvs);
      // Both round once from sums in f32; the sums differ in their order.
      const double tolerance = 10 * tolerance_of(type) + 5e-8 * static_cast<double>(w.shape().elements(1, w.shape().rank()));
      compare(run, tolerance, what);
      repeats(run, what);
      if (c.group != 1 && c.w[1] != 1) continue;
      run.sliced = 1;
      run.slab_rows = random_cut(random_, c.w[0]);
      compare(run, tolerance, what + " in " + std::to_string(run.slab_rows.size()) + " slabs");
      const std::int64_t size = 16 * (1 + static_cast<std::int64_t>(random_() % 4));
      run.slab_rows.clear();
      for (std::int64_t at = 0; at < c.w[0]; at += size) run.slab_rows.push_back(std::min(size, c.w[0] - at));
      auto apart = on_device(run);
      merge_ = true;
      auto together = on_device(run);
      merge_ = false;
      ASSERT_TRUE(apart.ok() && together.ok()) << what;
      EXPECT_TRUE(same_bytes((*apart)[0], (*together)[0])) << what << " in slabs of " << size;
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.conv.mma", "cuda.conv.plain", "cuda.conv.depthwise"}));
}

TEST_F(CudaConv, TransposesAreClose) {
  const ConvCase cases[] = {{{2, 8, 7, 9}, {8, 6, 3, 3}, 1, {2, 2}, {1, 1, 1, 1}},
                            {{1, 12, 5, 6}, {12, 5, 4, 2}, 3, {3, 1}, {0, 1, 2, 0}, {2, 1}, false},
                            {{1, 70, 11}, {70, 66, 5}, 1, {2}, {1, 2}},
                            {{1, 3, 4, 5, 3}, {3, 4, 2, 2, 3}, 1, {2, 2, 1}, {}}};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const ConvCase& c : cases) {
      const HostTensor x = random_tensor(random_, type, Shape(c.x)), w = random_tensor(random_, type, Shape(c.w)),
                       b = random_tensor(random_, type, Shape{c.w[1] * c.group});
      NodeRun run{"", "ConvTranspose", 11, {}, {&x, &w, c.bias ? &b : nullptr}, 1, plan::kNone, {}};
      add_window(run, c);
      const std::string what = std::string(dtype_name(type)) + ", case " + std::to_string(&c - cases);
      compare(run, 10 * tolerance_of(type), what);
      repeats(run, what);
    }
  }
}

TEST_F(CudaConv, PoolsAreClose) {
  using Attributes = std::vector<plan::Attribute>;
  const Attributes windows[] = {{{"kernel_shape", ints({3, 3})}, {"strides", ints({2, 2})}, {"pads", ints({1, 1, 1, 1})}},
                                {{"kernel_shape", ints({2, 4})}, {"strides", ints({2, 3})}, {"ceil_mode", integer(1)}},
                                {{"kernel_shape", ints({3, 2})}, {"dilations", ints({2, 3})}, {"auto_pad", text("SAME_LOWER")}},
                                {{"kernel_shape", ints({5, 3})},
                                 {"pads", ints({2, 0, 1, 1})},
                                 {"count_include_pad", integer(1)},
                                 {"ceil_mode", integer(1)},
                                 {"strides", ints({3, 2})}}};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{2, 5, 17, 23});
    for (const Attributes& window : windows) {
      const std::string what = std::string(dtype_name(type)) + ", window " + std::to_string(&window - windows);
      NodeRun max{"", "MaxPool", 12, window, {&x}, 2, plan::kNone, {}};
      std::erase_if(max.attributes, [](const plan::Attribute& a) { return a.name == "count_include_pad"; });
      compare(max, 0, "MaxPool " + what);
      max.attributes.push_back({"storage_order", integer(1)});
      compare(max, 0, "MaxPool by columns " + what);
      compare({"", "AveragePool", 19, window, {&x}, 1, plan::kNone, {}}, tolerance_of(type), "AveragePool " + what);
    }
    compare({"", "LpPool", 18, windows[0], {&x}, 1, plan::kNone, {}}, 4 * tolerance_of(type), "LpPool " + std::string(dtype_name(type)));
    for (const char* op : {"GlobalAveragePool", "GlobalMaxPool"})
      compare({"", op, 1, {}, {&x}, 1, plan::kNone, {}}, tolerance_of(type), op);
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.pool", "cuda.reduce_axes"}));
}

TEST_F(CudaConv, ReductionsOverAnyAxesAreClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{3, 4, 9, 2500});
    for (const Ints& axes : {Ints{3}, Ints{1}, Ints{0, 2}, Ints{0, 1, 2, 3}, Ints{2, 3}}) {
      const HostTensor list = integers(axes);
      for (const char* op :
           {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"}) {
        const std::string what = std::string(op) + " " + std::string(dtype_name(type)) + ", first axis " + std::to_string(axes[0]);
        const NodeRun run{"", op, 18, {}, {&x, &list}, 1, plan::kNone, {}};
        compare(run, 20 * tolerance_of(type) + 5e-4, what);  // sums near zero of many values near one
        repeats(run, what);
      }
    }
  }
  const HostTensor numbers = integers({5, -3, 8, 8, 1, 0}), zero = integers({0});
  for (const char* op : {"ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare"}) {
    compare({"", op, 18, {}, {&numbers, &zero}, 1, plan::kNone, {}}, 0, op);
  }
}

TEST_F(CudaConv, WorkAlongAxesIsClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{3, 40, 7});
    for (const std::int64_t axis : {0, 1, 2}) {
      const std::string what = std::string(dtype_name(type)) + ", axis " + std::to_string(axis);
      const HostTensor at = integers({axis});
      for (const char* op : {"Softmax", "LogSoftmax"})
        compare({"", op, 13, {{"axis", integer(axis)}}, {&x}, 1, plan::kNone, {}}, 4 * tolerance_of(type), op + what);
      compare({"", "Softmax", 11, {{"axis", integer(axis)}}, {&x}, 1, plan::kNone, {}}, 4 * tolerance_of(type), "Softmax 11 " + what);
      for (const char* op : {"ArgMax", "ArgMin"}) {
        compare({"", op, 13, {{"axis", integer(axis)}, {"select_last_index", integer(1)}}, {&x}, 1, plan::kNone, {}}, 0, op + what);
      }
      compare({"", "CumSum", 14, {{"exclusive", integer(axis % 2)}, {"reverse", integer(axis / 2)}}, {&x, &at}, 1, plan::kNone, {}},
              8 * tolerance_of(type), "CumSum " + what);
    }
    const HostTensor y = random_tensor(random_, type, Shape{2, 12, 5, 9}), scale = random_tensor(random_, type, Shape{12}),
                     shift = random_tensor(random_, type, Shape{12}), mean = random_tensor(random_, type, Shape{12});
    HostTensor variance(type, Shape{12});
    for (std::size_t i = 0; i < 12; ++i) {
      const float v = 0.25f + static_cast<float>(i) / 8;
      if (type == DType::f32) variance.as<float>()[i] = v;
      if (type != DType::f32) variance.as<std::uint16_t>()[i] = type == DType::f16 ? f32_to_f16(v) : f32_to_bf16(v);
    }
    compare({"", "BatchNormalization", 15, {}, {&y, &scale, &shift, &mean, &variance}, 1, plan::kNone, {}}, 4 * tolerance_of(type),
            "BatchNormalization");
    compare({"", "InstanceNormalization", 6, {}, {&y, &scale, &shift}, 1, plan::kNone, {}}, 4 * tolerance_of(type),
            "InstanceNormalization");
    compare({"", "GroupNormalization", 21, {{"num_groups", integer(4)}}, {&y, &scale, &shift}, 1, plan::kNone, {}}, 4 * tolerance_of(type),
            "GroupNormalization");
  }
}

}  // namespace
}  // namespace forebay::testing
