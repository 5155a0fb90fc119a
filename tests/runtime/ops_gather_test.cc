#include <gtest/gtest.h>

#include <numeric>

#include "op_runner.h"

namespace forebay {
namespace {

using Dims = std::vector<std::int64_t>;
using Floats = std::vector<float>;

HostTensor counting(std::initializer_list<std::int64_t> dims) {
  HostTensor tensor(DType::f32, Shape(dims));
  std::iota(tensor.as<float>().begin(), tensor.as<float>().end(), 0.0f);
  return tensor;
}

TEST(Gather, AxesAndNegativeIndices) {
  OpRunner columns("Gather");
  EXPECT_EQ(values_of<float>(columns.attr("axis", 1).in(counting({2, 3})).in(ints({-1, 0})).run()), (Floats{2, 0, 5, 3}));
  EXPECT_EQ(values_of<float>(OpRunner("Gather").in(counting({2, 3})).in(tensor<std::int32_t>({}, {1})).run()), (Floats{3, 4, 5}));
  EXPECT_EQ(dims_of(OpRunner("Gather").in(counting({2, 3})).in(ints({})).run()), (Dims{0, 3}));
  const Status status = OpRunner("Gather").in(counting({2, 3})).in(ints({0, 2})).try_run().status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("Gather 'node': index 2 at position 1"), std::string::npos);
  EXPECT_EQ(OpRunner("Gather").in(counting({0, 3})).in(ints({0})).code(), Code::invalid_argument);
}

TEST(Gather, SlabsCoverEveryRowOnce) {
  const plan::Plan plan;
  const OpSpec* spec = OpRegistry::builtin().find("", "Gather", 13);
  const std::vector<TypeShape> types = {{DType::f32, true, {5, 2}}, {DType::i64, true, {4}}};
  const std::vector<TypeShape> out_types = {{DType::f32, true, {4, 2}}};
  const NodeView node("n", "", "Gather", 13, {}, plan, 2, 1);
  EXPECT_EQ(spec->consume(node, 0, types), plan::Consumption::row_gather);
  EXPECT_EQ(spec->consume(node, 1, types), plan::Consumption::whole);
  auto kernel = spec->create(node, types, out_types);
  ASSERT_TRUE(kernel.ok());
  ThreadPool pool(1);
  const HostTensor* values[] = {nullptr, nullptr};
  const std::int64_t slab_rows[] = {2, 2, 1};
  ASSERT_TRUE((*kernel)->prepare({node, types, values, out_types, &pool, 0, plan::Consumption::row_gather, slab_rows}).ok());
  const HostTensor weight = counting({5, 2}), indices = ints({4, 0, -2, 1});
  HostTensor out(DType::f32, Shape{4, 2});
  std::int64_t row = 0;
  for (std::uint32_t slab = 0; slab < 3; ++slab) {
    const ConstTensorView inputs[] = {{weight.data() + row * 8, DType::f32, Shape{slab_rows[slab], 2}}, indices};
    const TensorView outputs[] = {{out.data(), DType::f32, out.shape()}};
    ASSERT_TRUE((*kernel)->run({inputs, outputs, nullptr, 0, &pool, slab, 3, row}).ok());
    row += slab_rows[slab];
  }
  EXPECT_EQ(values_of<float>(out), (Floats{8, 9, 0, 1, 6, 7, 2, 3}));
}

TEST(Gather, ElementsAndTuples) {
  OpRunner elements("GatherElements");
  EXPECT_EQ(values_of<float>(elements.attr("axis", 1).in(counting({2, 2})).in(tensor<std::int64_t>({2, 2}, {0, 0, -1, 0})).run()),
            (Floats{0, 0, 3, 2}));
  EXPECT_EQ(values_of<float>(OpRunner("GatherND").in(counting({2, 2, 2})).in(tensor<std::int64_t>({2, 2}, {0, 1, 1, -2})).run()),
            (Floats{2, 3, 4, 5}));
  OpRunner batched("GatherND");
  EXPECT_EQ(values_of<float>(batched.attr("batch_dims", 1).in(counting({2, 2, 2})).in(tensor<std::int64_t>({2, 1}, {1, 0})).run()),
            (Floats{2, 3, 4, 5}));
  EXPECT_EQ(OpRunner("GatherND").in(counting({2, 2})).in(tensor<std::int64_t>({1, 2}, {0, 2})).code(), Code::invalid_argument);
  EXPECT_EQ(OpRunner("GatherND").in(counting({2})).in(tensor<std::int64_t>({1, 2}, {0, 0})).code(), Code::invalid_model);
}

TEST(Scatter, ElementsWithReductions) {
  struct Case {
    const char* reduction;
    Floats out;
  };
  const Case cases[] = {{"none", {1, 30, 3}}, {"add", {1, 52, 3}}, {"mul", {1, 1200, 3}}, {"max", {1, 30, 3}}, {"min", {1, 2, 3}}};
  for (const Case& c : cases) {
    OpRunner op("ScatterElements", 18);
    op.attr("reduction", c.reduction).in(tensor<float>({3}, {1, 2, 3})).in(ints({1, -2})).in(tensor<float>({2}, {20, 30}));
    EXPECT_EQ(values_of<float>(op.run()), c.out) << c.reduction;
  }
  EXPECT_EQ(OpRunner("ScatterElements").in(counting({3})).in(ints({3})).in(tensor<float>({1}, {0})).code(), Code::invalid_argument);
  EXPECT_EQ(OpRunner("ScatterElements").in(counting({3})).in(ints({0, 1})).in(tensor<float>({1}, {0})).code(), Code::invalid_model);
}

TEST(Scatter, TuplesAndHalves) {
  EXPECT_EQ(values_of<float>(
                OpRunner("ScatterND").in(counting({2, 2})).in(tensor<std::int64_t>({1, 1}, {-1})).in(tensor<float>({1, 2}, {8, 9})).run()),
            (Floats{0, 1, 8, 9}));
  OpRunner half("ScatterND", 18);
  half.attr("reduction", "add").in(halves(DType::bf16, {2}, {1, 2})).in(tensor<std::int64_t>({2, 1}, {0, 0}));
  half.in(halves(DType::bf16, {2}, {1, 1}));
  EXPECT_EQ(half_values(half.run()), (Floats{3, 2}));
}

TEST(Scatter, CacheWritesWrapWhenCircular) {
  OpRunner linear("TensorScatter", 24), circular("TensorScatter", 24), beyond("TensorScatter", 24);
  const HostTensor cache = counting({1, 3, 1});
  const HostTensor update = tensor<float>({1, 2, 1}, {8, 9});
  EXPECT_EQ(values_of<float>(linear.in(cache.clone()).in(update.clone()).in(ints({1})).run()), (Floats{0, 8, 9}));
  EXPECT_EQ(values_of<float>(circular.attr("mode", "circular").in(cache.clone()).in(update.clone()).in(ints({2})).run()),
            (Floats{9, 1, 8}));
  EXPECT_EQ(beyond.in(cache.clone()).in(update.clone()).in(ints({2})).code(), Code::invalid_argument);
}

}  // namespace
}  // namespace forebay
