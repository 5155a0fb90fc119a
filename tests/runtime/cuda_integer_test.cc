// Batched products, integer convolutions and convolutions by packed weights on the CUDA device, beside the CPU's kernels.
#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

using Ints = std::vector<std::int64_t>;
using Attributes = std::vector<plan::Attribute>;

HostTensor bytes(std::mt19937_64& random, DType type, const Shape& shape) {
  HostTensor t(type, shape);
  for (std::size_t i = 0; i < t.bytes(); ++i) t.data()[i] = static_cast<std::byte>(random());
  return t;
}
HostTensor scales(std::mt19937_64& random, DType type, const Shape& shape) {
  HostTensor t(type, shape);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const float value = 0.002f + 0.001f * static_cast<float>(random() % 8);
    if (type == DType::f32) t.as<float>()[static_cast<std::size_t>(i)] = value;
    if (type == DType::f16) t.as<std::uint16_t>()[static_cast<std::size_t>(i)] = f32_to_f16(value);
    if (type == DType::bf16) t.as<std::uint16_t>()[static_cast<std::size_t>(i)] = f32_to_bf16(value);
  }
  return t;
}

struct Form {
  Shape x, w;
  Ints pads, strides, dilations;
  std::int64_t group = 1;
  Attributes attributes() const {
    return {{"pads", plan::AttributeValue(pads)},
            {"strides", plan::AttributeValue(strides)},
            {"dilations", plan::AttributeValue(dilations)},
            {"group", plan::AttributeValue(group)}};
  }
};
const Form kForms[] = {{Shape{2, 16, 9, 11}, Shape{40, 16, 3, 3}, {1, 1, 1, 1}, {1, 1}, {1, 1}},
                       {Shape{1, 30, 20, 20}, Shape{100, 30, 1, 1}, {0, 0, 0, 0}, {2, 2}, {1, 1}},
                       {Shape{1, 24, 13, 13}, Shape{24, 1, 3, 3}, {1, 0, 1, 2}, {1, 2}, {1, 1}, 24},
                       {Shape{2, 24, 12, 7}, Shape{48, 8, 3, 2}, {0, 1, 2, 0}, {1, 1}, {2, 1}, 3},
                       {Shape{2, 5, 50}, Shape{70, 5, 7}, {3, 3}, {1}, {1}},
                       {Shape{1, 3, 6, 7, 8}, Shape{9, 3, 2, 3, 2}, {0, 1, 0, 1, 1, 1}, {1, 1, 2}, {1, 1, 1}}};

class CudaInteger : public CudaKernels {};

TEST_F(CudaInteger, BatchedProductsAreClose) {
  struct Case {
    Shape a, b;
  };
  const Case cases[] = {{Shape{2, 3, 45, 37}, Shape{2, 3, 37, 51}}, {Shape{4, 64, 72}, Shape{4, 72, 40}},
                        {Shape{2, 1, 16, 64}, Shape{1, 5, 64, 24}}, {Shape{3, 2, 33, 16}, Shape{2, 16, 8}},
                        {Shape{40, 24}, Shape{6, 24, 56}},          {Shape{2, 1, 3, 12, 8}, Shape{4, 1, 8, 16}}};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const Case& c : cases) {
      const HostTensor a = random_tensor(random_, type, c.a), b = random_tensor(random_, type, c.b);
      compare({"", "MatMul", 13, {}, {&a, &b}, 1, plan::kNone, {}}, 10 * tolerance_of(type),
              std::string(dtype_name(type)) + c.a.to_string() + c.b.to_string());
    }
    const HostTensor q = random_tensor(random_, type, Shape{2, 4, 20, 32}), k = random_tensor(random_, type, Shape{2, 4, 28, 32});
    compare({"com.microsoft",
             "FusedMatMul",
             1,
             {{"transB", plan::AttributeValue(std::int64_t{1})}, {"alpha", plan::AttributeValue(0.125f)}},
             {&q, &k},
             1,
             plan::kNone,
             {}},
            10 * tolerance_of(type), "scaled");
  }
  // Few rows, broadcast both ways.
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t turned : {0, 1}) {
      const HostTensor a = random_tensor(random_, type, Shape{2, 1, 3, 64}),
                       b = random_tensor(random_, type, turned != 0 ? Shape{1, 5, 24, 64} : Shape{1, 5, 64, 24});
      compare({"com.microsoft", "FusedMatMul", 1, {{"transB", plan::AttributeValue(turned)}}, {&a, &b}, 1, plan::kNone, {}}, 0, "few rows");
    }
  }
  for (const std::string& id : ids_) EXPECT_TRUE(id.ends_with(".batched")) << id;
}

// Codes of both signs, zero points and scales for each filter or for all, biases; whole and in slabs of filters.
TEST_F(CudaInteger, ConvolutionsHaveTheBitsOfTheCpu) {
  for (const Form& form : kForms) {
    for (const DType x_type : {DType::u8, DType::i8}) {
      for (const DType w_type : {DType::i8, DType::u8}) {
        const std::int64_t filters = form.w[0];
        const HostTensor x = bytes(random_, x_type, form.x), w = bytes(random_, w_type, form.w), x_zero = bytes(random_, x_type, Shape{}),
                         w_zeros = bytes(random_, w_type, Shape{filters}), w_zero = bytes(random_, w_type, Shape{}),
                         y_zero = bytes(random_, x_type, Shape{});
        const HostTensor x_scale = scales(random_, DType::f32, Shape{}), w_scales = scales(random_, DType::f32, Shape{filters});
        HostTensor y_scale = scales(random_, DType::f32, Shape{});
        y_scale.as<float>()[0] *= 40.0f;
        HostTensor bias(DType::i32, Shape{filters});
        for (auto& value : bias.as<std::int32_t>()) value = static_cast<std::int32_t>(random_() % 20000) - 10000;
        const HostTensor floats = random_tensor(random_, DType::f32, Shape{filters});
        const std::string what = form.w.to_string() + std::string(dtype_name(x_type)) + std::string(dtype_name(w_type));
        compare({"", "ConvInteger", 10, form.attributes(), {&x, &w}, 1, plan::kNone, {}}, 0, "integer " + what);
        NodeRun run{"", "ConvInteger", 10, form.attributes(), {&x, &w, &x_zero, &w_zeros}, 1, plan::kNone, {}};
        compare(run, 0, "integer with zero points " + what);
        run.op = "QLinearConv";
        run.inputs = {&x, &x_scale, &x_zero, &w, &w_scales, &w_zero, &y_scale, &y_zero, &bias};
        compare(run, 0, "scaled " + what);
        run.domain = "forebay";
        run.version = 1;
        run.inputs.back() = &floats;
        compare(run, 0, "with a float bias " + what);
        run.sliced = 3;
        run.slab_rows = random_cut(random_, filters);
        compare(run, 0, "in slabs " + what);
      }
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.conv.i8"}));
}

// The bits of DequantizeLinear and the float convolution on this device; close to the CPU's.
TEST_F(CudaInteger, PackedWeightsConvolveAsTheirValuesWould) {
  for (const Form& form : kForms) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const DType code : {DType::i4, DType::u4, DType::i8, DType::u8}) {
        const std::int64_t filters = form.w[0];
        const HostTensor x = random_tensor(random_, type, form.x), w = bytes(random_, code, form.w),
                         scale = scales(random_, type, Shape{filters}), zero = bytes(random_, code, Shape{filters}),
                         bias = random_tensor(random_, type, Shape{filters});
        const std::string what = form.w.to_string() + std::string(dtype_name(type)) + std::string(dtype_name(code));
        const auto axis = plan::Attribute{"axis", plan::AttributeValue(std::int64_t{0})};
        auto values = on_device({"", "DequantizeLinear", 21, {axis}, {&w, &scale, &zero}, 1, plan::kNone, {}});
        ASSERT_TRUE(values.ok()) << values.status().to_string();
        auto want = on_device({"", "Conv", 11, form.attributes(), {&x, &(*values)[0], &bias}, 1, plan::kNone, {}});
        ASSERT_TRUE(want.ok()) << want.status().to_string();
        NodeRun run{"forebay", "QuantConv", 1, form.attributes(), {&x, &w, &scale, &zero, &bias}, 1, plan::kNone, {}};
        run.attributes.push_back(axis);
        auto got = on_device(run);
        ASSERT_TRUE(got.ok()) << got.status().to_string();
        EXPECT_TRUE(same_bytes((*got)[0], (*want)[0])) << what;
        compare(run, 20 * tolerance_of(type), what);
        // In slabs of whole bytes a filter.
        if ((form.group != 1 && form.w[1] != 1) || w.bytes() % static_cast<std::size_t>(filters) != 0) continue;
        run.sliced = 1;
        const std::int64_t rows = filters % 10 == 0 ? 10 : 8;
        for (std::int64_t done = 0; done < filters; done += rows) run.slab_rows.push_back(std::min(rows, filters - done));
        auto cut = on_device(run);
        ASSERT_TRUE(cut.ok()) << cut.status().to_string();
        EXPECT_TRUE(same_bytes((*cut)[0], (*want)[0])) << what << " in slabs";
        merge_ = true;
        auto joined = on_device(run);
        merge_ = false;
        ASSERT_TRUE(joined.ok()) << joined.status().to_string();
        EXPECT_TRUE(same_bytes((*joined)[0], (*want)[0])) << what << " in slabs of one launch";
      }
    }
  }
  EXPECT_GT(merged_, 0);
  for (const std::string& id : ids_)
    EXPECT_TRUE(id.starts_with("cuda.packed+cuda.conv.") || id.starts_with("cuda.conv.") || id == "cuda.dequantize") << id;
}

}  // namespace
}  // namespace forebay::testing
