#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "op_runner.h"
#include "runtime/ops/vector_loops.h"

namespace forebay {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Binary, BroadcastsInEveryPlace) {
  struct Case {
    std::vector<std::int64_t> a, b;
  };
  const Case cases[] = {{{2, 3, 4}, {2, 3, 4}}, {{2, 3, 4}, {4}},    {{2, 3, 4}, {3, 1}}, {{2, 3, 4}, {2, 1, 1}}, {{2, 3, 4}, {}},
                        {{3, 1}, {1, 5}},       {{2, 1, 4}, {3, 1}}, {{0, 4}, {1, 4}},    {{1}, {1, 1, 1}},       {{5, 1, 3}, {1, 7, 1}}};
  for (const Case& c : cases) {
    HostTensor a(DType::f32, Shape(c.a)), b(DType::f32, Shape(c.b));
    for (std::size_t i = 0; i < a.as<float>().size(); ++i) a.as<float>()[i] = static_cast<float>(i);
    for (std::size_t i = 0; i < b.as<float>().size(); ++i) b.as<float>()[i] = static_cast<float>(100 * (i + 1));
    const HostTensor a_copy = a.clone(), b_copy = b.clone();
    const HostTensor out = OpRunner("Sub").in(std::move(a)).in(std::move(b)).run();
    const int rank = out.shape().rank();
    const auto at = [&](const HostTensor& t, std::int64_t flat) {
      std::int64_t offset = 0, stride = 1;
      for (int back = 1; back <= rank; ++back) {
        const std::int64_t size = out.shape()[rank - back], index = flat % size;
        flat /= size;
        if (back > t.shape().rank()) continue;
        const std::int64_t own = t.shape()[t.shape().rank() - back];
        if (own != 1) offset += index * stride;
        stride *= own;
      }
      return t.as<float>()[static_cast<std::size_t>(offset)];
    };
    for (std::int64_t i = 0; i < out.shape().elements(); ++i) {
      ASSERT_EQ(out.as<float>()[static_cast<std::size_t>(i)], at(a_copy, i) - at(b_copy, i));
    }
  }
}

TEST(Binary, RefusesWhatDoesNotBroadcastOrMatch) {
  EXPECT_EQ(OpRunner("Add").in(tensor<float>({2}, {1, 2})).in(tensor<float>({3}, {1, 2, 3})).code(), Code::invalid_model);
  EXPECT_EQ(OpRunner("Add").in(tensor<float>({1}, {1})).in(tensor<double>({1}, {1})).code(), Code::invalid_model);
  EXPECT_EQ(OpRunner("And").in(tensor<float>({1}, {1})).in(tensor<float>({1}, {1})).code(), Code::invalid_model);
}

TEST(Binary, Opset6AlignsByAxis) {
  OpRunner op("Add", 6);
  op.attr("broadcast", 1).attr("axis", 1).in(tensor<float>({1, 2, 2}, {0, 0, 0, 0})).in(tensor<float>({2}, {1, 2}));
  EXPECT_EQ(values_of<float>(op.run()), (std::vector<float>{1, 1, 2, 2}));
}

TEST(Binary, IntegersWrapAndDivideLikeNumpy) {
  const std::int64_t low = INT64_MIN, high = INT64_MAX;
  const auto run = [](const char* name, std::int64_t a, std::int64_t b) {
    return values_of<std::int64_t>(OpRunner(name).in(ints({a})).in(ints({b})).run())[0];
  };
  EXPECT_EQ(run("Add", high, 1), low);
  EXPECT_EQ(run("Mul", high, 2), -2);
  EXPECT_EQ(run("Div", low, -1), low);
  EXPECT_EQ(run("Div", 7, 0), 0);
  EXPECT_EQ(run("Div", -7, 2), -3);
  EXPECT_EQ(run("Mod", -7, 3), 2);
  EXPECT_EQ(run("Mod", 7, -3), -2);
  EXPECT_EQ(run("Mod", low, -1), 0);
  EXPECT_EQ(run("Mod", 5, 0), 0);
  EXPECT_EQ(values_of<std::int8_t>(OpRunner("Sub").in(tensor<std::int8_t>({1}, {-128})).in(tensor<std::int8_t>({1}, {1})).run())[0], 127);
  EXPECT_EQ(
      values_of<std::uint16_t>(OpRunner("Mul").in(tensor<std::uint16_t>({1}, {65535})).in(tensor<std::uint16_t>({1}, {65535})).run())[0],
      1);
}

TEST(Binary, ShiftsBeyondTheWidthAreZero) {
  OpRunner left("BitShift"), right("BitShift");
  left.attr("direction", "LEFT").in(tensor<std::uint8_t>({3}, {1, 255, 3})).in(tensor<std::uint8_t>({3}, {7, 4, 8}));
  right.attr("direction", "RIGHT").in(tensor<std::uint64_t>({2}, {UINT64_MAX, 8})).in(tensor<std::uint64_t>({2}, {64, 2}));
  EXPECT_EQ(values_of<std::uint8_t>(left.run()), (std::vector<std::uint8_t>{128, 240, 0}));
  EXPECT_EQ(values_of<std::uint64_t>(right.run()), (std::vector<std::uint64_t>{0, 2}));
}

TEST(Binary, ComparesNanAsUnequal) {
  OpRunner op("Equal"), less("LessOrEqual");
  op.in(tensor<float>({3}, {kNan, 1, 0.0f})).in(tensor<float>({3}, {kNan, 1, -0.0f}));
  less.in(tensor<float>({2}, {kNan, 1})).in(tensor<float>({2}, {1, 1}));
  EXPECT_EQ(values_of<std::uint8_t>(op.run()), (std::vector<std::uint8_t>{0, 1, 1}));
  EXPECT_EQ(values_of<std::uint8_t>(less.run()), (std::vector<std::uint8_t>{0, 1}));
}

TEST(Binary, HalvesComputeInFloatAndRoundOnce) {
  // 1 + 2^-11 is a tie in f16 (rounds to even: 1); 2048 + 1 is a tie too.
  OpRunner f16("Add"), bf16("Mul");
  f16.in(halves(DType::f16, {2}, {1.0f, 2048.0f})).in(halves(DType::f16, {2}, {0x1p-11f, 1.0f}));
  bf16.in(halves(DType::bf16, {1}, {1.0078125f})).in(halves(DType::bf16, {1}, {1.0078125f}));
  EXPECT_EQ(half_values(f16.run()), (std::vector<float>{1.0f, 2048.0f}));
  EXPECT_EQ(half_values(bf16.run()), (std::vector<float>{1.015625f}));
}

TEST(Binary, LongHalfRowsAgreeWithScalars) {
  std::vector<float> a, b;
  for (int i = 0; i < 5000; ++i) {
    a.push_back(static_cast<float>(i % 301) * 0.25f);
    b.push_back(static_cast<float>(i % 17) - 8.0f);
  }
  const HostTensor x = halves(DType::f16, {5000}, a), y = halves(DType::f16, {5000}, b);
  const std::vector<float> out = half_values(OpRunner("Mul").in(x.clone()).in(y.clone()).run());
  for (std::size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(out[i], f16_to_f32(f32_to_f16(f16_to_f32(x.as<std::uint16_t>()[i]) * f16_to_f32(y.as<std::uint16_t>()[i]))));
  }
}

TEST(Variadic, FoldsInOrder) {
  EXPECT_EQ(values_of<float>(
                OpRunner("Sum").in(tensor<float>({2}, {1, 2})).in(tensor<float>({1}, {10})).in(tensor<float>({2, 1}, {100, 200})).run()),
            (std::vector<float>{111, 112, 211, 212}));
  EXPECT_EQ(values_of<float>(OpRunner("Mean").in(tensor<float>({2}, {1, 2})).in(tensor<float>({2}, {3, 4})).run()),
            (std::vector<float>{2, 3}));
  EXPECT_EQ(values_of<float>(OpRunner("Max").in(tensor<float>({1}, {5})).run()), (std::vector<float>{5}));
  const auto nan = values_of<float>(OpRunner("Max").in(tensor<float>({2}, {kNan, 1})).in(tensor<float>({2}, {1, kNan})).run());
  EXPECT_TRUE(std::isnan(nan[0]) && std::isnan(nan[1]));
  EXPECT_EQ(values_of<std::int64_t>(OpRunner("Min").in(ints({3, -5})).in(ints({2, 9})).in(ints({7, 7})).run()),
            (std::vector<std::int64_t>{2, -5}));
}

TEST(Pow, MixesDtypes) {
  EXPECT_EQ(values_of<float>(OpRunner("Pow").in(tensor<float>({3}, {2, 3, 4})).in(ints({3, 2, -1})).run()),
            (std::vector<float>{8, 9, 0.25f}));
  EXPECT_EQ(values_of<std::int32_t>(OpRunner("Pow").in(tensor<std::int32_t>({4}, {2, -1, 1, 3})).in(ints({10, -3, -9, -1})).run()),
            (std::vector<std::int32_t>{1024, -1, 1, 0}));
  EXPECT_EQ(values_of<std::int64_t>(OpRunner("Pow").in(ints({2, 3})).in(tensor<float>({1}, {0.5f})).run()),
            (std::vector<std::int64_t>{1, 1}));
  const auto roots = values_of<float>(OpRunner("Pow").in(tensor<float>({4}, {4, -0.0f, -kInf, kInf})).in(tensor<float>({}, {0.5f})).run());
  EXPECT_EQ(roots[0], 2.0f);
  EXPECT_FALSE(std::signbit(roots[1]));
  EXPECT_EQ(roots[2], kInf);
  EXPECT_EQ(roots[3], kInf);
}

TEST(Unary, KnownAnswers) {
  struct Case {
    const char* op;
    float in, out;
  };
  const Case cases[] = {
      {"Neg", 1.5f, -1.5f},    {"Abs", -2, 2},         {"Sign", -3, -1},        {"Sqrt", 9, 3},          {"Reciprocal", 4, 0.25f},
      {"Exp", 0, 1},           {"Exp", -kInf, 0},      {"Exp", 1000, kInf},     {"Log", 1, 0},           {"Log", 0, -kInf},
      {"Erf", kInf, 1},        {"Floor", -1.5f, -2},   {"Ceil", -1.5f, -1},     {"Round", 2.5f, 2},      {"Round", -1.5f, -2},
      {"Relu", -3, 0},         {"Sigmoid", 0, 0.5f},   {"Sigmoid", -1000, 0},   {"Sigmoid", 1000, 1},    {"Tanh", kInf, 1},
      {"Tanh", -0.0f, -0.0f},  {"Softsign", 1, 0.5f},  {"Softplus", 1000, 1000}, {"HardSwish", 3, 3},    {"HardSwish", -4, -0.0f},
      {"HardSigmoid", 0, 0.5f}, {"LeakyRelu", -1, -0.01f}, {"Elu", -kInf, -1},  {"Mish", 0, 0},          {"Cos", 0, 1},
      {"ThresholdedRelu", 1, 0}, {"ThresholdedRelu", 2, 2}, {"Shrink", 0.25f, 0}, {"Celu", -kInf, -1},   {"Selu", 0, 0},
  };
  for (const Case& c : cases) {
    const float got = values_of<float>(OpRunner(c.op, 18).in(tensor<float>({}, {c.in})).run())[0];
    EXPECT_FLOAT_EQ(got, c.out) << c.op << "(" << c.in << ")";
    EXPECT_EQ(std::signbit(got), std::signbit(c.out)) << c.op << "(" << c.in << ")";
  }
  for (const char* op : {"Exp", "Log", "Erf", "Tanh", "Sigmoid", "Relu", "Softplus", "Mish", "Abs", "Sign", "Clip"}) {
    EXPECT_TRUE(std::isnan(values_of<float>(OpRunner(op).in(tensor<float>({}, {kNan})).run())[0])) << op;
  }
  EXPECT_EQ(values_of<std::int8_t>(OpRunner("Abs").in(tensor<std::int8_t>({2}, {-128, -7})).run()), (std::vector<std::int8_t>{-128, 7}));
  EXPECT_EQ(values_of<std::uint8_t>(OpRunner("Not").in(bools({2}, {0, 1})).run()), (std::vector<std::uint8_t>{1, 0}));
}

TEST(Unary, IsNanAndIsInf) {
  EXPECT_EQ(values_of<std::uint8_t>(OpRunner("IsNaN").in(tensor<float>({3}, {kNan, 1, kInf})).run()), (std::vector<std::uint8_t>{1, 0, 0}));
  OpRunner inf("IsInf");
  inf.attr("detect_negative", 0).in(tensor<double>({3}, {-HUGE_VAL, HUGE_VAL, 0}));
  EXPECT_EQ(values_of<std::uint8_t>(inf.run()), (std::vector<std::uint8_t>{0, 1, 0}));
  EXPECT_EQ(values_of<std::uint8_t>(OpRunner("IsInf").in(halves(DType::f16, {2}, {-kInf, 65504.0f})).run()),
            (std::vector<std::uint8_t>{1, 0}));
}

TEST(Clip, BoundsAsInputsAndAttributes) {
  EXPECT_EQ(
      values_of<float>(OpRunner("Clip").in(tensor<float>({3}, {-2, 0, 2})).in(tensor<float>({}, {-1})).in(tensor<float>({}, {1})).run()),
      (std::vector<float>{-1, 0, 1}));
  EXPECT_EQ(values_of<std::int64_t>(
                OpRunner("Clip").in(ints({INT64_MIN, 5, INT64_MAX})).absent().in(tensor<std::int64_t>({}, {INT64_MAX - 1})).run()),
            (std::vector<std::int64_t>{INT64_MIN, 5, INT64_MAX - 1}));
  // The upper bound wins when the bounds cross.
  EXPECT_EQ(values_of<float>(OpRunner("Clip").in(tensor<float>({1}, {0})).in(tensor<float>({}, {2})).in(tensor<float>({}, {1})).run())[0],
            1);
  OpRunner old("Clip", 6);
  old.attr("min", 0.0f).attr("max", 6.0f).in(tensor<float>({2}, {-1, 7}));
  EXPECT_EQ(values_of<float>(old.run()), (std::vector<float>{0, 6}));
}

TEST(PRelu, SlopeOfOpset6LiesAlongChannels) {
  OpRunner old("PRelu", 6);
  old.in(tensor<float>({1, 2, 2}, {-1, 1, -1, 1})).in(tensor<float>({2}, {2, 3}));
  EXPECT_EQ(values_of<float>(old.run()), (std::vector<float>{-2, 1, -3, 1}));
  EXPECT_EQ(OpRunner("PRelu").in(tensor<float>({2}, {1, 2})).in(tensor<float>({3, 2}, {0, 0, 0, 0, 0, 0})).code(), Code::invalid_model);
}

TEST(Where, ChoosesWithBroadcast) {
  EXPECT_EQ(
      values_of<std::int64_t>(OpRunner("Where").in(bools({2, 1}, {1, 0})).in(ints({1, 2, 3})).in(tensor<std::int64_t>({}, {9})).run()),
      (std::vector<std::int64_t>{1, 2, 3, 9, 9, 9}));
}

// Every set of instructions gives the same bits, and elementary functions are within 3 units in the last place.
TEST(VectorLoops, SetsAgreeAndAreAccurate) {
  using ops::FloatUnary;
  struct Case {
    FloatUnary op;
    double (*exact)(double);
  };
  const Case cases[] = {{FloatUnary::exp, [](double x) { return std::exp(x); }},
                        {FloatUnary::log, [](double x) { return std::log(x); }},
                        {FloatUnary::erf, [](double x) { return std::erf(x); }},
                        {FloatUnary::tanh, [](double x) { return std::tanh(x); }},
                        {FloatUnary::sigmoid, [](double x) { return 1.0 / (1.0 + std::exp(-x)); }},
                        {FloatUnary::softplus, [](double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }}};
  std::mt19937 random(7);
  std::uniform_real_distribution<float> wide(-80, 80), narrow(-1.5f, 1.5f);
  std::vector<float> in;
  for (int i = 0; i < 20000; ++i) {
    in.push_back(wide(random));
    in.push_back(narrow(random));
  }
  const auto n = static_cast<std::int64_t>(in.size());
  std::vector<float> first(in.size()), out(in.size());
  for (const Case& c : cases) {
    ops::available_vector_loops()[0]->unary(c.op, false)(in.data(), nullptr, first.data(), n, {});
    for (std::size_t i = 0; i < in.size(); ++i) {
      const double exact = c.exact(static_cast<double>(in[i]));
      if (std::isnan(exact)) {
        ASSERT_TRUE(std::isnan(first[i]));
        continue;
      }
      const auto rounded = static_cast<float>(exact);
      const double unit = std::nextafter(std::fabs(rounded), kInf) - std::fabs(rounded);
      ASSERT_LE(std::fabs(static_cast<double>(first[i]) - exact), 3 * unit) << static_cast<int>(c.op) << " at " << in[i];
    }
    for (const ops::VectorLoops* set : ops::available_vector_loops()) {
      set->unary(c.op, false)(in.data(), nullptr, out.data(), n, {});
      ASSERT_EQ(std::memcmp(first.data(), out.data(), in.size() * sizeof(float)), 0) << set->isa << " " << static_cast<int>(c.op);
    }
  }
}

TEST(VectorLoops, HalfConversionsAreThoseOfTheScalarOnes) {
  std::vector<std::uint16_t> bits(65536), back(65536);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  std::vector<float> wide(bits.size());
  std::mt19937 random(3);
  for (const ops::VectorLoops* set : ops::available_vector_loops()) {
    set->f16_to_f32(bits.data(), wide.data(), 65536);
    for (std::size_t i = 0; i < bits.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(wide[i]), std::bit_cast<std::uint32_t>(f16_to_f32(bits[i]))) << i;
    }
    std::vector<float> any;
    for (int i = 0; i < 65536; ++i) any.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
    set->f32_to_f16(any.data(), back.data(), 65536);
    for (std::size_t i = 0; i < any.size(); ++i) ASSERT_EQ(back[i], f32_to_f16(any[i])) << any[i];
    set->f32_to_bf16(any.data(), back.data(), 65536);
    for (std::size_t i = 0; i < any.size(); ++i) ASSERT_EQ(back[i], f32_to_bf16(any[i])) << any[i];
  }
}

TEST(Elementwise, ThreadCountsChangeNothing) {
  std::vector<float> a, b;
  for (int i = 0; i < 200000; ++i) {
    a.push_back(static_cast<float>(i) * 1e-4f - 10.0f);
    b.push_back(static_cast<float>(i % 1000));
  }
  const auto run = [&](int threads) {
    return values_of<float>(OpRunner("Mul", 18, threads).in(tensor<float>({200, 1000}, a)).in(tensor<float>({200, 1000}, b)).run());
  };
  EXPECT_EQ(run(1), run(3));
}

// A weight taken in slabs gives the same output as one taken whole.
TEST(Elementwise, SlabsOfAWeight) {
  const plan::Plan plan;
  const HostTensor x = tensor<float>({2}, {10, 20});
  const OpSpec* spec = OpRegistry::builtin().find("", "Add", 18);
  const std::vector<TypeShape> types = {{DType::f32, true, {2}}, {DType::f32, true, {4, 2}}};
  const std::vector<TypeShape> out_types = {{DType::f32, true, {4, 2}}};
  const NodeView node("n", "", "Add", 18, {}, plan, 2, 1);
  EXPECT_EQ(spec->consume(node, 1, types), plan::Consumption::elementwise);
  EXPECT_EQ(spec->consume(node, 0, types), plan::Consumption::whole);
  auto kernel = spec->create(node, types, out_types);
  ASSERT_TRUE(kernel.ok());
  ThreadPool pool(2);
  const HostTensor* values[] = {nullptr, nullptr};
  const std::int64_t slab_rows[] = {3, 1};
  ASSERT_TRUE((*kernel)->prepare({node, types, values, out_types, &pool, 1, plan::Consumption::elementwise, slab_rows}).ok());
  HostTensor out(DType::f32, Shape{4, 2});
  for (std::uint32_t slab = 0; slab < 2; ++slab) {
    const std::int64_t row = slab == 0 ? 0 : 3;
    const HostTensor part = slab == 0 ? tensor<float>({3, 2}, {0, 1, 2, 3, 4, 5}) : tensor<float>({1, 2}, {6, 7});
    const ConstTensorView inputs[] = {x, part};
    const TensorView outputs[] = {{out.data(), DType::f32, Shape{4, 2}}};
    const KernelCall call{inputs, outputs, nullptr, 0, &pool, slab, 2, row};
    ASSERT_TRUE((*kernel)->run(call).ok());
  }
  EXPECT_EQ(values_of<float>(out), (std::vector<float>{10, 21, 12, 23, 14, 25, 16, 27}));
}

}  // namespace
}  // namespace forebay
