// Convolutions against the definition, in random shapes; slabs of filters; repeated runs; pools of one and two threads.
#include <gtest/gtest.h>

#include <random>

#include "kernels_harness.h"
#include "op_runner.h"
#include "runtime/cpu/conv_depthwise.h"
#include "runtime/cuda/window_task.h"

namespace forebay {
namespace {

using testing::number;
using testing::random_tensor;

struct ConvCase {
  std::int64_t batch, channels, filters, groups, in[2], kernel[2], stride[2], dilation[2], pads[4];
};

double expected(const ConvCase& c, const HostTensor& x, const HostTensor& w, const HostTensor& b, std::int64_t n, std::int64_t f, std::int64_t oh, std::int64_t ow) {
  const std::int64_t inner = c.channels / c.groups, group = f / (c.filters / c.groups);
  double sum = number(b, f);
  for (std::int64_t i = 0; i < inner; ++i) {
    for (std::int64_t kh = 0; kh < c.kernel[0]; ++kh) {
      for (std::int64_t kw = 0; kw < c.kernel[1]; ++kw) {
        const std::int64_t h = oh * c.stride[0] + kh * c.dilation[0] - c.pads[0], v = ow * c.stride[1] + kw * c.dilation[1] - c.pads[1];
        if (h < 0 || h >= c.in[0] || v < 0 || v >= c.in[1]) continue;
        sum += number(w, ((f * inner + i) * c.kernel[0] + kh) * c.kernel[1] + kw) *
               number(x, ((n * c.channels + group * inner + i) * c.in[0] + h) * c.in[1] + v);
      }
    }
  }
  return sum;
}

TEST(KernelsConv, RandomShapesSlabsAndThreads) {
  std::mt19937_64 random(11);
  ThreadPool two(2), one(1);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return low + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(high - low + 1)); };
  for (int round = 0; round < 80; ++round) {
    ConvCase c{};
    c.batch = pick(1, 2);
    const int kind = round % 4;  // dense, depthwise, grouped, dense and large enough for the library
    c.groups = kind == 1 ? pick(2, 20) : kind == 2 ? 2 : 1;
    c.channels = kind == 1 ? c.groups : c.groups * pick(1, 9) * (kind == 3 ? 4 : 1);
    c.filters = kind == 1 ? c.groups * pick(1, 2) : c.groups * pick(1, 20);
    for (int a = 0; a < 2; ++a) {
      c.kernel[a] = pick(1, 5);
      c.stride[a] = pick(1, 3);
      c.dilation[a] = pick(1, 2);
      c.pads[a] = pick(0, c.kernel[a] - 1);
      c.pads[a + 2] = pick(0, c.kernel[a] - 1);
      c.in[a] = (c.kernel[a] - 1) * c.dilation[a] + pick(1, kind == 3 ? 40 : 70);
    }
    const DType dtype = round % 5 == 4 ? DType::bf16 : round % 7 == 6 ? DType::f64 : DType::f32;
    const HostTensor x = random_tensor(random, dtype, Shape{c.batch, c.channels, c.in[0], c.in[1]});
    const HostTensor w = random_tensor(random, dtype, Shape{c.filters, c.channels / c.groups, c.kernel[0], c.kernel[1]});
    const HostTensor b = random_tensor(random, dtype, Shape{c.filters});
    testing::NodeRun run{"", "Conv", 11, {}, {&x, &w, &b}, 1, plan::kNone, {}};
    run.attributes = {{"group", c.groups},
                      {"strides", std::vector<std::int64_t>{c.stride[0], c.stride[1]}},
                      {"dilations", std::vector<std::int64_t>{c.dilation[0], c.dilation[1]}},
                      {"pads", std::vector<std::int64_t>{c.pads[0], c.pads[1], c.pads[2], c.pads[3]}}};
    const auto whole = testing::run_node(run, two);
    ASSERT_TRUE(whole.ok()) << whole.status().to_string();
    const Shape& shape = (*whole)[0].shape();
    const double tolerance = dtype == DType::bf16 ? 5e-2 : 2e-4;
    for (int probe = 0; probe < 200; ++probe) {
      const std::int64_t i = pick(0, shape.elements() - 1), ow = i % shape[3], oh = i / shape[3] % shape[2], f = i / (shape[2] * shape[3]) % shape[1];
      const double want = expected(c, x, w, b, i / shape.elements(1, 4), f, oh, ow);
      ASSERT_NEAR(number((*whole)[0], i), want, tolerance + 1e-2 * (dtype == DType::bf16 ? std::abs(want) : 0)) << "round " << round << " element " << i;
    }
    const auto again = testing::run_node(run, two);
    ASSERT_TRUE(again.ok());
    EXPECT_TRUE(testing::same_bytes((*whole)[0], (*again)[0])) << "repeated, round " << round;
    if (kind == 2 || dtype == DType::f64) continue;
    run.sliced = 1;
    run.slab_rows = testing::random_cut(random, c.filters);
    const auto sliced = testing::run_node(run, two), single = testing::run_node(run, one);
    ASSERT_TRUE(sliced.ok() && single.ok()) << sliced.status().to_string();
    for (std::int64_t i = 0; i < shape.elements(); ++i) {
      ASSERT_NEAR(number((*sliced)[0], i), number((*whole)[0], i), tolerance) << "slabs, round " << round;
      ASSERT_NEAR(number((*single)[0], i), number((*whole)[0], i), tolerance) << "threads, round " << round;
    }
    if (kind == 1) {
      EXPECT_TRUE(testing::same_bytes((*sliced)[0], (*whole)[0])) << "depthwise slabs, round " << round;
    }
  }
}

// The patches are packed once for all slabs of a weight: the bits are those of the whole weight.
TEST(KernelsConv, SlabsThatShareTheirPatches) {
  std::mt19937_64 random(12);
  ThreadPool two(2), one(1);
  for (int round = 0; round < 12; ++round) {
    const std::int64_t batch = 1 + round % 3, channels = 5 + round * 4, kernel = round % 2 == 0 ? 3 : 1, stride = 1 + round % 4 / 3;
    const HostTensor x = random_tensor(random, DType::f32, Shape{batch, channels, 7, 7}), w = random_tensor(random, DType::f32, Shape{40, channels, kernel, kernel}),
                     b = random_tensor(random, DType::f32, Shape{40});
    testing::NodeRun run{"forebay", "Conv", 1, {}, {&x, &w, &b}, 1, plan::kNone, {}};
    run.attributes = {{"strides", std::vector<std::int64_t>{stride, stride}},
                      {"pads", std::vector<std::int64_t>(4, kernel / 2)},
                      {"activation", std::string("Relu")}};
    const auto whole = testing::run_node(run, two);
    run.sliced = 1;
    run.slab_rows = {16, 16, 8};
    const auto sliced = testing::run_node(run, two), single = testing::run_node(run, one);
    ASSERT_TRUE(whole.ok() && sliced.ok() && single.ok()) << sliced.status().to_string();
    EXPECT_TRUE(testing::same_bytes((*sliced)[0], (*whole)[0])) << "round " << round;
    EXPECT_TRUE(testing::same_bytes((*single)[0], (*whole)[0])) << "round " << round;
  }
}

TEST(KernelsConv, DepthwisePlanesAgreeOnEveryInstructionSet) {
  std::mt19937_64 random(12);
  for (const std::int64_t width : {1, 5, 16, 31, 64, 70, 200}) {
    cpu::DepthwisePlane plane{{1, 9, width}, {1, 9, width}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}};
    const HostTensor x = random_tensor(random, DType::f32, Shape{9, width}), w = random_tensor(random, DType::f32, Shape{9});
    std::vector<float> first, scratch(static_cast<std::size_t>(cpu::depthwise_scratch_floats(plane)));
    for (const auto set : {cpu::InstructionSet::avx512, cpu::InstructionSet::avx2, cpu::InstructionSet::baseline}) {
      if (set > cpu::cpu_instruction_set()) continue;
      std::vector<float> y(static_cast<std::size_t>(9 * width), -9.0f);
      cpu::depthwise_plane(set, plane, x.as<float>().data(), w.as<float>().data(), 0.25f, y.data(), scratch.data());
      if (first.empty()) first = y;
      for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], first[i], 1e-5f) << "width " << width << " element " << i;
    }
  }
}

TEST(KernelsConv, WindowsBeyondThirtyTwoBitsAreNotForTheDevice) {
  struct Task {
    int in[3], out[3], kernel[3], stride[3], dilation[3], pad[3], taps, in_size, out_size;
  };
  const OpRunner conv("Conv");
  ops::Window fits;
  fits.in = {1, 1 << 15, 1 << 14};
  fits.out = {1, 1 << 14, 1 << 13};
  fits.kernel = {1, 3, 3};
  fits.stride = {1, 2, 2};
  fits.pad = {0, 1, 1};
  Task task{};
  ASSERT_TRUE(cuda::set_window(conv.view(), fits, task).ok());
  EXPECT_EQ(task.in[1], 1 << 15);
  EXPECT_EQ(task.taps, 9);
  EXPECT_EQ(task.out_size, 1 << 27);

  constexpr std::int64_t kLong = std::int64_t{1} << 31;
  for (std::array<std::int64_t, 3> ops::Window::*part :
       {&ops::Window::stride, &ops::Window::dilation, &ops::Window::pad, &ops::Window::pad_end, &ops::Window::in, &ops::Window::out}) {
    ops::Window window = fits;
    (window.*part)[2] = kLong;
    EXPECT_EQ(cuda::set_window(conv.view(), window, task).code(), Code::unsupported);
  }
  ops::Window window = fits;  // each number fits, what it reaches does not
  window.kernel[1] = window.dilation[1] = 1 << 16;
  EXPECT_EQ(cuda::set_window(conv.view(), window, task).code(), Code::unsupported);
}

TEST(KernelsConv, AWeightThatDoesNotFitIsRefused) {
  ThreadPool pool(1);
  const HostTensor x(DType::f32, Shape{1, 4, 8, 8}), w(DType::f32, Shape{6, 3, 3, 3});
  const auto made = testing::run_node({"", "Conv", 11, {}, {&x, &w}, 1, plan::kNone, {}}, pool);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), Code::invalid_model);
  EXPECT_NE(made.status().message().find("[6,3,3,3]"), std::string::npos) << made.status().message();
}

// Slabs that end within groups, patches kept and made anew, biases of both kinds: the bits of the whole weight.
TEST(KernelsConv, IntegerSlabsHaveTheBitsOfTheWhole) {
  std::mt19937_64 random(7);
  ThreadPool pool(2);
  const auto codes = [&](DType type, const Shape& shape) {
    HostTensor t(type, shape);
    for (std::size_t i = 0; i < t.bytes(); ++i) t.data()[i] = static_cast<std::byte>(random());
    return t;
  };
  struct Form {
    Shape x, w;
    std::int64_t group;
  };
  const Form forms[] = {{Shape{2, 12, 9, 8}, Shape{30, 12, 3, 3}, 1},
                        {Shape{1, 12, 7, 7}, Shape{24, 4, 3, 2}, 3},
                        {Shape{2, 20, 6, 6}, Shape{20, 1, 3, 3}, 20},
                        {Shape{1, 40, 130, 130}, Shape{20, 40, 3, 3}, 1}};  // the last has more patches than are kept
  for (const Form& form : forms) {
    const std::int64_t filters = form.w[0];
    const HostTensor x = codes(DType::u8, form.x), w = codes(DType::i8, form.w), x_zero = codes(DType::u8, Shape{}),
                     w_zeros = codes(DType::i8, Shape{filters}), y_zero = codes(DType::u8, Shape{}),
                     floats = random_tensor(random, DType::f32, Shape{filters});
    HostTensor x_scale(DType::f32, Shape{}), w_scale(DType::f32, Shape{filters}), y_scale(DType::f32, Shape{}), bias(DType::i32, Shape{filters});
    x_scale.as<float>()[0] = 0.013f;
    y_scale.as<float>()[0] = 0.8f;
    for (float& value : w_scale.as<float>()) value = 0.002f + 0.001f * static_cast<float>(random() % 8);
    for (auto& value : bias.as<std::int32_t>()) value = static_cast<std::int32_t>(random() % 20000) - 10000;
    const std::vector<plan::Attribute> attributes = {{"pads", plan::AttributeValue(std::vector<std::int64_t>{1, 0, 1, 1})},
                                                     {"group", plan::AttributeValue(form.group)}};
    const auto expect_same = [&](testing::NodeRun run, std::uint32_t weight) {
      const auto want = testing::run_node(run, pool);
      ASSERT_TRUE(want.ok()) << want.status().to_string();
      run.sliced = weight;
      for (int round = 0; round < 4; ++round) {
        run.slab_rows = testing::random_cut(random, filters);
        const auto got = testing::run_node(run, pool);
        ASSERT_TRUE(got.ok()) << got.status().to_string();
        EXPECT_TRUE(testing::same_bytes((*got)[0], (*want)[0])) << run.op << form.w.to_string() << " slabs of " << run.slab_rows[0];
      }
    };
    expect_same({"", "ConvInteger", 10, attributes, {&x, &w, &x_zero, &w_zeros}, 1, plan::kNone, {}}, 1);
    testing::NodeRun scaled{"", "QLinearConv", 10, attributes, {&x, &x_scale, &x_zero, &w, &w_scale, &w_zeros, &y_scale, &y_zero, &bias}, 1,
                            plan::kNone, {}};
    expect_same(scaled, 3);
    scaled.domain = "forebay";
    scaled.version = 1;
    scaled.inputs.back() = &floats;
    expect_same(scaled, 3);
  }
}

}  // namespace
}  // namespace forebay
