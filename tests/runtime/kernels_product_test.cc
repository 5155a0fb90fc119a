// Matrix products: the order of additions, equality of instruction sets, slabs against whole, batches against single rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels_harness.h"
#include "runtime/cpu/convert_floats.h"
#include "runtime/cpu/dnnl_matmul.h"
#include "runtime/cpu/gemm_blocked.h"
#include "runtime/cpu/gemv.h"

namespace forebay {
namespace {

using cpu::InstructionSet;
using testing::number;
using testing::random_tensor;

std::vector<InstructionSet> sets() {
  std::vector<InstructionSet> all;
  for (const InstructionSet set : {InstructionSet::baseline, InstructionSet::avx2, InstructionSet::avx512}) {
    if (set <= cpu::cpu_instruction_set()) all.push_back(set);
  }
  return all;
}

// The rule of additions written down once more, apart from the kernels.
float reference_dot(const std::vector<float>& w, const std::vector<float>& x) {
  std::vector<float> sums(256, 0.0f);
  for (std::size_t i = 0; i < w.size(); ++i) sums[i % 256] = std::fma(w[i], x[i], sums[i % 256]);
  std::vector<float> runs;
  for (std::size_t i = 0; i < 256; i += 8) {
    runs.push_back(((sums[i] + sums[i + 1]) + (sums[i + 2] + sums[i + 3])) + ((sums[i + 4] + sums[i + 5]) + (sums[i + 6] + sums[i + 7])));
  }
  for (const std::size_t half : {16, 8, 4, 2, 1}) {
    for (std::size_t i = 0; i < half; ++i) runs[i] += runs[i + half];
  }
  return runs[0];
}

TEST(KernelsProduct, RowDotHasTheBitsOfItsRuleOnEveryInstructionSet) {
  std::mt19937_64 random(1);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t k : {1, 7, 8, 15, 17, 255, 256, 257, 300, 511, 1000, 2048, 2500}) {
      const std::int64_t n = 5;
      const HostTensor w = random_tensor(random, dtype, Shape{n, k}), x = random_tensor(random, DType::f32, Shape{8, k});
      for (const std::int64_t m : {1, 3, 8}) {
        for (const InstructionSet set : sets()) {
          std::vector<float> y(static_cast<std::size_t>(m * n), -7.0f);
          const cpu::GemvTask task{w.data(), dtype, n, k, x.as<float>().data(), k, m, y.data(), n};
          cpu::gemv_row_dot(set, task, 0, 2);
          cpu::gemv_row_dot(set, task, 2, n);
          for (std::int64_t i = 0; i < m * n; ++i) {
            std::vector<float> row, from;
            for (std::int64_t j = 0; j < k; ++j) {
              row.push_back(static_cast<float>(number(w, i % n * k + j)));
              from.push_back(x.as<float>()[static_cast<std::size_t>(i / n * k + j)]);
            }
            const float want = reference_dot(row, from);
            EXPECT_EQ(std::memcmp(&want, &y[static_cast<std::size_t>(i)], 4), 0)
                << dtype_name(dtype) << " k " << k << " m " << m << " set " << cpu::instruction_set_name(set) << " element " << i;
          }
        }
      }
    }
  }
}

TEST(KernelsProduct, AxpyHasTheSameBitsForAnySetCutAndRows) {
  std::mt19937_64 random(2);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const std::int64_t n = 75, k = 43, m = 5;
    const HostTensor w = random_tensor(random, dtype, Shape{k, n}), x = random_tensor(random, DType::f32, Shape{m, k});
    std::vector<float> want(static_cast<std::size_t>(m * n), 0.0f);
    for (std::int64_t i = 0; i < m * n; ++i) {
      for (std::int64_t j = 0; j < k; ++j) {
        float& sum = want[static_cast<std::size_t>(i)];
        sum = std::fma(static_cast<float>(number(w, j * n + i % n)), x.as<float>()[static_cast<std::size_t>(i / n * k + j)], sum);
      }
    }
    for (const InstructionSet set : sets()) {
      for (const std::int64_t cut : {k, std::int64_t{9}, std::int64_t{16}}) {
        std::vector<float> y(want.size(), 0.0f);
        for (std::int64_t at = 0; at < k; at += cut) {
          const std::int64_t rows = std::min(cut, k - at);
          const cpu::GemvTask task{w.data() + at * n * dtype_bits(dtype) / 8, dtype, n, rows, x.as<float>().data() + at, k, m, y.data(), n};
          cpu::gemv_axpy(set, task, 0, 33);
          cpu::gemv_axpy(set, task, 33, n);
        }
        EXPECT_EQ(std::memcmp(y.data(), want.data(), y.size() * 4), 0) << dtype_name(dtype) << " " << cpu::instruction_set_name(set) << " cut " << cut;
      }
    }
  }
}

TEST(KernelsProduct, ConversionsAgreeOnEveryInstructionSet) {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  std::mt19937_64 random(3);
  std::vector<float> wide(70000);
  for (float& v : wide) v = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  for (const DType dtype : {DType::f16, DType::bf16}) {
    std::vector<float> first(all.size()), other(all.size());
    std::vector<std::uint16_t> narrow(wide.size()), again(wide.size());
    for (const InstructionSet set : sets()) {
      const bool base = set == InstructionSet::baseline;
      cpu::to_f32(dtype, reinterpret_cast<const std::byte*>(all.data()), 65536, base ? first.data() : other.data(), set);
      cpu::from_f32(dtype, wide.data(), 70000, reinterpret_cast<std::byte*>(base ? narrow.data() : again.data()), set);
      if (base) continue;
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (std::isnan(first[i])) {
          EXPECT_TRUE(std::isnan(other[i]));
        } else {
          EXPECT_EQ(std::bit_cast<std::uint32_t>(first[i]), std::bit_cast<std::uint32_t>(other[i])) << i;
        }
      }
      EXPECT_EQ(narrow, again) << dtype_name(dtype) << " " << cpu::instruction_set_name(set);
    }
  }
}

TEST(KernelsProduct, BlockedProductIsRightAndFreeOfItsGrid) {
  std::mt19937_64 random(4);
  ThreadPool pool(2);
  for (int round = 0; round < 40; ++round) {
    const auto size = [&](int most) { return 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most)); };
    const std::int64_t m = size(70), n = size(150), k = round == 0 ? 0 : size(450);
    const HostTensor a = random_tensor(random, DType::f32, Shape{m, std::max<std::int64_t>(k, 1)});
    const HostTensor b = random_tensor(random, DType::f32, Shape{std::max<std::int64_t>(k, 1), n});
    for (const InstructionSet set : sets()) {
      std::vector<float> one(static_cast<std::size_t>(m * n), 0.5f), four = one;
      cpu::GemmTask task;
      task.m = m;
      task.n = n;
      task.k = k;
      task.a = {a.data(), DType::f32, k, 1};
      task.b = {b.data(), DType::f32, n, 1};
      task.c_stride = n;
      task.accumulate = round % 2 == 1;
      std::vector<float> scratch(static_cast<std::size_t>(cpu::gemm_scratch_floats(set, m, n, k)));
      task.c = one.data();
      cpu::gemm_part(set, task, {1, 1}, 0, scratch.data());
      task.c = four.data();
      for (std::int64_t part = 0; part < 6; ++part) cpu::gemm_part(set, task, {2, 3}, part, scratch.data());
      EXPECT_EQ(std::memcmp(one.data(), four.data(), one.size() * 4), 0);
      std::vector<float> packed(static_cast<std::size_t>(cpu::gemm_packed_floats(set, n, k)) + 1), ready(one.size(), 0.5f);
      cpu::gemm_pack(set, task, pool, packed.data());
      task.packed = packed.data();
      task.c = ready.data();
      for (std::int64_t part = 0; part < 6; ++part) cpu::gemm_part(set, task, {2, 3}, part, scratch.data());
      EXPECT_EQ(std::memcmp(one.data(), ready.data(), one.size() * 4), 0) << "B packed before";
      // The same A, column by column.
      std::vector<float> turned(static_cast<std::size_t>(m * std::max<std::int64_t>(k, 1)));
      for (std::int64_t i = 0; i < m * k; ++i) turned[static_cast<std::size_t>(i % k * m + i / k)] = static_cast<float>(number(a, i));
      task.a = {reinterpret_cast<const std::byte*>(turned.data()), DType::f32, 1, m};
      std::fill(ready.begin(), ready.end(), 0.5f);
      cpu::gemm_part(set, task, {1, 1}, 0, scratch.data());
      EXPECT_EQ(std::memcmp(one.data(), ready.data(), one.size() * 4), 0) << "A transposed";
      for (std::int64_t i = 0; i < m * n; i += 7) {
        double want = task.accumulate ? 0.5 : 0;
        for (std::int64_t j = 0; j < k; ++j) want += number(a, i / n * k + j) * number(b, j * n + i % n);
        ASSERT_NEAR(one[static_cast<std::size_t>(i)], want, 1e-4) << cpu::instruction_set_name(set);
      }
    }
  }
}

struct Operands {
  std::int64_t m, n, k;
  HostTensor a, b, c;
};

// Products through the node, whole and in every kind of slab; by output the bits are those of the whole weight.
TEST(KernelsProduct, SlabsGiveTheProduct) {
  std::mt19937_64 random(5);
  ThreadPool two(2), one(1);
  for (int round = 0; round < 60; ++round) {
    const std::int64_t m = round % 3 == 0 ? 1 : 1 + static_cast<std::int64_t>(random() % 20), n = 1 + static_cast<std::int64_t>(random() % 90);
    const std::int64_t k = 1 + static_cast<std::int64_t>(random() % 700);
    const DType dtype = round % 4 == 1 ? DType::f16 : round % 4 == 2 ? DType::bf16 : DType::f32;
    const bool trans = round % 2 == 0;
    const HostTensor a = random_tensor(random, dtype, Shape{m, k}), b = random_tensor(random, dtype, trans ? Shape{n, k} : Shape{k, n});
    const HostTensor c = random_tensor(random, dtype, Shape{n});
    testing::NodeRun run{"", "Gemm", 13, {{"transB", std::int64_t{trans}}, {"alpha", 0.5f}, {"beta", 2.0f}}, {&a, &b, &c}, 1, plan::kNone, {}};
    const auto whole = testing::run_node(run, two);
    ASSERT_TRUE(whole.ok()) << whole.status().to_string();
    const double tolerance = dtype == DType::f32 ? 1e-4 : dtype == DType::f16 ? 2e-2 : 2e-1;
    for (std::int64_t i = 0; i < m * n; ++i) {
      double want = 2 * number(c, i % n);
      for (std::int64_t j = 0; j < k; ++j) want += 0.5 * number(a, i / n * k + j) * number(b, trans ? i % n * k + j : j * n + i % n);
      ASSERT_NEAR(number((*whole)[0], i), want, tolerance) << "round " << round;
    }
    run.sliced = 1;
    run.slab_rows = testing::random_cut(random, trans ? n : k);
    const auto sliced = testing::run_node(run, two), again = testing::run_node(run, one);
    ASSERT_TRUE(sliced.ok() && again.ok());
    const auto repeated = testing::run_node(run, two);
    ASSERT_TRUE(repeated.ok());
    EXPECT_TRUE(testing::same_bytes((*sliced)[0], (*repeated)[0])) << "repeated, round " << round;
    if (!(dtype == DType::bf16 && m > cpu::kGemvRows)) {
      EXPECT_TRUE(testing::same_bytes((*sliced)[0], (*again)[0])) << "threads, round " << round;
    }
    const bool library = dtype == DType::bf16 && m > cpu::kGemvRows;  // other bits when cut otherwise: slabs are fixed in the plan
    if (!library && (trans || m <= cpu::kGemvRows)) {
      EXPECT_TRUE(testing::same_bytes((*sliced)[0], (*whole)[0])) << "round " << round << " slabs " << run.slab_rows.size();
    } else {
      for (std::int64_t i = 0; i < m * n; ++i) ASSERT_NEAR(number((*sliced)[0], i), number((*whole)[0], i), tolerance);
    }
  }
}

TEST(KernelsProduct, ABatchOfRowsHasTheBitsOfSingleRows) {
  std::mt19937_64 random(6);
  ThreadPool pool(2);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const bool trans : {false, true}) {
      const std::int64_t n = 40, k = 333;
      const HostTensor b = random_tensor(random, dtype, trans ? Shape{n, k} : Shape{k, n});
      for (std::int64_t m = 2; m <= 8; ++m) {
        const HostTensor a = random_tensor(random, dtype, Shape{m, k});
        const auto all = testing::run_node({"", "Gemm", 13, {{"transB", std::int64_t{trans}}}, {&a, &b}, 1, plan::kNone, {}}, pool);
        ASSERT_TRUE(all.ok());
        const std::uint64_t in = a.bytes() / static_cast<std::uint64_t>(m), out = (*all)[0].bytes() / static_cast<std::uint64_t>(m);
        for (std::int64_t row = 0; row < m; ++row) {
          HostTensor single(dtype, Shape{1, k});
          std::memcpy(single.data(), a.data() + static_cast<std::uint64_t>(row) * in, in);
          const auto made = testing::run_node({"", "Gemm", 13, {{"transB", std::int64_t{trans}}}, {&single, &b}, 1, plan::kNone, {}}, pool);
          ASSERT_TRUE(made.ok());
          EXPECT_EQ(std::memcmp((*made)[0].data(), (*all)[0].data() + static_cast<std::uint64_t>(row) * out, out), 0) << "m " << m << " row " << row;
        }
      }
    }
  }
}

TEST(KernelsProduct, BatchesBroadcast) {
  std::mt19937_64 random(7);
  ThreadPool pool(2);
  for (const std::int64_t m : {2, 11}) {
    const HostTensor a = random_tensor(random, DType::f32, Shape{3, 1, m, 5}), b = random_tensor(random, DType::f32, Shape{4, 5, 6});
    const auto made = testing::run_node({"", "MatMul", 13, {}, {&a, &b}, 1, plan::kNone, {}}, pool);
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    ASSERT_EQ((*made)[0].shape().to_string(), (Shape{3, 4, m, 6}).to_string());
    for (std::int64_t i = 0; i < 12 * m * 6; ++i) {
      const std::int64_t column = i % 6, row = i / 6 % m, inner = i / (6 * m) % 4, outer = i / (6 * m * 4);
      double want = 0;
      for (std::int64_t j = 0; j < 5; ++j) want += number(a, (outer * m + row) * 5 + j) * number(b, (inner * 5 + j) * 6 + column);
      ASSERT_NEAR(number((*made)[0], i), want, 1e-5);
    }
  }
  const HostTensor vector = random_tensor(random, DType::f32, Shape{5}), matrix = random_tensor(random, DType::f32, Shape{5, 3});
  const auto row = testing::run_node({"", "MatMul", 13, {}, {&vector, &matrix}, 1, plan::kNone, {}}, pool);
  ASSERT_TRUE(row.ok());
  EXPECT_EQ((*row)[0].shape(), Shape{3});
}

TEST(KernelsProduct, SizesThatDoNotMeetAreRefusedNamingBoth) {
  ThreadPool pool(1);
  const HostTensor a(DType::f32, Shape{2, 3}), b(DType::f32, Shape{4, 5});
  const auto made = testing::run_node({"", "MatMul", 13, {}, {&a, &b}, 1, plan::kNone, {}}, pool);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), Code::invalid_model);
  EXPECT_NE(made.status().message().find("[2,3]"), std::string::npos) << made.status().message();
  EXPECT_NE(made.status().message().find("[4,5]"), std::string::npos);
}

TEST(KernelsProduct, OneDnnAgreesWithOurOwn) {
  std::mt19937_64 random(8);
  const std::int64_t m = 33, n = 70, k = 129;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const HostTensor a = random_tensor(random, dtype, Shape{m, k}), b = random_tensor(random, dtype, Shape{k, n});
    const auto product = cpu::DnnlMatmul::create({m, n, k, dtype, k, 1, n, 1, n, true});
    if (product == nullptr) GTEST_SKIP() << "this build or machine has no oneDNN product of " << dtype_name(dtype);
    std::vector<float> c(static_cast<std::size_t>(m * n), 1.0f);
    HostTensor scratch(DType::u8, Shape{static_cast<std::int64_t>(product->scratch_bytes())});
    const Status status = product->run(a.data(), b.data(), c.data(), scratch.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    for (std::int64_t i = 0; i < m * n; ++i) {
      double want = 1;
      for (std::int64_t j = 0; j < k; ++j) want += number(a, i / n * k + j) * number(b, j * n + i % n);
      ASSERT_NEAR(static_cast<double>(c[static_cast<std::size_t>(i)]), want, 1e-3);
    }
  }
}

}  // namespace
}  // namespace forebay
