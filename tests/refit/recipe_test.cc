// Recipes through the chunk maker equal the same operators evaluated directly.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "base/half.h"
#include "refit/refit_fixture.h"
#include "runtime/op.h"

namespace forebay::test {
namespace {

using refit::ChunkMaker;
using refit::Options;

std::vector<std::byte> make_all(const std::shared_ptr<const plan::Plan>& plan, const Tensors& tensors, const Options& options,
                                Status* status) {
  ThreadPool pool(2);
  auto maker = ChunkMaker::create(plan, memory_catalog(tensors), options, pool);
  std::vector<std::byte> all;
  *status = status_of(maker);
  if (!maker.ok()) return all;
  for (plan::ChunkId c = 0; c < plan->chunks.size() && status->ok(); ++c) {
    std::vector<std::byte> raw(plan->chunks[c].raw_bytes);
    *status = (*maker)->make(c, raw);
    all.insert(all.end(), raw.begin(), raw.end());
  }
  if (status->ok()) *status = (*maker)->finish();
  return all;
}

plan::Attribute ints(const char* name, std::vector<std::int64_t> values) { return {name, std::move(values)}; }
plan::Attribute integer(const char* name, std::int64_t value) { return {name, value}; }
constexpr std::int64_t kOnnxF16 = 10, kOnnxBf16 = 16;

void expect_bytes(const std::vector<std::byte>& found, const HostTensor& wanted) {
  ASSERT_EQ(found.size(), wanted.bytes());
  EXPECT_EQ(std::memcmp(found.data(), wanted.data(), found.size()), 0);
}

HostTensor transposed(const HostTensor& tensor) {
  const std::int64_t rows = tensor.shape()[0], columns = tensor.shape()[1];
  HostTensor out(tensor.dtype(), Shape{columns, rows});
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      out.as<float>()[static_cast<std::size_t>(c * rows + r)] = tensor.as<float>()[static_cast<std::size_t>(r * columns + c)];
  return out;
}

TEST(Recipe, TransposeInSlabs) {
  PlanMaker maker;
  maker.source("w", DType::f32, {70, 90});
  maker.weight({.name = "w.T",
                .shape = {90, 70},
                .sources = {"w"},
                .nodes = {recipe_node("Transpose", {0}, {ints("perm", {1, 0})})},
                .slab_rows = 32});
  Tensors tensors;
  tensors["w"] = random_tensor(DType::f32, {70, 90}, 1);
  Status status;
  expect_bytes(make_all(maker.finish(), tensors, {}, &status), transposed(tensors["w"]));
  EXPECT_OK(status);
}

// Above the size up to which a source is transposed whole: strips of the source are read for each slab.
TEST(Recipe, LargeTransposeIsReadInStrips) {
  PlanMaker maker;
  constexpr std::int64_t kRows = 4100, kColumns = 4200;  // 69 MB of f32
  maker.source("w", DType::f32, {kRows, kColumns});
  maker.weight({.name = "w.T", .shape = {kColumns, kRows}, .sources = {"w"}, .nodes = {recipe_node("Transpose", {0})}, .slab_rows = 2000});
  Tensors tensors;
  tensors["w"] = random_tensor(DType::f32, {kRows, kColumns}, 1);
  Status status;
  expect_bytes(make_all(maker.finish(), tensors, {}, &status), transposed(tensors["w"]));
  EXPECT_OK(status);
}

TEST(Recipe, CastInSlabsAfterAReshape) {
  PlanMaker maker;
  maker.source("w", DType::f32, {1000, 3});
  HostTensor shape(DType::i64, Shape{2});
  shape.as<std::int64_t>()[0] = 300;
  shape.as<std::int64_t>()[1] = 10;
  const std::uint32_t target = maker.constant(shape);
  maker.weight({.name = "w.bf16",
                .dtype = DType::bf16,
                .shape = {300, 10},
                .sources = {"w"},
                .nodes = {recipe_node("Reshape", {0, constant_slot(target)}), recipe_node("Cast", {1}, {integer("to", kOnnxBf16)})},
                .slab_rows = 77});
  Tensors tensors;
  tensors["w"] = random_tensor(DType::f32, {1000, 3}, 1);
  HostTensor wanted(DType::bf16, Shape{300, 10});
  for (std::size_t i = 0; i < 3000; ++i) wanted.as<std::uint16_t>()[i] = f32_to_bf16(tensors["w"].as<float>()[i]);
  Status status;
  expect_bytes(make_all(maker.finish(), tensors, {}, &status), wanted);
  EXPECT_OK(status);
}

TEST(Recipe, MapTransposeAndTransposeRecipeCancel) {
  PlanMaker maker;
  maker.source("w", DType::f32, {12, 20});
  maker.weight({.name = "w.T", .shape = {20, 12}, .sources = {"w"}, .nodes = {recipe_node("Transpose", {0})}, .slab_rows = 7});
  Tensors tensors;
  tensors["hf"] = random_tensor(DType::f32, {20, 12}, 1);
  Options options;
  options.map.entries["w"] = {"hf", true};
  Status status;
  expect_bytes(make_all(maker.finish(), tensors, options, &status), tensors["hf"]);
  EXPECT_OK(status);
}

// A batch normalisation folded into a convolution: scale / sqrt(var + eps) times the filter, per output channel.
TEST(Recipe, BatchNormChainEqualsDirectEvaluation) {
  PlanMaker maker;
  maker.source("conv.w", DType::f32, {16, 3, 3, 3});
  maker.source("bn.scale", DType::f32, {16});
  maker.source("bn.var", DType::f32, {16});
  HostTensor epsilon(DType::f32, Shape{});
  epsilon.as<float>()[0] = 1e-5f;
  HostTensor column(DType::i64, Shape{4});
  const std::int64_t dims[] = {16, 1, 1, 1};
  std::copy(std::begin(dims), std::end(dims), column.as<std::int64_t>().begin());
  const std::uint32_t eps = constant_slot(maker.constant(epsilon)), to_column = constant_slot(maker.constant(column));
  const std::vector<plan::RecipeNode> nodes = {recipe_node("Add", {2, eps}), recipe_node("Sqrt", {3}), recipe_node("Div", {1, 4}),
                                               recipe_node("Reshape", {5, to_column}), recipe_node("Mul", {0, 6})};
  maker.weight(
      {.name = "conv.folded", .shape = {16, 3, 3, 3}, .sources = {"conv.w", "bn.scale", "bn.var"}, .nodes = nodes, .slab_rows = 5});
  const auto plan = maker.finish();
  Tensors tensors;
  tensors["conv.w"] = random_tensor(DType::f32, {16, 3, 3, 3}, 1);
  tensors["bn.scale"] = random_tensor(DType::f32, {16}, 2);
  tensors["bn.var"] = random_tensor(DType::f32, {16}, 3);
  for (float& value : tensors["bn.var"].as<float>()) value = std::fabs(value) + 0.1f;
  HostTensor wanted(DType::f32, Shape{16, 3, 3, 3});
  for (std::size_t i = 0; i < 16 * 27; ++i) {
    const float factor = tensors["bn.scale"].as<float>()[i / 27] / std::sqrt(tensors["bn.var"].as<float>()[i / 27] + 1e-5f);
    wanted.as<float>()[i] = tensors["conv.w"].as<float>()[i] * factor;
  }
  Status status;
  expect_bytes(make_all(plan, tensors, {}, &status), wanted);
  EXPECT_OK(status);
}

TEST(Recipe, ManyInterleavedComputedWeightsComeOutRight) {
  PlanMaker maker;
  Tensors tensors, wanted;
  for (int i = 0; i < 20; ++i) {
    const std::string name = "w" + std::to_string(i);
    maker.source(name, DType::f32, {40, 50});
    maker.weight({.name = name + ".T",
                  .shape = {50, 40},
                  .sources = {name},
                  .nodes = {recipe_node("Transpose", {0})},
                  .slab_rows = i % 3 == 0 ? 0u : 20u,
                  .packed = i % 2 == 0});
    tensors[name] = random_tensor(DType::f32, {40, 50}, static_cast<std::uint64_t>(i));
    wanted[name + ".T"] = transposed(tensors[name]);
  }
  const auto plan = maker.finish();
  ThreadPool pool(2);
  auto maker_result = ChunkMaker::create(plan, memory_catalog(tensors), {}, pool);
  ASSERT_OK(maker_result);
  expect_chunks(*plan, **maker_result, wanted);
  for (plan::ChunkId c = static_cast<plan::ChunkId>(plan->chunks.size()); c-- > 0;) {  // and in the worst order
    std::vector<std::byte> raw(plan->chunks[c].raw_bytes);
    ASSERT_OK((*maker_result)->make(c, raw));
    EXPECT_TRUE(raw == wanted_chunk(*plan, c, wanted)) << c;
  }
}

struct CastCase {
  std::shared_ptr<const plan::Plan> plan;
  Tensors tensors;
};
CastCase lossy_cast(std::uint64_t slab_rows, bool through_add) {
  PlanMaker maker;
  maker.source("w", DType::f32, {100, 8});
  std::vector<plan::RecipeNode> nodes;
  if (through_add) {  // no longer a chain that can be cut: computed whole
    HostTensor zero(DType::f32, Shape{});
    nodes.push_back(recipe_node("Add", {0, constant_slot(maker.constant(zero))}));
  }
  nodes.push_back(recipe_node("Cast", {through_add ? 1u : 0u}, {integer("to", kOnnxF16)}));
  maker.weight({.name = "w.f16", .dtype = DType::f16, .shape = {100, 8}, .sources = {"w"}, .nodes = nodes, .slab_rows = slab_rows});
  CastCase made{maker.finish(), {}};
  made.tensors["w"] = random_tensor(DType::f32, {100, 8}, 1);
  made.tensors["w"].as<float>()[333] = 1e6f;
  made.tensors["w"].as<float>()[700] = -1e6f;
  made.tensors["w"].as<float>()[650] = 1e-12f;
  return made;
}

TEST(Recipe, LossyCastsAreRefusedWithCountAndFirstIndex) {
  for (const bool whole : {false, true}) {
    const CastCase made = lossy_cast(30, whole);
    Status status;
    make_all(made.plan, made.tensors, {}, &status);
    EXPECT_CODE(status, Code::weight_mismatch);
    ASSERT_EQ(status.problems().size(), 1u);
    EXPECT_EQ(status.problems()[0].code, "inexact_cast");
    EXPECT_EQ(status.problems()[0].tensor, "w.f16");
    EXPECT_EQ(status.problems()[0].message,
              "the cast to f16 overflows for 2 values, the first at element 333, and makes 1 small values zero, the first at element 650");
    for (const char* name : {"w.f16", "w"}) {
      Options options;
      options.allow_inexact = {name};
      make_all(made.plan, made.tensors, options, &status);
      EXPECT_OK(status);
    }
  }
}

TEST(Recipe, AResultOfAnotherShapeIsAnInvalidPlan) {
  PlanMaker maker;
  maker.source("a", DType::f32, {4});
  maker.source("b", DType::f32, {2, 1});
  maker.weight({.name = "sum", .shape = {4}, .sources = {"a", "b"}, .nodes = {recipe_node("Add", {0, 1})}});
  Tensors tensors;
  tensors["a"] = random_tensor(DType::f32, {4}, 1);
  tensors["b"] = random_tensor(DType::f32, {2, 1}, 2);
  Status status;
  make_all(maker.finish(), tensors, {}, &status);
  EXPECT_CODE(status, Code::invalid_model);
  EXPECT_NE(status.message().find("[2,4]"), std::string::npos) << status.to_string();
}

TEST(Recipe, ScalarsEmptyTensorsAndSubBytes) {
  PlanMaker maker;
  maker.weight({.name = "scalar", .shape = {}, .packed = true});
  maker.weight({.name = "empty", .shape = {0, 5}, .packed = true});
  maker.weight({.name = "four", .dtype = DType::u4, .shape = {3, 5}, .packed = true});
  const auto plan = maker.finish();
  Tensors tensors;
  tensors["scalar"] = random_tensor(DType::f32, {}, 1);
  tensors["empty"] = random_tensor(DType::f32, {0, 5}, 1);
  tensors["four"] = random_tensor(DType::u4, {3, 5}, 1);
  ThreadPool pool(1);
  auto made = ChunkMaker::create(plan, memory_catalog(tensors), {}, pool);
  ASSERT_OK(made);
  expect_chunks(*plan, **made, tensors);
}

}  // namespace
}  // namespace forebay::test
