// Edges that no node test covers: rows that see nothing, positions and boxes that point nowhere, lengths that do not fit a cache.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels_harness.h"
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

TEST(GroupQueryAttention, PositionsAreOneForEachRowOrTheFirstOfAPrompt) {
  const auto run = [](std::initializer_list<std::int64_t> ids) {
    OpRunner op("GroupQueryAttention", 1);
    op.domain("com.microsoft").attr("num_heads", 1).attr("kv_num_heads", 1).attr("do_rotary", 1).outputs(3);
    op.in(ramp({1, 2, 4})).in(ramp({1, 2, 4})).in(ramp({1, 2, 4})).absent().absent().in(tensor<std::int32_t>({1}, {1})).in(tensor<std::int32_t>({}, {2}));
    return op.in(ramp({8, 2})).in(ramp({8, 2})).in(HostTensor(DType::i64, Shape(ids))).code();
  };
  EXPECT_EQ(run({1, 2}), Code::ok);
  EXPECT_EQ(run({1, 1}), Code::ok);
  EXPECT_EQ(run({1, 0}), Code::invalid_model);
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

// The matrices of experts may be cut anywhere between experts: the bits stay.
TEST(ExpertLinear, SlabsGiveTheSameBits) {
  ThreadPool pool(2);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto typed = [&](const HostTensor& wide) {
      if (dtype == DType::f32) return wide.clone();
      HostTensor narrow(dtype, wide.shape());
      for (std::size_t i = 0; i < wide.as<float>().size(); ++i) narrow.as<std::uint16_t>()[i] = f32_to_bf16(wide.as<float>()[i]);
      return narrow;
    };
    const HostTensor x = typed(ramp({4, 37})), w = typed(ramp({5, 9, 37})), bias = typed(ramp({5, 9}));
    const HostTensor indices = tensor<std::int32_t>({4, 2}, {0, 4, 3, 1, 2, 0, 4, 3});
    testing::NodeRun run;
    run.domain = "forebay";
    run.op = "ExpertLinear";
    run.version = 1;
    run.inputs = {&x, &w, &indices, &bias};
    const auto whole = testing::run_node(run, pool);
    ASSERT_TRUE(whole.ok()) << whole.status().to_string();
    run.sliced = 1;
    for (const std::vector<std::int64_t>& rows : {std::vector<std::int64_t>{5}, {2, 2, 1}, {1, 1, 1, 1, 1}}) {
      run.slab_rows = rows;
      const auto cut = testing::run_node(run, pool);
      ASSERT_TRUE(cut.ok()) << cut.status().to_string();
      EXPECT_EQ(std::memcmp((*cut)[0].data(), (*whole)[0].data(), (*whole)[0].bytes()), 0);
    }
  }
}

// Packed experts in slabs of whole experts, scales and zero points cut with them or not: the bits stay, and are those of the values
// multiplied.
TEST(ExpertQuantLinear, SlabsGiveTheSameBitsAndTheValuesOfTheCodes) {
  ThreadPool pool(2);
  constexpr std::int64_t kExperts = 5, kOut = 9, kIn = 64, kBlocks = 2;
  HostTensor codes(DType::u8, {kExperts, kOut, kIn / 2}), zeros(DType::u8, {kExperts, kOut, 1});
  for (std::size_t i = 0; i < codes.bytes(); ++i) codes.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 37 + i / 11);
  for (std::size_t i = 0; i < zeros.bytes(); ++i) zeros.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 29);
  const HostTensor x = ramp({4, kIn}), scales = ramp({kExperts, kOut, kBlocks}), bias = ramp({kExperts, kOut});
  HostTensor values(DType::f32, {kExperts, kOut, kIn});
  for (std::size_t i = 0; i < values.as<float>().size(); ++i) {
    const std::size_t row = i / kIn, block = i % kIn / 32;
    const int code = codes.as<std::uint8_t>()[i / 2] >> (i % 2 * 4) & 15, zero = zeros.as<std::uint8_t>()[row] >> (block * 4) & 15;
    values.as<float>()[i] = static_cast<float>(code - zero) * scales.as<float>()[row * kBlocks + block];
  }
  const HostTensor indices = tensor<std::int32_t>({4, 2}, {0, 4, 3, 1, 2, 0, 4, 3});
  testing::NodeRun plain, run;
  plain.domain = run.domain = "forebay";
  plain.version = run.version = 1;
  plain.op = "ExpertLinear";
  plain.inputs = {&x, &values, &indices, &bias};
  run.op = "ExpertQuantLinear";
  const std::vector<plan::Attribute> attributes{{"bits", std::int64_t{4}}, {"block_size", std::int64_t{32}}};
  run.attributes = attributes;
  run.inputs = {&x, &codes, &scales, &zeros, &indices, &bias};
  const auto want = testing::run_node(plain, pool), whole = testing::run_node(run, pool);
  ASSERT_TRUE(want.ok() && whole.ok()) << whole.status().to_string();
  for (std::size_t i = 0; i < (*want)[0].as<float>().size(); ++i)
    EXPECT_NEAR((*whole)[0].as<float>()[i], (*want)[0].as<float>()[i], 1e-4f * (1.0f + std::abs((*want)[0].as<float>()[i])));
  run.sliced = 1;
  for (const std::vector<std::int64_t>& rows : {std::vector<std::int64_t>{5}, {2, 2, 1}, {1, 1, 1, 1, 1}}) {
    run.slab_rows = rows;
    const auto cut = testing::run_node(run, pool);
    ASSERT_TRUE(cut.ok()) << cut.status().to_string();
    EXPECT_EQ(std::memcmp((*cut)[0].data(), (*whole)[0].data(), (*whole)[0].bytes()), 0);
  }
}

TEST(ExpertRoute, TakesTheFirstOfEqualsAndNumbersBeforeNotNumbers) {
  OpRunner op("ExpertRoute", 1);
  op.domain("forebay").attr("k", 2).attr("normalize", 1).outputs(2).in(tensor<float>({3, 3}, {1, 1, 1, kNan, 0, 2, -1, 5, 5}));
  const auto made = op.run_all();
  EXPECT_EQ(values_of<std::int32_t>(made[0]), (std::vector<std::int32_t>{0, 1, 2, 1, 1, 2}));
  EXPECT_FLOAT_EQ(made[1].as<float>()[0], 0.5f);
  EXPECT_FLOAT_EQ(made[1].as<float>()[5], 0.5f);
  OpRunner many("ExpertRoute", 1);
  EXPECT_EQ(many.domain("forebay").attr("k", 4).in(ramp({1, 3})).outputs(2).code(), Code::invalid_model);
}

TEST(MultiHeadAttention, PackedFormsAreTheSameHeads) {
  const HostTensor packed = ramp({2, 3, 2, 3, 4});
  std::vector<float> parts[3];
  for (std::size_t row = 0; row < 2 * 3 * 2; ++row) {
    for (std::size_t part = 0; part < 3; ++part) {
      for (std::size_t e = 0; e < 4; ++e) parts[part].push_back(packed.as<float>()[(row * 3 + part) * 4 + e]);
    }
  }
  OpRunner together("MultiHeadAttention", 1), apart("MultiHeadAttention", 1);
  together.domain("com.microsoft").attr("num_heads", 2).in(packed.clone());
  apart.domain("com.microsoft").attr("num_heads", 2);
  for (const auto& part : parts) apart.in(tensor<float>({2, 3, 8}, part));
  EXPECT_EQ(values_of<float>(together.run()), values_of<float>(apart.run()));
}

TEST(MultiHeadAttention, WhatDoesNotFitIsRefused) {
  const auto run = [](std::initializer_list<std::int64_t> key, std::initializer_list<std::int64_t> padding, std::int64_t heads) {
    OpRunner op("MultiHeadAttention", 1);
    op.domain("com.microsoft").attr("num_heads", heads).in(zeros({2, 3, 8})).in(zeros(key)).in(zeros(key)).absent();
    return op.in(HostTensor(DType::i32, Shape(padding))).code();
  };
  EXPECT_EQ(run({2, 5, 8}, {2, 5}, 2), Code::ok);
  EXPECT_EQ(run({2, 5, 8}, {2}, 2), Code::ok);
  EXPECT_EQ(run({2, 5, 8}, {8}, 2), Code::ok);  // lengths and where rows begin, 3 * batch + 2
  EXPECT_EQ(run({2, 5, 8}, {7}, 2), Code::invalid_model);
  EXPECT_EQ(run({2, 5, 8}, {2, 4}, 2), Code::invalid_model);
  EXPECT_EQ(run({2, 5, 4}, {2, 5}, 2), Code::invalid_model);
  EXPECT_EQ(run({3, 5, 8}, {2, 5}, 2), Code::invalid_model);
  EXPECT_EQ(run({2, 5, 8}, {2, 5}, 3), Code::invalid_model);
  EXPECT_EQ(run({2, 5, 8}, {2, 5}, 0), Code::invalid_model);
}

TEST(RotaryEmbedding, PositionsOutsideOfTheCacheAreErrors) {
  const auto run = [](std::vector<std::int64_t> ids) {
    OpRunner op("RotaryEmbedding", 1);
    return op.domain("com.microsoft").in(ramp({1, 3, 8})).in(ints(ids)).in(ramp({10, 2})).in(ramp({10, 2})).code();
  };
  EXPECT_EQ(run({7}), Code::ok);
  EXPECT_EQ(run({8}), Code::invalid_argument);
  EXPECT_EQ(run({-1}), Code::invalid_argument);
  EXPECT_EQ(run({std::numeric_limits<std::int64_t>::max()}), Code::invalid_argument);
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
