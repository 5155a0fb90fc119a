// Edges that no node test covers: rows that see nothing, positions and boxes that point nowhere, lengths that do not fit a cache.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "op_runner.h"
#include "runtime/op.h"

namespace forebay {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

HostTensor zeros(std::initializer_list<std::int64_t> dims) {
  return HostTensor(DType::f32, Shape(dims));
}

HostTensor ramp(std::initializer_list<std::int64_t> dims) {
  HostTensor tensor(DType::f32, Shape(dims));
  float value = 0.25f;
  for (float& element : tensor.as<float>()) element = value = value * 1.1f - 0.2f;
  return tensor;
}

// The reference evaluator of ONNX gives not a number for such a row, ONNX Runtime gives zeros: so do we.
TEST(Attention, ARowThatSeesNothingIsZero) {
  const auto run = [](HostTensor mask) {
    return values_of<float>(
        OpRunner("Attention", 24).in(ramp({1, 1, 3, 2})).in(ramp({1, 1, 3, 2})).in(ramp({1, 1, 3, 2})).in(std::move(mask)).run());
  };
  for (const bool boolean : {true, false}) {
    const std::vector<float> y = boolean ? run(bools({3, 3}, {1, 1, 1, 0, 0, 0, 1, 0, 0}))
                                         : run(tensor<float>({3, 3}, {0, 0, 0, -kInf, -kInf, -kInf, 0, -kInf, -kInf}));
    EXPECT_EQ(y[2], 0.0f);
    EXPECT_EQ(y[3], 0.0f);
    EXPECT_FLOAT_EQ(y[4], 0.25f * 1.1f - 0.2f);  // the last row sees the first value alone
    EXPECT_NE(y[0], 0.0f);
  }
}

TEST(GridSample, PlacesThatAreNoPlacesReadNothingOutside) {
  const auto run = [](const char* padding, const char* mode) {
    return values_of<float>(OpRunner("GridSample", 20)
                                .attr("padding_mode", padding)
                                .attr("mode", mode)
                                .in(tensor<float>({1, 1, 2, 2}, {1, 2, 3, 4}))
                                .in(tensor<float>({1, 1, 4, 2}, {kNan, 0, kInf, 0, -kInf, -kInf, 1e30f, 1e30f}))
                                .run());
  };
  for (const char* mode : {"linear", "nearest", "cubic"}) {
    EXPECT_EQ(run("zeros", mode), (std::vector<float>{0, 0, 0, 0})) << mode;
    for (const char* padding : {"border", "reflection"}) {
      for (const float value : run(padding, mode)) EXPECT_TRUE(value >= 0 && value <= 5.5f) << padding << " " << mode << " " << value;
    }
  }
}

TEST(GridSample, OneAxisAndAnEmptyImage) {
  OpRunner one("GridSample", 20);
  one.attr("align_corners", 1).in(tensor<float>({1, 1, 3}, {10, 20, 40})).in(tensor<float>({1, 3, 1}, {-1, 0.5f, 1}));
  EXPECT_EQ(values_of<float>(one.run()), (std::vector<float>{10, 30, 40}));
  EXPECT_EQ(OpRunner("GridSample", 20).in(zeros({1, 1, 0, 2})).in(zeros({1, 1, 1, 2})).code(), Code::invalid_model);
}

TEST(RoiAlign, BoxesWithoutSenseAreErrors) {
  const auto run = [](std::vector<float> box, std::int64_t image) {
    return OpRunner("RoiAlign", 16)
        .attr("output_height", 2)
        .attr("output_width", 2)
        .in(zeros({2, 1, 4, 4}))
        .in(tensor<float>({1, 4}, box))
        .in(ints({image}))
        .code();
  };
  EXPECT_EQ(run({0, 0, 3, 3}, 1), Code::ok);
  EXPECT_EQ(run({3, 3, 0, 0}, 0), Code::ok);  // turned over: no sample
  EXPECT_EQ(run({0, 0, 3, 3}, 2), Code::invalid_argument);
  EXPECT_EQ(run({0, 0, 3, 3}, -1), Code::invalid_argument);
  EXPECT_EQ(run({0, 0, 1e30f, 3}, 0), Code::invalid_argument);
  EXPECT_EQ(run({0, 0, kNan, 3}, 0), Code::invalid_argument);
  EXPECT_EQ(run({kInf, 0, kInf, 3}, 0), Code::invalid_argument);
}

TEST(MaxRoiPool, TakesTheLargestOfEachBin) {
  HostTensor image(DType::f32, Shape{1, 1, 4, 4});
  for (std::size_t i = 0; i < 16; ++i) image.as<float>()[i] = static_cast<float>(i);
  const auto run = [&](std::vector<float> box) {
    OpRunner op("MaxRoiPool");
    return op.attr("pooled_shape", plan::AttributeValue(std::vector<std::int64_t>{2, 2}))
        .in(image.clone())
        .in(tensor<float>({1, 5}, box))
        .try_run();
  };
  EXPECT_EQ(values_of<float>((*run({0, 0, 0, 3, 3}))[0]), (std::vector<float>{5, 7, 13, 15}));
  EXPECT_EQ(values_of<float>((*run({0, 90, 90, 99, 99}))[0]), (std::vector<float>{0, 0, 0, 0}));
  EXPECT_EQ(run({1, 0, 0, 3, 3}).status().code(), Code::invalid_argument);
}

TEST(GroupQueryAttention, LengthsThatDoNotFitAreErrors) {
  const auto run = [](std::int32_t length, std::int32_t total, std::int64_t past) {
    OpRunner op("GroupQueryAttention", 1);
    op.domain("com.microsoft").attr("num_heads", 2).attr("kv_num_heads", 1).outputs(3);
    op.in(ramp({1, 1, 4})).in(ramp({1, 1, 2})).in(ramp({1, 1, 2})).in(ramp({1, 1, past, 2})).in(ramp({1, 1, past, 2}));
    return op.in(tensor<std::int32_t>({1}, {length})).in(tensor<std::int32_t>({}, {total})).code();
  };
  EXPECT_EQ(run(3, 4, 3), Code::ok);
  EXPECT_EQ(run(3, 4, 9), Code::ok);  // a longer buffer
  EXPECT_EQ(run(4, 4, 3), Code::invalid_argument);
  EXPECT_EQ(run(-1, 4, 3), Code::invalid_argument);
  EXPECT_EQ(run(5, 6, 3), Code::invalid_argument);  // rows 3 and 4 were never there
  EXPECT_EQ(run(3, 0, 3), Code::invalid_model);
}

// The buffer comes back with the new row behind the old ones and every other row as it was.
TEST(GroupQueryAttention, ABufferKeepsItsOtherRows) {
  OpRunner op("GroupQueryAttention", 1);
  op.domain("com.microsoft").attr("num_heads", 1).attr("kv_num_heads", 1).outputs(3);
  op.in(ramp({1, 1, 2}))
      .in(tensor<float>({1, 1, 2}, {7, 8}))
      .in(tensor<float>({1, 1, 2}, {9, 10}))
      .in(ramp({1, 1, 5, 2}))
      .in(ramp({1, 1, 5, 2}));
  const auto made = op.in(tensor<std::int32_t>({1}, {2})).in(tensor<std::int32_t>({}, {3})).run_all();
  ASSERT_EQ(made.size(), 3u);
  std::vector<float> want = values_of<float>(ramp({1, 1, 5, 2}));
  want[4] = 7;
  want[5] = 8;
  EXPECT_EQ(values_of<float>(made[1]), want);
}

TEST(OpRegistry, VendorOperatorsThatAreNotServedHaveAHint) {
  const OpRegistry& registry = OpRegistry::builtin();
  EXPECT_NE(registry.hint_for("com.microsoft", "NhwcConv").find("the standard Conv"), std::string::npos);
  EXPECT_NE(registry.hint_for("com.microsoft", "GridSample").find("the standard GridSample"), std::string::npos);
  EXPECT_NE(registry.hint_for("my.domain", "Thing").find("my.domain"), std::string::npos);
  EXPECT_EQ(registry.hint_for("", "Thing"), "");
}

}  // namespace
}  // namespace forebay
