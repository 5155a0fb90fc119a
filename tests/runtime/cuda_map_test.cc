// Functions of one value, Pad, Tile and Resize on the CUDA device, beside the CPU's kernels.
#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

using Ints = std::vector<std::int64_t>;
using Attributes = std::vector<plan::Attribute>;

plan::AttributeValue text(const char* value) {
  return plan::AttributeValue(std::string(value));
}
plan::AttributeValue integer(std::int64_t value) {
  return plan::AttributeValue(value);
}

HostTensor floats(const std::vector<float>& values) {
  HostTensor t(DType::f32, Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.as<float>().begin());
  return t;
}

class CudaMap : public CudaKernels {};

TEST_F(CudaMap, FunctionsAreClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{7, 301});
    for (const char* op : {"Sign", "Round", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh", "Softplus", "Softsign", "Elu",
                           "Celu", "ThresholdedRelu", "Selu", "Shrink"}) {
      compare({"", op, 14, {}, {&x}, 1, plan::kNone, {}}, 4 * tolerance_of(type), op + std::string(dtype_name(type)));
    }
    HostTensor low = random_tensor(random_, type, Shape{}), high = random_tensor(random_, type, Shape{});
    compare({"", "Clip", 13, {}, {&x, &low, nullptr}, 1, plan::kNone, {}}, 0, "Clip below");
    compare({"", "Clip", 13, {}, {&x, nullptr, &high}, 1, plan::kNone, {}}, 0, "Clip above");
    compare({"", "Clip", 6, {{"min", plan::AttributeValue(-0.25f)}, {"max", plan::AttributeValue(0.5f)}}, {&x}, 1, plan::kNone, {}},
            tolerance_of(type), "Clip 6");
  }
  const HostTensor odd = floats({1.5f, NAN, INFINITY, -INFINITY, 0.0f, -0.0f});
  for (const char* op : {"IsNaN", "Sign", "Acosh", "Softplus", "Elu"}) compare({"", op, 14, {}, {&odd}, 1, plan::kNone, {}}, 1e-6, op);
  compare({"", "IsInf", 14, {{"detect_negative", integer(0)}}, {&odd}, 1, plan::kNone, {}}, 0, "IsInf");
  HostTensor truth(DType::boolean, Shape{3, 5});
  for (std::size_t i = 0; i < 15; ++i) truth.as<std::uint8_t>()[i] = i % 3 == 0;
  compare({"", "Not", 1, {}, {&truth}, 1, plan::kNone, {}}, 0, "Not");
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.map", "cuda.not"}));
}

TEST_F(CudaMap, PadAndTileAreExact) {
  for (const DType type : {DType::f32, DType::f16, DType::f64}) {
    const HostTensor x = random_tensor(random_, type, Shape{2, 3, 5, 7}), fill = random_tensor(random_, type, Shape{});
    const HostTensor pads = integers({0, 1, 2, 3, 1, 0, 1, 4}), crops = integers({-1, 2, 3, -2}), axes = integers({-1, 2}),
                     repeats = integers({2, 1, 3, 2});
    for (const char* mode : {"constant", "reflect", "edge", "wrap"}) {
      compare({"", "Pad", 19, {{"mode", text(mode)}}, {&x, &pads}, 1, plan::kNone, {}}, 0, mode);
      compare({"", "Pad", 19, {{"mode", text(mode)}}, {&x, &crops, nullptr, &axes}, 1, plan::kNone, {}}, 0, mode + std::string(" cropped"));
    }
    compare({"", "Pad", 13, {}, {&x, &pads, &fill}, 1, plan::kNone, {}}, 0, "with a value");
    compare({"", "Tile", 13, {}, {&x, &repeats}, 1, plan::kNone, {}}, 0, "Tile");
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.pad", "cuda.tile"}));
}

TEST_F(CudaMap, ResizeIsClose) {
  const HostTensor scales = floats({1, 1, 2.5f, 0.6f}), sizes = integers({2, 3, 19, 4}), roi = floats({0, 0, 0.2f, 0.1f, 1, 1, 1.2f, 0.7f});
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{2, 3, 8, 11});
    for (const char* mode : {"nearest", "linear", "cubic"}) {
      for (const char* places : {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"}) {
        const Attributes attributes = {{"mode", text(mode)}, {"coordinate_transformation_mode", text(places)}};
        const double tolerance = *mode == 'n' ? 0 : 4 * tolerance_of(type);
        compare({"", "Resize", 19, attributes, {&x, nullptr, &scales}, 1, plan::kNone, {}}, tolerance, std::string(mode) + places);
        compare({"", "Resize", 19, attributes, {&x, nullptr, nullptr, &sizes}, 1, plan::kNone, {}}, tolerance,
                std::string(mode) + places + " to sizes");
      }
    }
    const Attributes sharp = {{"mode", text("cubic")}, {"antialias", integer(1)}, {"exclude_outside", integer(1)}};
    compare({"", "Resize", 19, sharp, {&x, nullptr, &scales}, 1, plan::kNone, {}}, 4 * tolerance_of(type), "antialiased");
    const Attributes crop = {{"mode", text("linear")},
                             {"coordinate_transformation_mode", text("tf_crop_and_resize")},
                             {"extrapolation_value", plan::AttributeValue(7.0f)}};
    if (type == DType::f32)
      compare({"", "Resize", 13, crop, {&x, &roi, nullptr, &sizes}, 1, plan::kNone, {}}, 4 * tolerance_of(type), "cropped");
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.resize"}));
}

}  // namespace
}  // namespace forebay::testing
