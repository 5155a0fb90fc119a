// Attention on the device beside the CPU's: every way it is computed (few rows and many on tensor cores, the rest by rows), what masks
// hide, and the same bits whoever says that a key is hidden. Skips where there is no GPU, and says so.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/cuda_runner.h"

namespace forebay::testing {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

enum class Hides { nothing, some, later };  // keys at random, or those behind the query

struct Case {
  std::int64_t batch, q_heads, kv_heads, queries, keys, past, head, value_head;
  bool packed = false, causal = false;
  Hides hides = Hides::nothing;
  DType mask = DType::f32;
  float hidden = kNever;                     // what hides, in a mask that is added
  std::vector<std::int64_t> mask_dims = {};  // {}: [queries, all keys]
  float softcap = 0, scale = 0;
  bool lengths = false;
  std::string text() const {
    std::string dims;
    for (const std::int64_t d : {batch, q_heads, kv_heads, queries, keys, past, head, value_head}) dims += std::to_string(d) + " ";
    return dims + (packed ? "packed " : "") + (causal ? "causal " : "") + "hides " + std::to_string(static_cast<int>(hides)) + " " +
           std::string(dtype_name(mask)) + " " + std::to_string(hidden);
  }
};

void put(HostTensor& to, std::int64_t at, float x) {
  const auto i = static_cast<std::size_t>(at);
  switch (to.dtype()) {
    case DType::boolean:
      to.as<std::uint8_t>()[i] = x == 0 ? 1 : 0;
      break;
    case DType::f32:
      to.as<float>()[i] = x;
      break;
    case DType::f16:
      to.as<std::uint16_t>()[i] = f32_to_f16(x);
      break;
    default:
      to.as<std::uint16_t>()[i] = f32_to_bf16(x);
      break;
  }
}

class CudaAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    runner_ = CudaRunner::create(&why);
    if (runner_ == nullptr) GTEST_SKIP() << why;
  }

  void make_mask(const Case& c) {
    std::vector<std::int64_t> dims = c.mask_dims;
    if (dims.empty()) dims = {c.queries, c.past + c.keys};
    mask_ = HostTensor(c.mask, Shape(dims));
    const std::int64_t keys = dims.back(), rows = mask_.shape().elements() / keys;
    for (std::int64_t r = 0; r < rows; ++r) {
      const bool whole = c.hides == Hides::some && rows > 1 && random_() % 5 == 0;  // now and then a row sees nothing
      for (std::int64_t j = 0; j < keys; ++j) {
        const bool hidden = c.hides == Hides::later ? j > r % c.queries + c.past : whole || random_() % 3 == 0;
        const float added = c.hides == Hides::later ? 0.0f : static_cast<float>(random_() % 1000) / 500.0f - 1.0f;
        put(mask_, r * keys + j, hidden ? c.hidden : c.mask == DType::boolean ? 0.0f : added);
      }
    }
  }

  NodeRun make(const Case& c, DType type, const std::string& domain) {
    const auto heads = [&](std::int64_t count, std::int64_t rows, std::int64_t size) {
      return random_tensor(random_, type, c.packed ? Shape{c.batch, rows, count * size} : Shape{c.batch, count, rows, size});
    };
    q_ = heads(c.q_heads, c.queries, c.head);
    k_ = heads(c.kv_heads, c.keys, c.head);
    v_ = heads(c.kv_heads, c.keys, c.value_head);
    return node(c, domain, type);
  }
  // Over the tensors that are there; past and mask are made.
  NodeRun node(const Case& c, const std::string& domain, DType type) {
    NodeRun run;
    run.domain = domain;
    run.op = "Attention";
    run.version = domain.empty() ? 23 : 1;
    run.inputs = {&q_, &k_, &v_, nullptr, nullptr, nullptr, nullptr};
    if (c.packed) run.attributes = {{"q_num_heads", plan::AttributeValue(c.q_heads)}, {"kv_num_heads", plan::AttributeValue(c.kv_heads)}};
    if (c.causal) run.attributes.push_back({"is_causal", plan::AttributeValue(std::int64_t{1})});
    if (c.softcap != 0) run.attributes.push_back({"softcap", plan::AttributeValue(c.softcap)});
    if (c.scale != 0) run.attributes.push_back({"scale", plan::AttributeValue(c.scale)});
    if (c.hides != Hides::nothing) {
      make_mask(c);
      run.inputs[3] = &mask_;
    }
    if (c.past > 0) {
      past_key_ = random_tensor(random_, type, Shape{c.batch, c.kv_heads, c.past, c.head});
      past_value_ = random_tensor(random_, type, Shape{c.batch, c.kv_heads, c.past, c.value_head});
      run.inputs[4] = &past_key_;
      run.inputs[5] = &past_value_;
      run.outputs = 3;
    }
    if (c.lengths) {
      lengths_ = HostTensor(DType::i64, Shape{c.batch});
      for (std::int64_t b = 0; b < c.batch; ++b) lengths_.as<std::int64_t>()[static_cast<std::size_t>(b)] = c.keys * b / c.batch;
      run.inputs[6] = &lengths_;
    }
    return run;
  }

  void compare(const NodeRun& run, double tolerance, const std::string& what) {
    auto cpu = run_node(run, runner_->pool);
    ASSERT_TRUE(cpu.ok()) << what << ": " << cpu.status().to_string();
    auto cuda = runner_->run(run);
    ASSERT_TRUE(cuda.ok()) << what << ": " << cuda.status().to_string();
    for (std::size_t o = 0; o < cpu->size(); ++o) {
      const HostTensor &a = (*cpu)[o], &b = (*cuda)[o];
      ASSERT_EQ(a.shape(), b.shape()) << what;
      std::int64_t wrong = 0, at = 0;
      double worst = 0;
      for (std::int64_t i = 0; i < a.shape().elements(); ++i) {
        if (std::isnan(number(a, i)) && std::isnan(number(b, i))) continue;
        const double error = std::abs(number(a, i) - number(b, i));
        if (error <= (o == 0 ? tolerance : 0)) continue;
        ++wrong;
        if (error <= worst) continue;
        worst = error;
        at = i;
      }
      EXPECT_EQ(wrong, 0) << what << ", output " << o << ": largest error " << worst << " at " << at << " of " << a.shape().elements();
    }
  }

  std::unique_ptr<CudaRunner> runner_;
  std::mt19937_64 random_{20261121};
  HostTensor q_, k_, v_, mask_, past_key_, past_value_, lengths_;
};

double tolerance_of(DType type) {
  return type == DType::f32 ? 4e-6 : type == DType::f16 ? 2e-3 : 1.6e-2;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = [] {
    std::vector<Case> made{
        // Few rows: decoding, speculation; splits, and none.
        {1, 8, 2, 1, 1, 3000, 128, 128},
        {3, 4, 4, 1, 1, 511, 64, 64, true},
        {2, 8, 1, 2, 2, 900, 128, 96, false, true},
        {1, 8, 2, 4, 4, 129, 128, 128, false, false, Hides::later},
        {1, 2, 2, 1, 700, 0, 256, 256, false, false, Hides::some, DType::boolean},
        {2, 4, 2, 3, 640, 0, 200, 72, true, false, Hides::some, DType::f16, -30.0f},
        {4, 2, 1, 1, 70, 0, 32, 32, false, false, Hides::nothing, DType::f32, 0, {}, 0, 0, true},
        // Rows of heads that share blocks.
        {1, 8, 2, 17, 17, 800, 128, 128, false, true},
        {2, 4, 4, 33, 200, 20, 40, 24, true, false, Hides::some, DType::boolean},
        {1, 4, 1, 63, 63, 5, 80, 80, true, false, Hides::later, DType::f32, -3e38f},
        // A block or more to a head.
        {1, 4, 2, 64, 64, 0, 64, 64, false, true},
        {2, 4, 2, 65, 65, 0, 128, 128, true, true},
        {1, 3, 1, 128, 128, 0, 96, 128, false, true},
        {1, 4, 1, 129, 129, 0, 128, 128, false, false, Hides::later, DType::f32, -3e38f},
        {1, 4, 4, 300, 300, 0, 128, 128, true, false, Hides::later, DType::bf16},
        {1, 2, 1, 300, 300, 77, 256, 256, false, true},
        {1, 2, 2, 100, 500, 0, 160, 256, true, false, Hides::some, DType::f16, -40.0f, {}, 20.0f},
        {1, 6, 2, 200, 200, 100, 64, 64, false, true, Hides::some, DType::f32, -5.0f},
        {2, 4, 2, 130, 190, 0, 64, 64, false, false, Hides::some, DType::f32, kNever, {2, 4, 130, 190}},
        {2, 4, 2, 130, 190, 0, 64, 64, false, false, Hides::some, DType::bf16, -3e38f, {2, 1, 130, 190}},
        {2, 4, 2, 130, 190, 0, 64, 64, false, false, Hides::some, DType::boolean, kNever, {2, 1, 1, 190}},
        {2, 4, 2, 70, 190, 0, 72, 72, false, false, Hides::some, DType::f32, kNever, {4, 70, 150}},
        {3, 2, 2, 90, 400, 0, 64, 64, false, false, Hides::nothing, DType::f32, 0, {}, 0, 0, true},
        {1, 2, 1, 100, 100, 0, 64, 64, false, true, Hides::nothing, DType::f32, 0, {}, 30.0f, -0.25f},
        // Encoders: few keys, all seen.
        {1, 12, 12, 197, 197, 0, 64, 64, true},
        {2, 4, 2, 128, 128, 0, 64, 64},
        {3, 2, 1, 33, 250, 0, 64, 64, true},
        {2, 2, 2, 70, 5, 0, 64, 64},
        {1, 3, 3, 300, 208, 0, 64, 64, true},
        {33, 12, 12, 130, 130, 0, 64, 64, true},
        {45, 12, 3, 128, 100, 0, 64, 64, true},
        // By rows: sizes that tensor cores do not take.
        {2, 4, 2, 65, 65, 0, 37, 19, true, true},
        {1, 2, 1, 3, 200, 0, 512, 264},
    };
    return made;
  }();
  return all;
}

TEST_F(CudaAttention, IsCloseToTheCpu) {
  for (const std::string domain : {"", "forebay"}) {
    for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
      for (const Case& c : cases()) {
        if (!domain.empty() && !c.mask_dims.empty() && c.mask_dims.back() < c.past + c.keys) continue;  // a short mask is the standard's
        NodeRun run = make(c, type, domain);
        const std::string what = domain + " " + std::string(dtype_name(type)) + " " + c.text();
        compare(run, tolerance_of(type), what);
        if (c.mask != DType::boolean || c.hides == Hides::nothing || domain.empty()) continue;
        run.attributes.push_back({"nan_rows", plan::AttributeValue(std::int64_t{1})});
        compare(run, tolerance_of(type), what + ", empty rows are zero");
        for (const float fill : {-20.0f, -3e38f}) {
          run.attributes.back() = {"mask_fill", plan::AttributeValue(fill)};
          compare(run, tolerance_of(type), what + ", masked scores have a value");
        }
      }
    }
  }
}

// By the attribute, by minus infinity, by a large number, by false: the same keys are hidden, and no bit differs.
TEST_F(CudaAttention, WhoeverHidesAKeyTheBitsAreTheSame) {
  for (const DType type : {DType::f16, DType::bf16}) {
    for (const std::int64_t queries : {64, 128, 300, 513}) {
      for (const std::int64_t head : {64, 128, 256}) {
        Case c{1, 4, 2, queries, queries, 0, head, head};
        c.causal = true;
        NodeRun run = make(c, type, "");
        const auto want = runner_->run(run);
        ASSERT_TRUE(want.ok()) << want.status().to_string();
        c.causal = false;
        c.hides = Hides::later;
        for (const auto& [mask, hidden] :
             {std::pair{DType::f32, kNever}, {DType::f32, -3e38f}, {DType::boolean, kNever}, {DType::bf16, kNever}}) {
          c.mask = mask;
          c.hidden = hidden;
          run = node(c, "", type);
          const auto got = runner_->run(run);
          ASSERT_TRUE(got.ok()) << got.status().to_string();
          EXPECT_TRUE(same_bytes((*got)[0], (*want)[0])) << dtype_name(type) << " " << c.text();
        }
      }
    }
  }
}

// Keys behind a sequence's length change no bit, whatever lies there; nor does another run.
TEST_F(CudaAttention, HiddenGarbageStaysHidden) {
  for (const std::int64_t queries : {1, 5, 90}) {
    Case c{2, 4, 2, queries, 700, 0, 64, 64};
    c.lengths = true;
    const NodeRun run = make(c, DType::bf16, "");
    const auto want = runner_->run(run), again = runner_->run(run);
    ASSERT_TRUE(want.ok() && again.ok()) << want.status().to_string();
    EXPECT_TRUE(same_bytes((*want)[0], (*again)[0]));
    for (HostTensor* t : {&k_, &v_}) {
      for (std::int64_t row = 0; row < 2 * 2 * 700; ++row) {
        if (row % 700 < lengths_.as<std::int64_t>()[static_cast<std::size_t>(row / 1400)]) continue;
        for (std::int64_t e = 0; e < 64; ++e) t->as<std::uint16_t>()[static_cast<std::size_t>(row * 64 + e)] = 0x7fc0;
      }
    }
    const auto got = runner_->run(run);
    ASSERT_TRUE(got.ok()) << got.status().to_string();
    EXPECT_TRUE(same_bytes((*got)[0], (*want)[0])) << queries;
  }
}

// What is not a number spreads to the rows that see it.
TEST_F(CudaAttention, NotANumberIsSeen) {
  for (const std::int64_t queries : {1, 100}) {
    const Case c{1, 2, 1, queries, 200, 0, 64, 64};
    for (HostTensor* t : {&k_, &v_}) {
      const NodeRun run = make(c, DType::f16, "");
      t->as<std::uint16_t>()[70 * 64 + 3] = 0x7e00;
      compare(run, tolerance_of(DType::f16), std::to_string(queries) + " queries");
    }
  }
}

}  // namespace
}  // namespace forebay::testing
