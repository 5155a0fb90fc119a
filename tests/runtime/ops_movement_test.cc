#include <gtest/gtest.h>

#include <numeric>

#include "op_runner.h"

namespace forebay {
namespace {

using Dims = std::vector<std::int64_t>;
using Floats = std::vector<float>;
plan::AttributeValue list(const Dims& values) { return plan::AttributeValue(values); }

HostTensor counting(std::initializer_list<std::int64_t> dims) {
  HostTensor tensor(DType::f32, Shape(dims));
  std::iota(tensor.as<float>().begin(), tensor.as<float>().end(), 0.0f);
  return tensor;
}

TEST(Transpose, EveryPermutationOfFourAxes) {
  Dims perm{0, 1, 2, 3};
  const Dims dims{3, 5, 40, 37};  // the last two reach the tiled way
  do {
    OpRunner op("Transpose");
    const HostTensor in = counting({3, 5, 40, 37});
    const HostTensor out = op.attr("perm", list(perm)).in(in.clone()).run();
    const Dims strides{5 * 40 * 37, 40 * 37, 37, 1};
    Dims index(4, 0);
    for (std::int64_t flat = 0; flat < out.shape().elements(); ++flat) {
      std::int64_t rest = flat, from = 0;
      for (std::size_t d = 4; d-- > 0;) {
        from += (rest % out.shape()[static_cast<int>(d)]) * strides[static_cast<std::size_t>(perm[d])];
        rest /= out.shape()[static_cast<int>(d)];
      }
      ASSERT_EQ(out.as<float>()[static_cast<std::size_t>(flat)], static_cast<float>(from));
    }
  } while (std::next_permutation(perm.begin(), perm.end()));
}

TEST(Transpose, DefaultsEmptyAndPacked) {
  EXPECT_EQ(dims_of(OpRunner("Transpose").in(counting({2, 3, 4})).run()), (Dims{4, 3, 2}));
  EXPECT_EQ(dims_of(OpRunner("Transpose").in(counting({0, 3})).run()), (Dims{3, 0}));
  EXPECT_EQ(dims_of(OpRunner("Transpose").in(counting({})).run()), Dims{});
  OpRunner bad("Transpose");
  EXPECT_EQ(bad.attr("perm", list({0, 0})).in(counting({2, 3})).code(), Code::invalid_model);
  // [[1,2,3],[4,5,6]] of u4 to [[1,4],[2,5],[3,6]].
  HostTensor packed(DType::u4, Shape{2, 3});
  packed.as<std::uint8_t>()[0] = 0x21;
  packed.as<std::uint8_t>()[1] = 0x43;
  packed.as<std::uint8_t>()[2] = 0x65;
  EXPECT_EQ(values_of<std::uint8_t>(OpRunner("Transpose", 21).in(std::move(packed)).run()), (std::vector<std::uint8_t>{0x41, 0x52, 0x63}));
}

TEST(ConcatSplit, RoundTrip) {
  for (const std::int64_t axis : {0, 1, -1}) {
    OpRunner split("Split", 18), concat("Concat");
    const HostTensor in = counting({4, 6, 5});
    const Dims sizes = axis == 0 ? Dims{1, 0, 3} : axis == 1 ? Dims{2, 3, 1} : Dims{1, 1, 3};
    auto pieces = split.attr("axis", axis).outputs(3).in(in.clone()).in(ints(sizes)).run_all();
    concat.attr("axis", axis);
    for (HostTensor& piece : pieces) concat.in(std::move(piece));
    EXPECT_EQ(values_of<float>(concat.run()), values_of<float>(in));
  }
}

TEST(ConcatSplit, Refusals) {
  OpRunner concat("Concat"), split("Split", 13), uneven("Split", 18), old("Split", 11);
  EXPECT_EQ(concat.attr("axis", 0).in(counting({2, 3})).in(counting({2, 4})).code(), Code::invalid_model);
  EXPECT_EQ(split.outputs(2).in(counting({3})).code(), Code::invalid_model);
  const auto pieces = uneven.attr("num_outputs", 2).outputs(2).in(counting({5})).run_all();
  EXPECT_EQ(dims_of(pieces[0]), Dims{3});
  EXPECT_EQ(dims_of(pieces[1]), Dims{2});
  EXPECT_EQ(old.attr("split", list({2, 2})).outputs(2).in(counting({5})).code(), Code::invalid_model);
}

TEST(Slice, ClampsAndSteps) {
  struct Case {
    std::int64_t start, end, step;
    Floats out;
  };
  const std::int64_t low = INT64_MIN, high = INT64_MAX;
  const Case cases[] = {{0, 5, 1, {0, 1, 2, 3, 4}}, {1, 4, 2, {1, 3}},        {-2, high, 1, {3, 4}},  {4, low, -1, {4, 3, 2, 1, 0}},
                        {high, low, -2, {4, 2, 0}}, {3, 1, 1, {}},            {1, 3, -1, {}},         {low, high, high, {0}},
                        {-1, low, low, {4}},        {100, 200, 1, {}},        {-100, 2, 1, {0, 1}},   {0, -1, 1, {0, 1, 2, 3}}};
  for (const Case& c : cases) {
    OpRunner op("Slice");
    op.in(counting({5})).in(ints({c.start})).in(ints({c.end})).in(ints({0})).in(ints({c.step}));
    EXPECT_EQ(values_of<float>(op.run()), c.out) << c.start << " " << c.end << " " << c.step;
  }
  OpRunner old("Slice", 9);
  old.attr("starts", list({1})).attr("ends", list({2})).attr("axes", list({-1})).in(counting({2, 3}));
  EXPECT_EQ(values_of<float>(old.run()), (Floats{1, 4}));
  EXPECT_EQ(OpRunner("Slice").in(counting({5})).in(ints({0})).in(ints({1})).in(ints({0})).in(ints({0})).code(), Code::invalid_model);
  EXPECT_EQ(dims_of(OpRunner("Slice").in(counting({0, 3})).in(ints({5})).in(ints({-9})).in(ints({0})).in(ints({-1})).run()), (Dims{0, 3}));
  EXPECT_EQ(OpRunner("Slice").infer_dims({{DType::f32, true, {4, 5}}, {DType::i64, true, {1}}, {DType::i64, true, {1}}}), (Dims{-1, -1}));
}

TEST(Pad, EveryMode) {
  struct Case {
    const char* mode;
    Floats out;
  };
  const Case cases[] = {{"constant", {7, 7, 0, 1, 2, 7, 7, 7}},
                        {"edge", {0, 0, 0, 1, 2, 2, 2, 2}},
                        {"reflect", {2, 1, 0, 1, 2, 1, 0, 1}},
                        {"wrap", {1, 2, 0, 1, 2, 0, 1, 2}}};
  for (const Case& c : cases) {
    OpRunner op("Pad", 19);
    op.attr("mode", c.mode).in(counting({3})).in(ints({2, 3})).in(tensor<float>({}, {7}));
    EXPECT_EQ(values_of<float>(op.run()), c.out) << c.mode;
  }
  // Cropping on one side, padding on the other; and two axes through `axes`.
  EXPECT_EQ(values_of<float>(OpRunner("Pad").in(counting({4})).in(ints({-1, 1})).run()), (Floats{1, 2, 3, 0}));
  EXPECT_EQ(values_of<float>(OpRunner("Pad").in(counting({1, 2})).in(ints({1, 0})).absent().in(ints({-1})).run()), (Floats{0, 0, 1}));
  EXPECT_EQ(values_of<float>(OpRunner("Pad").in(counting({0})).in(ints({1, 1})).run()), (Floats{0, 0}));
  OpRunner empty("Pad"), old("Pad", 6);
  EXPECT_EQ(empty.attr("mode", "edge").in(counting({0})).in(ints({1, 1})).code(), Code::invalid_model);
  EXPECT_EQ(values_of<float>(old.attr("pads", list({1, 0})).attr("value", 3.0f).in(counting({2})).run()), (Floats{3, 0, 1}));
  EXPECT_EQ(OpRunner("Pad").in(counting({2})).in(ints({-2, -1})).code(), Code::invalid_model);
  EXPECT_EQ(OpRunner("Pad").in(counting({2})).in(ints({INT64_MAX, 1})).code(), Code::invalid_model);
}

TEST(Rearrange, BlocksBothWays) {
  for (const char* mode : {"DCR", "CRD"}) {
    OpRunner to_space("DepthToSpace");
    const HostTensor out = to_space.attr("blocksize", 2).attr("mode", mode).in(counting({1, 8, 1, 1})).run();
    EXPECT_EQ(dims_of(out), (Dims{1, 2, 2, 2}));
    EXPECT_EQ(values_of<float>(out), std::string(mode) == "DCR" ? (Floats{0, 2, 4, 6, 1, 3, 5, 7}) : (Floats{0, 1, 2, 3, 4, 5, 6, 7}));
    if (std::string(mode) == "CRD") continue;
    OpRunner to_depth("SpaceToDepth");
    EXPECT_EQ(values_of<float>(to_depth.attr("blocksize", 2).in(out.clone()).run()), values_of<float>(counting({1, 8, 1, 1})));
  }
  OpRunner bad("DepthToSpace");
  EXPECT_EQ(bad.attr("blocksize", 3).in(counting({1, 8, 1, 1})).code(), Code::invalid_model);
}

TEST(Rearrange, TriluReverseOneHot) {
  OpRunner lower("Trilu");
  EXPECT_EQ(values_of<float>(lower.attr("upper", 0).in(counting({2, 3})).in(tensor<std::int64_t>({}, {-1})).run()),
            (Floats{0, 0, 0, 3, 0, 0}));
  EXPECT_EQ(values_of<float>(OpRunner("Trilu").in(counting({2, 2})).in(tensor<std::int64_t>({}, {INT64_MAX})).run()), (Floats{0, 0, 0, 0}));
  OpRunner reverse("ReverseSequence");
  EXPECT_EQ(values_of<float>(reverse.attr("batch_axis", 0).attr("time_axis", 1).in(counting({2, 3})).in(ints({3, 2})).run()),
            (Floats{2, 1, 0, 4, 3, 5}));
  EXPECT_EQ(
      values_of<float>(OpRunner("OneHot").in(ints({0, -1, 5})).in(tensor<std::int64_t>({}, {3})).in(tensor<float>({2}, {2, 9})).run()),
      (Floats{9, 2, 2, 2, 2, 9, 2, 2, 2}));
}

TEST(Select, CompressNonZeroUnique) {
  OpRunner rows("Compress");
  EXPECT_EQ(values_of<float>(rows.attr("axis", 0).in(counting({3, 2})).in(bools({2}, {0, 1})).run()), (Floats{2, 3}));
  EXPECT_EQ(values_of<float>(OpRunner("Compress").in(counting({3, 2})).in(bools({5}, {0, 1, 0, 0, 1})).run()), (Floats{1, 4}));
  const HostTensor found = OpRunner("NonZero").in(tensor<float>({2, 2}, {1, 0, -0.0f, 2})).run();
  EXPECT_EQ(dims_of(found), (Dims{2, 2}));
  EXPECT_EQ(values_of<std::int64_t>(found), (Dims{0, 1, 0, 1}));
  EXPECT_EQ(dims_of(OpRunner("NonZero").in(counting({0, 3})).run()), (Dims{2, 0}));
  EXPECT_EQ(OpRunner("NonZero").infer_dims({{DType::f32, true, {2, 2}}}), (Dims{2, -1}));
  const auto unique = OpRunner("Unique").outputs(4).in(ints({5, 2, 5, 1})).run_all();
  EXPECT_EQ(values_of<std::int64_t>(unique[0]), (Dims{1, 2, 5}));
  EXPECT_EQ(values_of<std::int64_t>(unique[1]), (Dims{3, 1, 0}));
  EXPECT_EQ(values_of<std::int64_t>(unique[2]), (Dims{2, 1, 2, 0}));
  EXPECT_EQ(values_of<std::int64_t>(unique[3]), (Dims{1, 1, 2}));
}

}  // namespace
}  // namespace forebay
