// Packed weights at every instruction set: the bits of the baseline, which makes the values one by
// one.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "runtime/cpu/quant_rows.h"
#include "support/random.h"
#include "tests/runtime/kernels_harness.h"

namespace forebay::cpu {
namespace {

struct Case {
  DType code, value;
  std::int64_t k, block;  // 0: one scale a row
  bool zero;
};

std::vector<InstructionSet> sets_here() {
  std::vector<InstructionSet> sets;
  for (const InstructionSet set : {InstructionSet::avx2, InstructionSet::avx512})
    if (set <= cpu_instruction_set()) sets.push_back(set);
  return sets;
}

class Packed {
 public:
  Packed(const Case& c, std::int64_t rows)
      : codes_(test::random_tensor(c.code, Shape{rows, c.k}, 1)),
        per_row_(c.block == 0 ? 1 : (c.k + c.block - 1) / c.block) {
    test::Random random(2);
    for (std::int64_t i = 0; i < rows * per_row_; ++i)
      scales_.push_back(random.uniform(0.001f, 0.1f));
    zeros_.resize(static_cast<std::size_t>(rows * per_row_));
    random.fill(zeros_);
    view_.data = codes_.data();
    view_.dtype = c.code;
    view_.value = c.value;
    view_.stride = c.k;
    view_.col_block = c.block == 0 ? c.k : c.block;
    view_.scale = {reinterpret_cast<const std::byte*>(scales_.data()), DType::f32, per_row_,
                   c.block == 0 ? 0 : 1, 0};
    if (c.zero) view_.zero = {zeros_.data(), c.code, per_row_, c.block == 0 ? 0 : 1, 0};
  }
  const QuantView& view() const { return view_; }

 private:
  HostTensor codes_;
  std::int64_t per_row_;
  std::vector<float> scales_;
  std::vector<std::byte> zeros_;
  QuantView view_;
};

// NaN codes (of 8-bit floats) make sums whose payload is nobody's promise.
void expect_same(const std::vector<float>& got, const std::vector<float>& want,
                 const std::string& what) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (want[i] != want[i]) {
      EXPECT_TRUE(got[i] != got[i]) << what << " element " << i;
    } else {
      EXPECT_EQ(std::memcmp(&got[i], &want[i], sizeof(float)), 0)
          << what << " element " << i << ": " << got[i] << " for " << want[i];
    }
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const DType code : {DType::i8, DType::u8, DType::i4, DType::u4, DType::i2, DType::u2,
                           DType::f4e2m1, DType::f8e4m3fn, DType::f8e5m2, DType::f8e4m3fnuz})
    for (const DType value : {DType::f32, DType::f16, DType::bf16})
      for (const std::int64_t block : {0, 16, 32, 96, 512})
        for (const std::int64_t k : {608, 256, 40})
          all.push_back({code, value, k, block, dtype_bits(code) != 2 && block % 64 != 0});
  return all;
}

std::string name_of(const Case& c, InstructionSet set) {
  return std::string(dtype_name(c.code)) + " " + std::string(dtype_name(c.value)) + " k " +
         std::to_string(c.k) + " block " + std::to_string(c.block) + " " +
         std::string(instruction_set_name(set));
}

// A block so large that its bytes wrap round to none must not make an empty weight fit.
TEST(PackedKernels, HugeAttributesAreRefused) {
  ThreadPool pool(1);
  const HostTensor a(DType::f32, Shape{1, 16}), b(DType::u8, Shape{1, 1, 0}), scale(DType::f32, Shape{1});
  for (const std::int64_t block : {std::int64_t{1} << 62, std::int64_t{1} << 61, std::int64_t{1} << 31}) {
    for (const std::int64_t k : {std::int64_t{16}, INT64_MAX}) {
      forebay::testing::NodeRun run;
      run.domain = "com.microsoft";
      run.op = "MatMulNBits";
      run.version = 1;
      run.attributes = {{"K", k}, {"N", std::int64_t{1}}, {"bits", std::int64_t{8}}, {"block_size", block}};
      run.inputs = {&a, &b, &scale};
      EXPECT_FALSE(forebay::testing::run_node(run, pool).ok()) << "K " << k << " block_size " << block;
    }
  }
}

TEST(PackedKernels, HugeBlocksOfScalesAreRefused) {
  ThreadPool pool(1);
  const HostTensor x(DType::i8, Shape{1, 16}), scale(DType::f32, Shape{1, 0});
  forebay::testing::NodeRun run;
  run.op = "DequantizeLinear";
  run.version = 21;
  run.attributes = {{"axis", std::int64_t{1}}, {"block_size", std::int64_t{INT64_MAX}}};
  run.inputs = {&x, &scale};
  EXPECT_FALSE(forebay::testing::run_node(run, pool).ok());
}

TEST(PackedKernels, RowsOfEverySet) {
  for (const Case& c : cases()) {
    const Packed packed(c, 3);
    for (const InstructionSet set : sets_here()) {
      std::vector<float> want(static_cast<std::size_t>(c.k - 5)), got(want.size());
      dequant_row(InstructionSet::baseline, packed.view(), 1, 5, c.k - 5, want.data());
      dequant_row(set, packed.view(), 1, 5, c.k - 5, got.data());
      expect_same(got, want, name_of(c, set));
    }
  }
}

TEST(PackedKernels, ProductsOfEverySet) {
  constexpr std::int64_t kOutputs = 20;
  for (const Case& c : cases()) {
    if (c.k == 40 && dtype_bits(c.code) == 2) continue;
    const Packed packed(c, kOutputs);
    for (const std::int64_t m : {1, 3}) {
      const HostTensor x = test::random_tensor(DType::f32, Shape{m, c.k}, 4);
      std::vector<float> scratch(static_cast<std::size_t>(quant_row_dot_scratch(m, c.k))),
          want(static_cast<std::size_t>(m * kOutputs));
      GemvTask task;
      task.n = kOutputs;
      task.k = c.k;
      task.m = m;
      task.x = x.as<float>().data();
      task.x_stride = c.k;
      task.y = want.data();
      task.y_stride = kOutputs;
      quant_row_dot(InstructionSet::baseline, packed.view(), task, 0, kOutputs, scratch.data());
      for (const InstructionSet set : sets_here()) {
        std::vector<float> got(want.size());
        task.y = got.data();
        quant_row_dot(set, packed.view(), task, 0, 7, scratch.data());
        quant_row_dot(set, packed.view(), task, 7, kOutputs, scratch.data());
        expect_same(got, want, name_of(c, set) + " rows " + std::to_string(m));
      }
      task.y = want.data();
    }
  }
}

}  // namespace
}  // namespace forebay::cpu
