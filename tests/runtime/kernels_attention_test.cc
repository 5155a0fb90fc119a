// Attention's blocked f32 kernel against the plain one in f64, at sizes that need several blocks
// and at decoding; forebay.Attention's own rules.
#include <cmath>
#include <limits>

#include "runtime/kernels_harness.h"

namespace forebay::testing {
namespace {

struct Case {
  std::int64_t batch, q_heads, kv_heads, queries, keys, past, head, value_head;
  bool packed, causal, mask, lengths;
};

HostTensor doubled(const HostTensor& from) {
  HostTensor to(DType::f64, from.shape());
  for (std::int64_t i = 0; i < from.shape().elements(); ++i)
    to.as<double>()[static_cast<std::size_t>(i)] = number(from, i);
  return to;
}

NodeRun node_of(const Case& c, const std::vector<HostTensor>& inputs) {
  NodeRun run{"", "Attention", 23, {{"is_causal", std::int64_t{c.causal}}}, {}, 1};
  if (c.packed) {
    run.attributes.push_back({"q_num_heads", c.q_heads});
    run.attributes.push_back({"kv_num_heads", c.kv_heads});
  }
  for (const HostTensor& input : inputs)
    run.inputs.push_back(input.dtype() == DType::none ? nullptr : &input);
  return run;
}

std::vector<HostTensor> inputs_of(const Case& c, std::mt19937_64& random, DType dtype) {
  std::vector<HostTensor> inputs(7);
  const auto heads = [&](std::int64_t count, std::int64_t length, std::int64_t width) {
    return c.packed ? Shape{c.batch, length, count * width} : Shape{c.batch, count, length, width};
  };
  inputs[0] = random_tensor(random, dtype, heads(c.q_heads, c.queries, c.head));
  inputs[1] = random_tensor(random, dtype, heads(c.kv_heads, c.keys, c.head));
  inputs[2] = random_tensor(random, dtype, heads(c.kv_heads, c.keys, c.value_head));
  if (c.mask) {
    inputs[3] = random_tensor(random, DType::f32, Shape{c.batch, 1, c.queries, c.past + c.keys});
    for (float& m : inputs[3].as<float>())
      m = m > 0.5f ? -std::numeric_limits<float>::infinity() : m;
  }
  if (c.past > 0) {
    inputs[4] = random_tensor(random, dtype, Shape{c.batch, c.kv_heads, c.past, c.head});
    inputs[5] = random_tensor(random, dtype, Shape{c.batch, c.kv_heads, c.past, c.value_head});
  }
  if (c.lengths) {
    inputs[6] = HostTensor(DType::i64, Shape{c.batch});
    for (std::int64_t& length : inputs[6].as<std::int64_t>())
      length = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(c.keys));
  }
  return inputs;
}

TEST(KernelsAttention, BlocksAgreeWithOneRowAtATime) {
  const Case cases[] = {{2, 4, 4, 300, 300, 0, 64, 64, false, true, false, false},
                        {1, 6, 2, 37, 530, 20, 40, 24, false, false, true, false},
                        {2, 4, 2, 130, 130, 0, 33, 17, true, true, true, false},
                        {2, 8, 2, 1, 1, 700, 128, 128, false, false, false, false},
                        {2, 8, 2, 1, 1, 45, 24, 20, true, false, true, false},
                        {1, 8, 1, 2, 2, 9, 16, 16, false, true, false, false},
                        {3, 4, 4, 5, 77, 0, 64, 64, false, false, false, true},
                        {1, 2, 1, 9, 40, 0, 8, 8, true, true, false, true}};
  std::mt19937_64 random(5);
  for (const Case& c : cases) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const std::vector<HostTensor> inputs = inputs_of(c, random, dtype);
      std::vector<HostTensor> wide;
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const bool floats = i != 3 && i != 6 && inputs[i].dtype() != DType::none;
        wide.push_back(floats                             ? doubled(inputs[i])
                       : inputs[i].dtype() == DType::none ? HostTensor()
                                                          : inputs[i].clone());
      }
      ThreadPool one(1), three(3);
      const auto got = run_node(node_of(c, inputs), three),
                 same = run_node(node_of(c, inputs), one), want = run_node(node_of(c, wide), three);
      ASSERT_TRUE(got.ok() && same.ok() && want.ok())
          << got.status().to_string() << want.status().to_string();
      EXPECT_TRUE(same_bytes((*got)[0], (*same)[0])) << "other bits with another number of threads";
      const double tolerance = dtype == DType::f32 ? 2e-6 : dtype == DType::f16 ? 1e-3 : 8e-3;
      std::int64_t wrong = 0;
      for (std::int64_t i = 0; i < (*want)[0].shape().elements(); ++i) {
        if (!(std::abs(number((*got)[0], i) - number((*want)[0], i)) <= tolerance)) ++wrong;
      }
      EXPECT_EQ(wrong, 0) << c.queries << " queries, " << c.past + c.keys << " keys, "
                          << dtype_name(dtype);
    }
  }
}

// Keys beyond what a row may see are never read into the result, whatever lies there.
TEST(KernelsAttention, HiddenGarbageStaysHidden) {
  std::mt19937_64 random(6);
  const Case c{1, 2, 2, 1, 12, 0, 16, 16, false, false, false, true};
  std::vector<HostTensor> inputs = inputs_of(c, random, DType::f32);
  inputs[6].as<std::int64_t>()[0] = 5;
  ThreadPool pool(2);
  const auto want = run_node(node_of(c, inputs), pool);
  for (std::size_t input : {std::size_t{1}, std::size_t{2}}) {
    for (std::int64_t head = 0; head < 2; ++head) {
      for (std::int64_t i = 5 * 16; i < 12 * 16; ++i)
        inputs[input].as<float>()[static_cast<std::size_t>(head * 12 * 16 + i)] = NAN;
    }
  }
  const auto got = run_node(node_of(c, inputs), pool);
  ASSERT_TRUE(want.ok() && got.ok());
  EXPECT_TRUE(same_bytes((*got)[0], (*want)[0]));
}

TEST(KernelsAttention, RowsThatSeeNothingFollowTheOperator) {
  std::mt19937_64 random(7);
  const Case c{1, 2, 2, 3, 4, 0, 8, 8, false, false, true, false};
  std::vector<HostTensor> inputs = inputs_of(c, random, DType::f32);
  std::fill_n(inputs[3].as<float>().begin() + 4, 4, -std::numeric_limits<float>::infinity());
  ThreadPool pool(2);
  NodeRun run = node_of(c, inputs);
  const auto standard = run_node(run, pool);
  run.domain = "forebay";
  run.version = 1;
  const auto softmax = run_node(run, pool);
  run.attributes.push_back({"nan_rows", std::int64_t{1}});
  const auto guarded = run_node(run, pool);
  ASSERT_TRUE(standard.ok() && softmax.ok() && guarded.ok());
  for (std::int64_t e = 8; e < 16; ++e) {
    EXPECT_EQ(number((*standard)[0], e), 0);
    EXPECT_TRUE(std::isnan(number((*softmax)[0], e)));
    EXPECT_EQ(number((*guarded)[0], e), 0);
  }
  EXPECT_EQ(number((*standard)[0], 0), number((*softmax)[0], 0));
}

TEST(KernelsAttention, KeysOfAnotherBatchAreRefused) {
  std::mt19937_64 random(8);
  const Case c{2, 2, 2, 3, 4, 0, 8, 8, false, false, false, false};
  std::vector<HostTensor> inputs = inputs_of(c, random, DType::f32);
  inputs[1] = random_tensor(random, DType::f32, Shape{1, 2, 4, 8});
  ThreadPool pool(2);
  EXPECT_EQ(run_node(node_of(c, inputs), pool).status().code(), Code::invalid_model);
}

// Linear in slabs, with a bias and an activation: as the product and the activation alone.
TEST(KernelsLinear, SlabsBiasAndActivationGiveTheChain) {
  std::mt19937_64 random(9);
  ThreadPool pool(3);
  for (const std::int64_t rows : {1, 5, 60}) {
    for (const bool turned : {false, true}) {
      for (const DType dtype : {DType::f32, DType::f16}) {
        const HostTensor x = random_tensor(random, dtype, Shape{2, rows, 70}),
                         bias = random_tensor(random, dtype, Shape{48});
        const HostTensor w = random_tensor(random, dtype, turned ? Shape{48, 70} : Shape{70, 48});
        NodeRun run{"forebay",
                    "Linear",
                    1,
                    {{"transB", std::int64_t{turned}}, {"activation", std::string("Relu")}},
                    {&x, &w, &bias},
                    1};
        const auto whole = run_node(run, pool);
        run.sliced = 1;
        run.slab_rows = random_cut(random, turned ? 48 : 70);
        const auto slabs = run_node(run, pool);
        ASSERT_TRUE(whole.ok() && slabs.ok())
            << whole.status().to_string() << slabs.status().to_string();
        std::int64_t wrong = 0;
        for (std::int64_t r = 0; r < 2 * rows; ++r) {
          for (std::int64_t n = 0; n < 48; ++n) {
            double sum = number(bias, n);
            for (std::int64_t k = 0; k < 70; ++k)
              sum += number(x, r * 70 + k) * number(w, turned ? n * 70 + k : k * 48 + n);
            const double wanted = std::max(0.0, sum), tolerance = dtype == DType::f32 ? 1e-5 : 1e-2;
            for (const auto* made : {&whole, &slabs})
              wrong += std::abs(number((**made)[0], r * 48 + n) - wanted) <= tolerance ? 0 : 1;
          }
        }
        EXPECT_EQ(wrong, 0) << rows << turned;
      }
    }
  }
}

}  // namespace
}  // namespace forebay::testing
