#include <gtest/gtest.h>

#include "op_runner.h"

namespace forebay {
namespace {

HostTensor zeros(std::initializer_list<std::int64_t> dims) { return HostTensor(DType::f32, Shape(dims)); }
using Dims = std::vector<std::int64_t>;

TEST(Reshape, KnownAnswers) {
  struct Case {
    Shape in;
    Dims shape;
    int allow_zero;
    Dims out;
  };
  const Case cases[] = {{{2, 3, 4}, {4, -1}, 0, {4, 6}},    {{2, 3, 4}, {0, -1}, 0, {2, 12}},  {{2, 3}, {}, 0, {}},
                        {{0, 3}, {3, 0}, 1, {3, 0}},        {{0, 3}, {0, -1}, 0, {0, 0}},      {{1}, {1, 1, 1}, 0, {1, 1, 1}},
                        {{2, 3, 4}, {-1}, 0, {24}},         {{1, 1}, {}, 0, {}}};
  for (const Case& c : cases) {
    OpRunner op("Reshape");
    op.attr("allowzero", c.allow_zero).in(HostTensor(DType::f32, c.in)).in(ints(c.shape));
    if (c.out.empty() && c.in.elements() != 1) {
      EXPECT_EQ(op.code(), Code::invalid_model);
    } else {
      EXPECT_EQ(dims_of(op.run()), c.out);
    }
  }
  for (const Dims& bad : {Dims{-1, -1}, Dims{5, -1}, Dims{-2, 3}, Dims{7}, Dims{2, 3, 4, 0}, Dims{INT64_MAX, INT64_MAX, INT64_MAX}}) {
    EXPECT_EQ(OpRunner("Reshape").in(zeros({2, 3, 4})).in(ints(bad)).code(), Code::invalid_model);
  }
  EXPECT_EQ(OpRunner("Reshape").infer_dims({{DType::f32, true, {-1, 3}}, {DType::i64, true, {2}}}), (Dims{-1, -1}));
}

TEST(Shapes, FlattenSqueezeUnsqueeze) {
  OpRunner flat("Flatten"), last("Flatten");
  EXPECT_EQ(dims_of(flat.attr("axis", 0).in(zeros({2, 3})).run()), (Dims{1, 6}));
  EXPECT_EQ(dims_of(last.attr("axis", -1).in(zeros({2, 3, 4})).run()), (Dims{6, 4}));
  EXPECT_EQ(dims_of(OpRunner("Squeeze").in(zeros({1, 3, 1})).run()), (Dims{3}));
  EXPECT_EQ(dims_of(OpRunner("Squeeze").in(zeros({1, 3, 1})).in(ints({-1})).run()), (Dims{1, 3}));
  EXPECT_EQ(OpRunner("Squeeze").in(zeros({1, 3})).in(ints({1})).code(), Code::invalid_model);
  OpRunner old("Squeeze", 11);
  EXPECT_EQ(dims_of(old.attr("axes", plan::AttributeValue(Dims{0})).in(zeros({1, 3})).run()), (Dims{3}));
  EXPECT_EQ(dims_of(OpRunner("Unsqueeze").in(zeros({3})).in(ints({2, 0})).run()), (Dims{1, 3, 1}));
  EXPECT_EQ(OpRunner("Unsqueeze").in(zeros({3})).in(ints({0, 0})).code(), Code::invalid_model);
  EXPECT_EQ(OpRunner("Unsqueeze").in(zeros({3})).in(ints({5})).code(), Code::invalid_model);
}

TEST(Shapes, ShapeAndSize) {
  struct Case {
    std::int64_t start, end;
    Dims out;
  };
  const Case cases[] = {{0, 100, {2, 3, 4}}, {1, 2, {3}}, {-1, 100, {4}}, {0, -1, {2, 3}}, {2, 1, {}}, {-100, 1, {2}}};
  for (const Case& c : cases) {
    OpRunner op("Shape");
    op.attr("start", c.start).attr("end", c.end).in(zeros({2, 3, 4}));
    EXPECT_EQ(values_of<std::int64_t>(op.run()), c.out);
  }
  EXPECT_EQ(values_of<std::int64_t>(OpRunner("Size").in(zeros({2, 0, 4})).run()), (Dims{0}));
  EXPECT_EQ(values_of<std::int64_t>(OpRunner("Size").in(zeros({})).run()), (Dims{1}));
}

TEST(Shapes, IdentityAndDropout) {
  EXPECT_EQ(values_of<float>(OpRunner("Identity").in(tensor<float>({2}, {1, 2})).run()), (std::vector<float>{1, 2}));
  const auto out = OpRunner("Dropout").outputs(2).in(tensor<float>({2}, {1, 2})).run_all();
  EXPECT_EQ(values_of<float>(out[0]), (std::vector<float>{1, 2}));
  EXPECT_EQ(values_of<std::uint8_t>(out[1]), (std::vector<std::uint8_t>{1, 1}));
  const auto trained = OpRunner("Dropout").outputs(2).in(tensor<float>({4096}, std::vector<float>(4096, 3.0f))).in(tensor<float>({}, {0.25f})).in(bools({}, {1})).run_all();
  ASSERT_EQ(trained.size(), 2u);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < 4096; ++i) {
    const bool keeps = trained[1].as<std::uint8_t>()[i] != 0;
    ASSERT_EQ(trained[0].as<float>()[i], keeps ? 4.0f : 0.0f) << i;
    kept += keeps ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(kept), 3072, 150);
  EXPECT_EQ(OpRunner("Dropout").in(zeros({2})).in(tensor<float>({}, {1.5f})).in(bools({}, {1})).code(), Code::invalid_argument);
}

TEST(Generate, ConstantForms) {
  EXPECT_EQ(values_of<std::int64_t>(OpRunner("Constant").attr("value_int", 7).run()), (Dims{7}));
  EXPECT_EQ(values_of<float>(OpRunner("Constant").attr("value_floats", plan::AttributeValue(std::vector<float>{1, 2})).run()),
            (std::vector<float>{1, 2}));
  EXPECT_EQ(values_of<std::int8_t>(OpRunner("Constant").attr_tensor("value", tensor<std::int8_t>({2}, {3, 4})).run()),
            (std::vector<std::int8_t>{3, 4}));
  EXPECT_EQ(OpRunner("Constant").attr("value_string", "x").code(), Code::unsupported);
}

TEST(Generate, ConstantOfShapeExpandTile) {
  EXPECT_EQ(values_of<float>(OpRunner("ConstantOfShape").in(ints({2})).run()), (std::vector<float>{0, 0}));
  EXPECT_EQ(values_of<std::int64_t>(OpRunner("ConstantOfShape").attr_tensor("value", ints({9})).in(ints({1, 2})).run()), (Dims{9, 9}));
  EXPECT_EQ(dims_of(OpRunner("ConstantOfShape").in(ints({})).run()), Dims{});
  EXPECT_EQ(OpRunner("ConstantOfShape").in(ints({-1})).code(), Code::invalid_model);
  EXPECT_EQ(OpRunner("ConstantOfShape").in(ints({INT64_MAX, 8})).code(), Code::invalid_model);
  EXPECT_EQ(values_of<float>(OpRunner("Expand").in(tensor<float>({2, 1}, {1, 2})).in(ints({2, 1, 3})).run()),
            (std::vector<float>{1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2}));
  EXPECT_EQ(values_of<float>(OpRunner("Tile").in(tensor<float>({2, 2}, {1, 2, 3, 4})).in(ints({2, 2})).run()),
            (std::vector<float>{1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4}));
  EXPECT_EQ(dims_of(OpRunner("Tile").in(zeros({2, 3})).in(ints({0, 1})).run()), (Dims{0, 3}));
}

TEST(Generate, Range) {
  const auto range = [](std::int64_t a, std::int64_t b, std::int64_t d) {
    return OpRunner("Range")
        .in(tensor<std::int64_t>({}, {a}))
        .in(tensor<std::int64_t>({}, {b}))
        .in(tensor<std::int64_t>({}, {d}))
        .try_run();
  };
  EXPECT_EQ(values_of<std::int64_t>((*range(3, 9, 3))[0]), (Dims{3, 6}));
  EXPECT_EQ(values_of<std::int64_t>((*range(10, 4, -2))[0]), (Dims{10, 8, 6}));
  EXPECT_EQ(values_of<std::int64_t>((*range(4, 10, -1))[0]), Dims{});
  EXPECT_EQ(values_of<std::int64_t>((*range(INT64_MIN, INT64_MAX, INT64_MAX))[0]), (Dims{INT64_MIN, -1, INT64_MAX - 1}));
  EXPECT_EQ(range(0, 1, 0).status().code(), Code::invalid_model);
  EXPECT_EQ(range(0, INT64_MAX, 1).status().code(), Code::invalid_model);
  EXPECT_EQ(values_of<float>(
                OpRunner("Range").in(tensor<float>({}, {1})).in(tensor<float>({}, {2})).in(tensor<float>({}, {0.5f})).run()),
            (std::vector<float>{1, 1.5f}));
}

TEST(Generate, EyeLike) {
  OpRunner op("EyeLike");
  op.attr("k", 1).attr("dtype", 7).in(zeros({2, 3}));
  EXPECT_EQ(values_of<std::int64_t>(op.run()), (Dims{0, 1, 0, 0, 0, 1}));
}

}  // namespace
}  // namespace forebay
