// Weight-only quantisation through the public interface: weights stay packed, the bits are those of
// the graph that dequantises them first.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "api/engine_world.h"
#include "plan/plan_data.h"

namespace forebay {
namespace {

using namespace test;

constexpr std::int64_t kDepth = 576,
                       kOutputs =
                           160;  // three blocks of the blocked product; not a multiple of 256

// 8-bit floats without NaN.
HostTensor codes(DType dtype, const Shape& shape, std::uint64_t seed) {
  HostTensor tensor = random_tensor(dtype, shape, seed);
  if (dtype == DType::f8e4m3fn || dtype == DType::f8e5m2)
    for (std::size_t i = 0; i < tensor.bytes(); ++i) tensor.data()[i] &= std::byte{0xbb};
  return tensor;
}

HostTensor scales(DType dtype, const Shape& shape, std::uint64_t seed) {
  HostTensor tensor(dtype, shape);
  Random random(seed);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const float value = random.uniform(0.001f, 0.02f);
    if (dtype == DType::f32) tensor.as<float>()[static_cast<std::size_t>(i)] = value;
    if (dtype == DType::f16)
      tensor.as<std::uint16_t>()[static_cast<std::size_t>(i)] = f32_to_f16(value);
    if (dtype == DType::bf16)
      tensor.as<std::uint16_t>()[static_cast<std::size_t>(i)] = f32_to_bf16(value);
  }
  return tensor;
}

enum class Scale : std::uint8_t { tensor, channel, block };

struct Form {
  DType code = DType::i4, value = DType::f32;
  Scale scale = Scale::tensor;
  std::int64_t block = 32;
  bool zero = false;
  bool outputs_first = false;  // the weight is [N,K]
};

std::string form_name(const Form& form) {
  return std::string(dtype_name(form.code)) + "_" + std::string(dtype_name(form.value)) + "_" +
         (form.scale == Scale::tensor    ? "tensor"
          : form.scale == Scale::channel ? "channel"
                                         : "block" + std::to_string(form.block)) +
         (form.zero ? "_zero" : "") + (form.outputs_first ? "_nk" : "_kn");
}

// Codes "q", "s" and "z", dequantised to "w".
void add_weight(GraphMaker& graph, const Form& form, std::uint64_t seed = 3) {
  const std::int64_t rows = form.outputs_first ? kOutputs : kDepth,
                     columns = form.outputs_first ? kDepth : kOutputs;
  const std::int64_t out_axis = form.outputs_first ? 0 : 1;
  Shape scale{};
  if (form.scale == Scale::channel) scale = Shape{kOutputs};
  if (form.scale == Scale::block)
    scale =
        form.outputs_first ? Shape{rows, columns / form.block} : Shape{rows / form.block, columns};
  graph.initializer("q", codes(form.code, Shape{rows, columns}, seed));
  graph.initializer("s", scales(form.value, scale, seed + 1));
  std::vector<std::string> inputs{"q", "s"};
  if (form.zero) {
    graph.initializer("z", codes(form.code, scale, seed + 2));
    inputs.emplace_back("z");
  }
  auto node = graph.node("DequantizeLinear", inputs, {"w"}).name("dequantise");
  node.set("axis", form.scale == Scale::block ? 1 - out_axis : out_axis);
  if (form.scale == Scale::block) node.set("block_size", form.block);
}

using Fill = std::function<void(GraphMaker&)>;

OnnxMaker make(const Fill& fill) {
  OnnxMaker maker(23, 10);
  maker.import("com.microsoft", 1);
  auto graph = maker.graph();
  fill(graph);
  return maker;
}

struct Ran {
  HostTensor output;
  std::uint64_t streamed = 0;
};

class PackedWeights : public testing::Test {
 protected:
  Plan plan_of(const Fill& fill, const std::string& name, bool fuse, std::uint64_t slab = 4096) {
    BuildOptions options;
    options.fuse = fuse;
    options.slab_bytes = slab;
    auto plan = build_plan(make(fill), folder_, name, options);
    EXPECT_OK(plan);
    return std::move(*plan);
  }
  HostTensor whole_run(const Plan& plan, const Tensors& inputs, const std::string& output = "y") {
    auto engine = Engine::create(plan, {}, with_budget(Budget::of_percent(100)));
    EXPECT_OK(engine);
    auto made = run_once(*engine, inputs, output);
    EXPECT_OK(made);
    return made.ok() ? std::move(*made) : HostTensor();
  }
  // The same bits at five budgets, of which the smallest streams.
  void expect_at_every_budget(const Plan& plan, const Tensors& inputs, const HostTensor& want,
                              const std::string& what, bool streams = true) {
    ASSERT_VALUE(Engine probe, Engine::create(plan, {}, with_budget(Budget::of_percent(100))));
    ASSERT_VALUE(const Engine::Sizes sizes, probe.sizes_for_shapes(shapes_of(inputs)));
    for (std::uint64_t part = 0; part <= 4; ++part) {
      const auto options = with_budget(
          Budget::of_bytes(sizes.min_budget + (sizes.full_budget - sizes.min_budget) * part / 4));
      ASSERT_VALUE(Engine engine, Engine::create(plan, {}, options));
      ASSERT_VALUE(ExecutionContext context, engine.create_context());
      for (int pass = 0; pass < 2; ++pass) {
        ASSERT_VALUE(const HostTensor got, run_once(context, inputs));
        EXPECT_TRUE(same_bits(got, want)) << what << " part " << part << " pass " << pass;
      }
      // What a pass of a few kilobytes needs may all have been read ahead, before it began: then another one tells.
      std::uint64_t streamed = context.profile().disk_bytes + context.profile().link_bytes;
      for (int more = 0; part == 0 && streams && streamed == 0 && more < 100; ++more) {
        ASSERT_OK(run_once(context, inputs).status());
        streamed = context.profile().disk_bytes + context.profile().link_bytes;
      }
      if (part == 0 && streams) {
        EXPECT_GT(streamed, 0u) << what;
      }
      EXPECT_LE(engine.memory().peak_committed, options.budget.bytes);
    }
  }
  static bool has_op(const Plan& plan, const std::string& op) {
    const auto& nodes = plan.data().graphs[0].nodes;
    return std::any_of(nodes.begin(), nodes.end(),
                       [&](const plan::Node& node) { return node.op == op; });
  }

  // `with` over DequantizeLinear, against the same graph over float weights of the same values and,
  // when that has the same order of additions, against the graph unfused.
  void expect_bits(const Form& form, const Fill& with, const std::vector<Shape>& inputs,
                   const std::string& name, bool unfused = true) {
    const Fill packed = [&](GraphMaker& graph) {
      add_weight(graph, form);
      with(graph);
    };
    const Plan fused = plan_of(packed, name, true), apart = plan_of(packed, name + "_apart", false);
    EXPECT_TRUE(has_op(fused, "QuantLinear")) << name;
    EXPECT_FALSE(has_op(fused, "DequantizeLinear")) << name;
    const HostTensor w = whole_run(plan_of(
                                       [&](GraphMaker& graph) {
                                         add_weight(graph, form);
                                         graph.output("w");
                                       },
                                       name + "_w", false),
                                   {}, "w");
    const Fill floats = [&](GraphMaker& graph) {
      graph.initializer("w", w);
      with(graph);
    };
    const Plan plain = plan_of(floats, name + "_floats", true, 1ull << 20);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Tensors x = only("x", random_tensor(form.value, inputs[i], 70 + i));
      const HostTensor want = whole_run(plain, x);
      expect_at_every_budget(fused, x, want, name + " " + inputs[i].to_string());
      if (unfused) {
        EXPECT_TRUE(same_bits(whole_run(apart, x), want))
            << name << " unfused " << inputs[i].to_string();
      }
    }
  }

  TempFolder folder_;
};

void matmul(GraphMaker& graph, DType value) {
  graph.input("x", value, {"rows", kDepth});
  graph.node("MatMul", {"x", "w"}, {"y"}).name("product");
  graph.output("y", value, {"rows", kOutputs});
}

void transposed_matmul(GraphMaker& graph, DType value) {
  graph.input("x", value, {"rows", kDepth});
  graph.node("Transpose", {"w"}, {"wt"}).set("perm", std::vector<std::int64_t>{1, 0});
  graph.node("MatMul", {"x", "wt"}, {"y"}).name("product");
  graph.output("y", value, {"rows", kOutputs});
}

const std::vector<Shape> kRows{Shape{1, kDepth}, Shape{3, kDepth}, Shape{8, kDepth},
                               Shape{40, kDepth}};

TEST_F(PackedWeights, EveryFormHasTheBitsOfItsFloats) {
  const Form forms[] = {
      {DType::i8, DType::f32, Scale::channel, 0, false, false},
      {DType::u8, DType::f32, Scale::block, 64, true, false},
      {DType::i4, DType::f32, Scale::block, 32, false, false},
      {DType::u4, DType::f32, Scale::block, 16, true, false},
      {DType::u4, DType::f16, Scale::channel, 0, true, false},
      {DType::f8e4m3fn, DType::f16, Scale::tensor, 0, false, false},
      {DType::f8e5m2, DType::f32, Scale::channel, 0, false, false},
      {DType::f4e2m1, DType::f32, Scale::block, 32, false, false},
  };
  for (const Form& form : forms)
    expect_bits(
        form, [&](GraphMaker& graph) { matmul(graph, form.value); }, kRows, form_name(form));
}

// The product reads [N,K] as it lies, in the order of additions of that form.
TEST_F(PackedWeights, PreTransposedWeight) {
  const Form forms[] = {
      {DType::i8, DType::f32, Scale::channel, 0, false, true},
      {DType::u8, DType::f32, Scale::block, 64, true, true},
      {DType::i4, DType::f32, Scale::block, 32, false, true},
      {DType::u4, DType::f32, Scale::block, 16, true, true},
      {DType::i4, DType::f16, Scale::block, 96, true, true},
      {DType::u4, DType::f16, Scale::channel, 0, true, true},
      {DType::i8, DType::f16, Scale::tensor, 0, true, true},
      {DType::f4e2m1, DType::f32, Scale::block, 32, false, true},
      {DType::f8e4m3fn, DType::f32, Scale::channel, 0, false, true},
  };
  for (const Form& form : forms)
    expect_bits(
        form, [&](GraphMaker& graph) { transposed_matmul(graph, form.value); }, kRows,
        form_name(form), false);
}

TEST_F(PackedWeights, Bfloat16DecodesWithTheSameBits) {
  const Form form{DType::i4, DType::bf16, Scale::block, 32, true, true};
  expect_bits(
      form, [&](GraphMaker& graph) { transposed_matmul(graph, form.value); },
      {Shape{1, kDepth}, Shape{8, kDepth}}, form_name(form), false);
}

TEST_F(PackedWeights, GemmKeepsAlphaBetaAndC) {
  const Form form{DType::i4, DType::f32, Scale::block, 64, true, true};
  const auto gemm = [](GraphMaker& graph) {
    graph.input("x", DType::f32, {"rows", kDepth});
    graph.initializer("c", random_tensor(DType::f32, Shape{kOutputs}, 9));
    graph.node("Gemm", {"x", "w", "c"}, {"y"})
        .set("transB", 1)
        .set("alpha", 0.5f)
        .set("beta", 1.5f);
    graph.output("y", DType::f32, {"rows", kOutputs});
  };
  expect_bits(form, gemm, kRows, "gemm");
}

// (BS,M,K) x (1,K,N), B a constant of rank 3.
TEST_F(PackedWeights, BatchedProductWithOneConstantMatrix) {
  for (const Scale scale : {Scale::channel, Scale::block}) {
    const Form form{DType::i8, DType::f32, scale, 32, true, false};
    const auto batched = [](GraphMaker& graph) {
      graph.input("x", DType::f32, {"batch", "rows", kDepth});
      graph.initializer_i64("axes", {0});
      graph.node("Unsqueeze", {"w", "axes"}, {"w3"});
      graph.node("MatMul", {"x", "w3"}, {"y"});
      graph.output("y", DType::f32, {"batch", "rows", kOutputs});
    };
    expect_bits(form, batched, {Shape{2, 3, kDepth}, Shape{3, 20, kDepth}, Shape{1, 1, kDepth}},
                form_name(form) + "_batched");
  }
}

// A quantised weight in a Constant node, reshaped and transposed (a shuffle) before and after it is
// dequantised.
TEST_F(PackedWeights, WeightBehindConstantAndShuffle) {
  for (const bool blocked : {false, true}) {
    const auto build_graph = [&](GraphMaker& graph, const HostTensor* w) {
      graph.input("x", DType::f32, {"rows", kDepth});
      if (w == nullptr) {
        graph.constant("q3", codes(DType::u4, Shape{4, kOutputs / 4, kDepth}, 5));
        graph.initializer_i64("flat", {kOutputs, kDepth});
        graph.node("Reshape", {"q3", "flat"}, {"q"});
        graph.constant(
            "s", scales(DType::f32, blocked ? Shape{kOutputs, kDepth / 64} : Shape{kOutputs}, 6));
        auto node = graph.node("DequantizeLinear", {"q", "s"}, {"w"});
        node.set("axis", blocked ? 1 : 0);
        if (blocked) node.set("block_size", 64);
      } else {
        graph.initializer("w", *w);
      }
      graph.initializer_i64("split", {kOutputs, 1, kDepth});
      graph.node("Reshape", {"w", "split"}, {"w3"});
      graph.node("Transpose", {"w3"}, {"w3t"}).set("perm", std::vector<std::int64_t>{2, 1, 0});
      graph.initializer_i64("joined", {kDepth, kOutputs});
      graph.node("Reshape", {"w3t", "joined"}, {"wt"});
      graph.node("MatMul", {"x", "wt"}, {"y"});
      graph.output("y", DType::f32, {"rows", kOutputs});
    };
    const std::string name = blocked ? "shuffle_block" : "shuffle";
    const Fill packed = [&](GraphMaker& graph) { build_graph(graph, nullptr); };
    const Plan fused = plan_of(packed, name, true), apart = plan_of(packed, name + "_apart", false);
    EXPECT_TRUE(has_op(fused, "QuantLinear"));
    EXPECT_FALSE(has_op(fused, "DequantizeLinear"));
    for (const WeightInfo& weight : fused.weights())
      EXPECT_TRUE(weight.dtype == DType::u4 || weight.bytes <= kOutputs * kDepth / 64 * 4u)
          << weight.name;
    for (const Shape& rows : kRows) {
      const Tensors x = only("x", random_tensor(DType::f32, rows, 8));
      expect_at_every_budget(fused, x, whole_run(apart, x), name + " " + rows.to_string());
    }
  }
}

// Pad adds zeros, not zero points, whichever side of the quantisation the convolution takes it
// from.
TEST_F(PackedWeights, PadBeforeAQuantisedConvolution) {
  const auto graph_of = [](GraphMaker& graph) {
    graph.input("x", DType::f32, {1, 16, 9, 9});
    graph.initializer_i64("pads", {0, 0, 1, 2, 0, 0, 2, 1});
    graph.node("Pad", {"x", "pads"}, {"p"});
    graph.initializer("xs", filled(Shape{}, 0.0625f));
    HostTensor zero(DType::u8, Shape{});
    zero.data()[0] = std::byte{37};
    graph.initializer("xz", zero);
    graph.node("QuantizeLinear", {"p", "xs", "xz"}, {"pq"});
    graph.node("DequantizeLinear", {"pq", "xs", "xz"}, {"pd"});
    graph.initializer("q", codes(DType::i8, Shape{96, 16, 3, 3}, 4));
    HostTensor scale(
        DType::f32, Shape{96});  // powers of two: the float sums are exact, as the integer ones are
    for (std::size_t i = 0; i < 96; ++i) scale.as<float>()[i] = i % 2 == 0 ? 0.03125f : 0.0078125f;
    graph.initializer("s", scale);
    graph.node("DequantizeLinear", {"q", "s"}, {"w"}).set("axis", 0);
    graph.node("Conv", {"pd", "w"}, {"c"}).set("pads", std::vector<std::int64_t>{1, 1, 1, 1});
    graph.initializer("ys", filled(Shape{}, 0.5f));
    graph.initializer("yz", zero);
    graph.node("QuantizeLinear", {"c", "ys", "yz"}, {"cq"});
    graph.node("DequantizeLinear", {"cq", "ys", "yz"}, {"y"});
    graph.output("y", DType::f32, {1, 96, 10, 10});
  };
  const Plan fused = plan_of(graph_of, "pad", true), apart = plan_of(graph_of, "pad_apart", false);
  HostTensor x = random_tensor(DType::f32, Shape{1, 16, 9, 9}, 2);
  for (float& v : x.as<float>()) v *= 8.0f;
  EXPECT_TRUE(has_op(fused, "QLinearConv"));
  const Tensors inputs = only("x", std::move(x));
  expect_at_every_budget(fused, inputs, whole_run(apart, inputs), "pad");
}

// Codes of every width, a scale a filter or a block of channels, sums and activations behind the
// convolution, channels of their own: the weight stays packed, and a slab's values are all that is
// ever made of it.
TEST_F(PackedWeights, ConvolutionsReadPackedFilters) {
  struct Case {
    DType code, value;
    bool blocked, zero, depthwise;
  };
  const Case cases[] = {{DType::i4, DType::f32, false, true, false},
                        {DType::u4, DType::f16, true, true, false},
                        {DType::i8, DType::f32, true, false, false},
                        {DType::u8, DType::bf16, false, true, false},
                        {DType::f8e4m3fn, DType::f32, false, false, false},
                        {DType::i8, DType::f32, false, true, true}};
  for (const Case& c : cases) {
    const std::int64_t filters = 96, channels = c.depthwise ? 1 : 32, planes = c.depthwise ? filters : channels,
                       taps = c.depthwise ? 8 : 3;
    const Shape weight{filters, channels, taps, taps};
    const Fill graph_of = [&](GraphMaker& graph) {
      const Shape scale = c.blocked ? Shape{filters, channels / 16, taps, taps} : Shape{filters};
      graph.input("x", c.value, {"batch", planes, 9, 9});
      graph.initializer("q", codes(c.code, weight, 4));
      graph.initializer("s", scales(c.value, scale, 5));
      std::vector<std::string> packed{"q", "s"};
      if (c.zero) {
        graph.initializer("z", codes(c.code, scale, 6));
        packed.emplace_back("z");
      }
      auto node = graph.node("DequantizeLinear", packed, {"w"});
      node.set("axis", c.blocked ? 1 : 0);
      if (c.blocked) node.set("block_size", 16);
      graph.initializer("b", scales(c.value, Shape{filters}, 7));
      auto conv = graph.node("Conv", {"x", "w", "b"}, {"c"});
      conv.set("pads", std::vector<std::int64_t>{1, 1, 1, 1}).set("strides", std::vector<std::int64_t>{2, 2});
      if (c.depthwise) conv.set("group", filters);
      graph.node("Relu", {"c"}, {"y"});
      graph.output("y");
    };
    const std::string name = "conv_" + std::string(dtype_name(c.code)) + (c.depthwise ? "_depthwise" : c.blocked ? "_block" : "");
    const Plan fused = plan_of(graph_of, name, true), apart = plan_of(graph_of, name + "_apart", false);
    EXPECT_TRUE(has_op(fused, "QuantConv")) << name;
    EXPECT_FALSE(has_op(fused, "DequantizeLinear") || has_op(fused, "Relu")) << name;
    for (const std::int64_t batch : {1, 3}) {
      const Tensors x = only("x", random_tensor(c.value, Shape{batch, planes, 9, 9}, 8));
      expect_at_every_budget(fused, x, whole_run(apart, x), name);
      // Neither the values of the whole weight nor a second copy of its codes.
      ASSERT_VALUE(Engine one, Engine::create(fused, {}, with_budget(Budget::of_percent(100))));
      ASSERT_VALUE(Engine two, Engine::create(apart, {}, with_budget(Budget::of_percent(100))));
      ASSERT_VALUE(const Engine::Sizes sizes, one.sizes_for_shapes(shapes_of(x)));
      ASSERT_VALUE(const Engine::Sizes whole, two.sizes_for_shapes(shapes_of(x)));
      EXPECT_LT(sizes.min_budget, whole.min_budget) << name;
    }
  }
}

// Sums of integers are exact where those of floats are rounded: at most a step of the output apart,
// and seldom.
TEST_F(PackedWeights, QuantisedConvolutionWithBiasAndReluRunsInIntegers) {
  const auto graph_of = [](GraphMaker& graph) {
    graph.input("x", DType::u8, {"batch", 24, 14, 14});
    graph.initializer("xs", filled(Shape{}, 0.021f));
    HostTensor x_zero(DType::u8, Shape{}), y_zero(DType::i8, Shape{});
    x_zero.data()[0] = std::byte{113};
    y_zero.data()[0] = std::byte{0x80};
    graph.initializer("xz", x_zero);
    graph.initializer("yz", y_zero);
    graph.node("DequantizeLinear", {"x", "xs", "xz"}, {"xd"});
    graph.initializer("q", codes(DType::i8, Shape{36, 12, 3, 3}, 4));
    graph.initializer("s", scales(DType::f32, Shape{36}, 5));
    graph.node("DequantizeLinear", {"q", "s"}, {"w"}).set("axis", 0);
    graph.initializer("b", random_tensor(DType::f32, Shape{36}, 6));
    graph.node("Conv", {"xd", "w", "b"}, {"c"})
        .set("group", 2)
        .set("strides", std::vector<std::int64_t>{2, 1})
        .set("pads", std::vector<std::int64_t>{1, 1, 0, 1});
    graph.node("Relu", {"c"}, {"r"});
    graph.initializer("ys", filled(Shape{}, 0.4f));
    graph.node("QuantizeLinear", {"r", "ys", "yz"}, {"y"});
    graph.output("y", DType::i8, {"batch", 36, 7, 14});
  };
  const Plan fused = plan_of(graph_of, "int8", true),
             apart = plan_of(graph_of, "int8_apart", false);
  EXPECT_TRUE(has_op(fused, "QLinearConv"));
  EXPECT_FALSE(has_op(fused, "Relu"));
  const Tensors inputs = only("x", codes(DType::u8, Shape{2, 24, 14, 14}, 9));
  const HostTensor want = whole_run(apart, inputs), got = whole_run(fused, inputs);
  ASSERT_EQ(got.shape(), want.shape());
  std::size_t different = 0, high = 0;
  for (std::size_t i = 0; i < got.bytes(); ++i) {
    const int a = got.as<std::int8_t>()[i], b = want.as<std::int8_t>()[i];
    EXPECT_LE(std::abs(a - b), 1);
    different += a != b ? 1 : 0;
    high += b > -128 && b < 127 ? 1 : 0;
  }
  EXPECT_LT(different, got.bytes() / 200);
  EXPECT_GT(high, got.bytes() / 10) << "the case must not be saturated";
  expect_at_every_budget(fused, inputs, got, "int8", false);
}

TEST_F(PackedWeights, BudgetsCountPackedBytes) {
  const Form form{DType::i4, DType::f32, Scale::block, 32, true, true};
  const Plan fused = plan_of(
      [&](GraphMaker& graph) {
        add_weight(graph, form);
        transposed_matmul(graph, DType::f32);
      },
      "bytes", true);
  const std::uint64_t packed = kDepth * kOutputs / 2, blocks = kDepth * kOutputs / 32;
  EXPECT_EQ(fused.weight_bytes(), packed + blocks * 4 + blocks / 2);
  for (const WeightInfo& weight : fused.weights()) {
    EXPECT_EQ(weight.recipe, "identity") << weight.name;
    if (weight.name == "q") {
      EXPECT_EQ(weight.bytes, packed);
      EXPECT_EQ(weight.consumption, "by_output");
      EXPECT_GT(weight.slabs, 4u);
    }
    if (weight.name == "s") {
      EXPECT_GT(weight.slabs, 4u) << "scales are cut with the weight";
    }
  }
  ASSERT_VALUE(Engine engine, Engine::create(fused, {}, with_budget(Budget::of_percent(100))));
  ASSERT_VALUE(const Engine::Sizes sizes, engine.sizes_for_shapes({{"x", Shape{1, kDepth}}}));
  EXPECT_LT(sizes.full_budget, kDepth * kOutputs * 4u) << "less than the weight in f32 alone";
  EXPECT_LT(sizes.min_budget, packed);
}

TEST_F(PackedWeights, RefitTakesNewCodesAndScales) {
  for (const DType code : {DType::i8, DType::i4}) {
    const Form form{code, DType::f32, Scale::block, 32, false, true};
    const auto model = [&](std::uint64_t seed) {
      return [&form, seed](GraphMaker& graph) {
        add_weight(graph, form, seed);
        transposed_matmul(graph, DType::f32);
      };
    };
    const std::string name(dtype_name(code));
    const Plan first = plan_of(model(3), name + "_first", true),
               second = plan_of(model(50), name + "_second", true);
    const Tensors x = only("x", random_tensor(DType::f32, Shape{2, kDepth}, 4));
    const HostTensor one = whole_run(first, x), two = whole_run(second, x);
    EXPECT_FALSE(same_bits(one, two));
    ASSERT_VALUE(Engine engine, Engine::create(first, {}, with_budget(Budget::of_percent(30))));
    WeightSources onnx;
    onnx.paths.push_back(folder_ / (name + "_second.onnx"));
    ASSERT_OK(engine.refit(onnx, nullptr));
    ASSERT_VALUE(const HostTensor after, run_once(engine, x));
    EXPECT_TRUE(same_bits(after, two));
    if (code == DType::i4) continue;  // safetensors has no 4-bit integers
    Tensors back;
    back.emplace_back("q", codes(code, Shape{kOutputs, kDepth}, 3));
    back.emplace_back("s", scales(DType::f32, Shape{kOutputs, kDepth / 32}, 4));
    write_file(folder_ / "back.safetensors", safetensors_of(back));
    WeightSources file;
    file.paths.push_back(folder_ / "back.safetensors");
    ASSERT_OK(engine.refit(file, nullptr));
    ASSERT_VALUE(const HostTensor again, run_once(engine, x));
    EXPECT_TRUE(same_bits(again, one));
  }
}

// com.microsoft's own forms: cut, streamed and fetched like the others.
TEST_F(PackedWeights, MatMulNBitsAndGatherBlockQuantizedStream) {
  constexpr std::int64_t kTable = 4096, kBlocks = kDepth / 32;
  const auto graph_of = [](GraphMaker& graph) {
    graph.input("x", DType::i64, {"tokens"});
    graph.initializer("table", codes(DType::u8, Shape{kTable, kDepth / 2}, 1));
    graph.initializer("table_scales", scales(DType::f32, Shape{kTable, kBlocks}, 2));
    graph.node("GatherBlockQuantized", {"table", "x", "table_scales"}, {"h"}, "com.microsoft")
        .set("bits", 4)
        .set("block_size", 32)
        .set("gather_axis", 0)
        .set("quantize_axis", 1);
    graph.initializer("q", codes(DType::u8, Shape{kOutputs, kBlocks, 16}, 3));
    graph.initializer("s", scales(DType::f32, Shape{kOutputs * kBlocks}, 4));
    graph.initializer("z", codes(DType::u8, Shape{kOutputs * kBlocks / 2}, 5));
    graph.node("MatMulNBits", {"h", "q", "s", "z"}, {"y"}, "com.microsoft")
        .set("bits", 4)
        .set("block_size", 32)
        .set("K", kDepth)
        .set("N", kOutputs);
    graph.output("y", DType::f32, {"tokens", kOutputs});
  };
  const Plan fused = plan_of(graph_of, "nbits", true),
             apart = plan_of(graph_of, "nbits_apart", false, 1ull << 22);
  for (const WeightInfo& weight : fused.weights()) {
    if (weight.name == "q" || weight.name == "s") {
      EXPECT_GT(weight.slabs, 4u) << weight.name;
    }
  }
  for (const std::int64_t count : {1, 30}) {
    HostTensor tokens(DType::i64, Shape{count});
    for (std::int64_t i = 0; i < count; ++i)
      tokens.as<std::int64_t>()[static_cast<std::size_t>(i)] = (i * 977 + 4095) % kTable;
    const Tensors inputs = only("x", std::move(tokens));
    expect_at_every_budget(fused, inputs, whole_run(apart, inputs),
                           "nbits " + std::to_string(count));
  }
  ASSERT_VALUE(Engine engine, Engine::create(fused, {}, with_budget(Budget::of_percent(100))));
  EXPECT_LT(engine.memory().no_stream_budget, kTable * kDepth / 2u)
      << "the table takes no place in the arena";
}

// A table that is only gathered from: its packed rows are fetched, their scales with them.
TEST_F(PackedWeights, GatherTakesPackedRows) {
  constexpr std::int64_t kTable = 5000, kWidth4 = 64;
  for (const Scale scale : {Scale::tensor, Scale::channel, Scale::block}) {
    const auto graph_of = [&](GraphMaker& graph) {
      graph.input("x", DType::i64, {"batch", "tokens"});
      graph.initializer("q", codes(DType::i4, Shape{kTable, kWidth4}, 1));
      const Shape dims = scale == Scale::tensor    ? Shape{}
                         : scale == Scale::channel ? Shape{kTable}
                                                   : Shape{kTable, 2};
      graph.initializer("s", scales(DType::f16, dims, 2));
      auto node = graph.node("DequantizeLinear", {"q", "s"}, {"w"});
      node.set("axis", scale == Scale::block ? 1 : 0);
      if (scale == Scale::block) node.set("block_size", 32);
      graph.node("Gather", {"w", "x"}, {"y"});
      graph.output("y", DType::f16, {"batch", "tokens", kWidth4});
    };
    const std::string name = "gather" + std::to_string(static_cast<int>(scale));
    const Plan fused = plan_of(graph_of, name, true),
               apart = plan_of(graph_of, name + "_apart", false);
    HostTensor tokens(DType::i64, Shape{2, 3});
    const std::int64_t rows[] = {0, 4999, 17, -1, 2500, 17};
    std::copy(std::begin(rows), std::end(rows), tokens.as<std::int64_t>().begin());
    const Tensors inputs = only("x", std::move(tokens));
    const HostTensor want = whole_run(apart, inputs), got = whole_run(fused, inputs);
    EXPECT_TRUE(same_bits(got, want)) << name;
    ASSERT_VALUE(Engine engine, Engine::create(fused, {}, with_budget(Budget::of_percent(100))));
    EXPECT_LT(engine.memory().min_budget, kTable * kWidth4 / 2u)
        << "the table takes no place in the arena";
  }
}

}  // namespace
}  // namespace forebay
