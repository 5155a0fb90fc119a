// What prompts need on the device beside the CPU's: com.microsoft's attention, rotations, long elementwise operands. Skips where there is
// no GPU, and says so.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/cuda_runner.h"

namespace forebay::testing {
namespace {

plan::AttributeValue integer(std::int64_t value) {
  return plan::AttributeValue(value);
}

class CudaPrompt : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    runner_ = CudaRunner::create(&why);
    if (runner_ == nullptr) GTEST_SKIP() << why;
  }
  // Tolerance 0: the same bytes.
  void compare(const NodeRun& run, double tolerance, const std::string& what, const std::string& id) {
    auto cpu = run_node(run, runner_->pool);
    ASSERT_TRUE(cpu.ok()) << what << ": " << cpu.status().to_string();
    auto cuda = runner_->run(run);
    ASSERT_TRUE(cuda.ok()) << what << ": " << cuda.status().to_string();
    EXPECT_EQ(runner_->id, id) << what;
    for (std::size_t o = 0; o < cpu->size(); ++o) {
      const HostTensor &a = (*cpu)[o], &b = (*cuda)[o];
      ASSERT_EQ(a.shape(), b.shape()) << what;
      double worst = 0;
      for (std::int64_t i = 0; i < a.shape().elements(); ++i) {
        if (std::isnan(number(a, i)) && std::isnan(number(b, i))) continue;
        const double error = std::abs(number(a, i) - number(b, i));
        if (!(error <= worst)) worst = error;
      }
      EXPECT_LE(worst, tolerance) << what << ", output " << o;
    }
  }
  HostTensor numbers(DType type, Shape shape) { return random_tensor(random_, type, shape); }

  std::unique_ptr<CudaRunner> runner_;
  std::mt19937_64 random_{20261122};
};

double tolerance_of(DType type) {
  return type == DType::f32 ? 8e-6 : type == DType::f16 ? 6e-3 : 5e-2;
}

template <typename T>
HostTensor list(DType type, Shape shape, const std::vector<T>& values) {
  HostTensor t(type, shape);
  std::copy(values.begin(), values.end(), t.as<T>().begin());
  return t;
}

struct Group {
  std::int64_t queries, past, head;
  std::vector<std::int32_t> after;  // rows of each sequence after the pass
  std::int64_t total;
  bool packed = false, rotary = false, norm = false, sink = false, bias = false;
  std::int64_t window = -1, causal = 1;
};

TEST_F(CudaPrompt, GroupQueryAttention) {
  const Group groups[] = {{1, 300, 128, {300, 17}, 300},
                          {1, 299, 64, {300, 300}, 300, true, true},
                          {200, 0, 128, {200, 200}, 200, true, true},
                          {130, 256, 64, {130, 130}, 130, false, true, true},
                          {20, 300, 64, {300, 120}, 300, false, true},
                          {150, 400, 64, {380, 200}, 380, false, false, false, false, true},
                          {150, 0, 64, {150, 150}, 150, false, false, false, true, false, 70},
                          {1, 300, 64, {300, 200}, 300, false, false, false, true, false, 100},
                          {90, 200, 40, {200, 150}, 200, false, false, false, false, false, -1, 0}};
  constexpr std::int64_t kBatch = 2, kHeads = 4, kKv = 2;
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const Group& g : groups) {
      const std::int64_t wide = (kHeads + (g.packed ? 2 * kKv : 0)) * g.head;
      const HostTensor q = numbers(type, Shape{kBatch, g.queries, wide}), k = numbers(type, Shape{kBatch, g.queries, kKv * g.head}),
                       v = numbers(type, Shape{kBatch, g.queries, kKv * g.head}),
                       past_k = numbers(type, Shape{kBatch, kKv, g.past, g.head}),
                       past_v = numbers(type, Shape{kBatch, kKv, g.past, g.head}), cos = numbers(type, Shape{512, g.head / 2}),
                       sin = numbers(type, Shape{512, g.head / 2}), bias = numbers(type, Shape{1, kHeads, g.queries, g.total}),
                       sink = numbers(type, Shape{kHeads}), norm = numbers(type, Shape{g.head});
      std::vector<std::int32_t> last = g.after;
      for (std::int32_t& x : last) --x;
      const HostTensor lengths = list(DType::i32, Shape{kBatch}, last),
                       total = list(DType::i32, Shape{1}, std::vector<std::int32_t>{static_cast<std::int32_t>(g.total)});
      NodeRun run{"com.microsoft", "GroupQueryAttention", 1, {{"num_heads", integer(kHeads)}, {"kv_num_heads", integer(kKv)}}, {}, 3};
      run.inputs.assign(16, nullptr);
      run.inputs[0] = &q;
      if (!g.packed) run.inputs[1] = &k;
      if (!g.packed) run.inputs[2] = &v;
      if (g.past > 0) run.inputs[3] = &past_k;
      if (g.past > 0) run.inputs[4] = &past_v;
      run.inputs[5] = &lengths;
      run.inputs[6] = &total;
      if (g.rotary) run.inputs[7] = &cos;
      if (g.rotary) run.inputs[8] = &sin;
      if (g.bias) run.inputs[10] = &bias;
      if (g.sink) run.inputs[11] = &sink;
      if (g.norm) run.inputs[14] = run.inputs[15] = &norm;
      if (g.rotary) run.attributes.push_back({"do_rotary", integer(1)});
      if (g.window > 0) run.attributes.push_back({"local_window_size", integer(g.window)});
      if (g.causal == 0) run.attributes.push_back({"causal", integer(0)});
      compare(run, tolerance_of(type), std::string(dtype_name(type)) + ", case " + std::to_string(&g - groups),
              "cuda.group_query_attention");
    }
  }
}

// A length that cannot be makes its sequence not a number, and no other.
TEST_F(CudaPrompt, ImpossibleLengthsShow) {
  const HostTensor q = numbers(DType::f16, Shape{2, 1, 128}), k = numbers(DType::f16, Shape{2, 1, 64}),
                   v = numbers(DType::f16, Shape{2, 1, 64}), past = numbers(DType::f16, Shape{2, 1, 9, 64}),
                   lengths = list(DType::i32, Shape{2}, std::vector<std::int32_t>{9, 4000}),
                   total = list(DType::i32, Shape{1}, std::vector<std::int32_t>{10});
  NodeRun run{"com.microsoft",
              "GroupQueryAttention",
              1,
              {{"num_heads", integer(2)}, {"kv_num_heads", integer(1)}},
              {&q, &k, &v, &past, &past, &lengths, &total},
              3};
  const auto made = runner_->run(run);
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  EXPECT_FALSE(std::isnan(number((*made)[0], 5)));
  // Queries are read where they lie without a rotation: keys and values tell.
  EXPECT_TRUE(std::isnan(number((*made)[0], 128 + 5)));
}

TEST_F(CudaPrompt, MultiHeadAttention) {
  struct Case {
    std::int64_t queries, keys, past, head, value_head;
    int padding = 0;  // rank
    bool bias = false, added = false, causal = false;
  };
  const Case cases[] = {{70, 70, 0, 64, 64, 2, true},
                        {1, 1, 200, 64, 32, 2, true, true, true},
                        {130, 130, 40, 128, 128, 0, false, false, true},
                        {65, 300, 0, 64, 64, 3, false, true},
                        {9, 20, 0, 24, 16, 1, true},
                        {100, 100, 0, 40, 40, 0, false, true}};
  constexpr std::int64_t kBatch = 2, kHeads = 3;
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const Case& c : cases) {
      const std::int64_t all = c.past + c.keys;
      const HostTensor q = numbers(type, Shape{kBatch, c.queries, kHeads * c.head}),
                       k = numbers(type, Shape{kBatch, c.keys, kHeads * c.head}),
                       v = numbers(type, Shape{kBatch, c.keys, kHeads * c.value_head}),
                       bias = numbers(type, Shape{kHeads * (2 * c.head + c.value_head)}),
                       added = numbers(type, Shape{1, kHeads, c.queries, all}),
                       past_k = numbers(type, Shape{kBatch, kHeads, c.past, c.head}),
                       past_v = numbers(type, Shape{kBatch, kHeads, c.past, c.value_head});
      HostTensor padding(DType::i32, c.padding == 1 ? Shape{kBatch} : c.padding == 2 ? Shape{kBatch, all} : Shape{kBatch, c.queries, all});
      for (std::int32_t& x : padding.as<std::int32_t>()) x = static_cast<std::int32_t>(random_() % (c.padding == 1 ? 9 : 3));
      NodeRun run{
          "com.microsoft", "MultiHeadAttention", 1, {{"num_heads", integer(kHeads)}, {"unidirectional", integer(c.causal ? 1 : 0)}}, {}, 3};
      run.inputs = {&q,
                    &k,
                    &v,
                    c.bias ? &bias : nullptr,
                    c.padding > 0 ? &padding : nullptr,
                    c.added ? &added : nullptr,
                    c.past > 0 ? &past_k : nullptr,
                    c.past > 0 ? &past_v : nullptr};
      compare(run, tolerance_of(type), std::string(dtype_name(type)) + ", case " + std::to_string(&c - cases), "cuda.multi_head_attention");
    }
  }
}

TEST_F(CudaPrompt, Rotations) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = numbers(type, Shape{2, 3, 20, 64}), packed = numbers(type, Shape{2, 20, 192}), cos = numbers(type, Shape{50, 32}),
                     sin = numbers(type, Shape{50, 32}), each = numbers(type, Shape{2, 20, 32}),
                     one = list(DType::i64, Shape{1}, std::vector<std::int64_t>{30});
    HostTensor ids(DType::i64, Shape{2, 20});
    for (std::int64_t& i : ids.as<std::int64_t>()) i = static_cast<std::int64_t>(random_() % 50);
    const std::string name(dtype_name(type));
    compare({"", "RotaryEmbedding", 23, {}, {&x, &cos, &sin, &ids}, 1, plan::kNone, {}}, tolerance_of(type), name, "cuda.rotary");
    compare(
        {"", "RotaryEmbedding", 23, {{"num_heads", integer(3)}, {"interleaved", integer(1)}}, {&packed, &each, &each}, 1, plan::kNone, {}},
        tolerance_of(type), name, "cuda.rotary");
    compare({"com.microsoft", "RotaryEmbedding", 1, {}, {&x, &one, &cos, &sin}, 1, plan::kNone, {}}, tolerance_of(type), name,
            "cuda.rotary");
    // Long enough for runs of eight.
    const HostTensor large = numbers(type, Shape{1, 8, 1100, 64});
    for (const DType table : {type, DType::f32}) {
      const HostTensor c = numbers(table, Shape{1, 1, 1100, 32}), s = numbers(table, Shape{1100, 64});
      compare({"forebay", "RotateHalf", 1, {}, {&large, &c, &s}, 1, plan::kNone, {}}, tolerance_of(type), name, "cuda.rotate_half");
    }
  }
}

TEST_F(CudaPrompt, LongOperands) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor a = numbers(type, Shape{300, 1024}), b = numbers(type, Shape{300, 1024});
    for (const char* op : {"Add", "Sub", "Mul", "Min", "Max"}) {
      const NodeRun run{"", op, 14, {}, {&a, &b}, 1, plan::kNone, {}};
      const auto cpu = run_node(run, runner_->pool), cuda = runner_->run(run);
      ASSERT_TRUE(cpu.ok() && cuda.ok());
      EXPECT_TRUE(same_bytes((*cpu)[0], (*cuda)[0])) << op << " " << dtype_name(type);
    }
  }
}

}  // namespace
}  // namespace forebay::testing
