// Search, sums and indices along axes of any length on the CUDA device, beside the CPU's kernels.
#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

using Attributes = std::vector<plan::Attribute>;

plan::AttributeValue number_of(std::int64_t value) {
  return plan::AttributeValue(value);
}
plan::AttributeValue text(const char* value) {
  return plan::AttributeValue(std::string(value));
}

// Values of few kinds, so that many are equal.
HostTensor coarse(std::mt19937_64& random, DType type, const Shape& shape, std::int64_t kinds) {
  HostTensor t(type, shape);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const auto value = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(kinds)) - kinds / 2;
    const auto at = static_cast<std::size_t>(i);
    if (type == DType::f32) t.as<float>()[at] = static_cast<float>(value) / 4.0f;
    if (type == DType::f16) t.as<std::uint16_t>()[at] = f32_to_f16(static_cast<float>(value) / 4.0f);
    if (type == DType::bf16) t.as<std::uint16_t>()[at] = f32_to_bf16(static_cast<float>(value) / 4.0f);
    if (type == DType::i32) t.as<std::int32_t>()[at] = static_cast<std::int32_t>(value);
    if (type == DType::i64) t.as<std::int64_t>()[at] = value;
  }
  return t;
}

HostTensor random_indices(std::mt19937_64& random, const Shape& shape, std::int64_t dim, DType type = DType::i64) {
  HostTensor t(type, shape);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const auto value = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(2 * dim)) - dim;
    if (type == DType::i64) t.as<std::int64_t>()[static_cast<std::size_t>(i)] = value;
    if (type == DType::i32) t.as<std::int32_t>()[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(value);
  }
  return t;
}

class CudaIndex : public CudaKernels {};

// The first of equals first; NaN above everything, zeros of both signs equal.
TEST_F(CudaIndex, TopKIsExact) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::i32}) {
    for (const Shape& shape : {Shape{3, 7}, Shape{2, 1}, Shape{2, 300, 3}, Shape{5, 2048}, Shape{3, 5000}, Shape{1, 40000}}) {
      const HostTensor x = coarse(random_, type, shape, shape.elements() > 1000 ? 4000 : 20);
      for (const std::int64_t axis : {std::int64_t{-1}, std::int64_t{1}}) {
        const int at = axis < 0 ? shape.rank() - 1 : 1;
        for (const std::int64_t k : {std::int64_t{1}, (shape[at] + 1) / 2, shape[at]}) {
          const HostTensor count = integers({k});
          const std::string what = std::string(dtype_name(type)) + " " + shape.to_string() + " k " + std::to_string(k);
          compare({"", "TopK", 11, {{"axis", number_of(axis)}}, {&x, &count}, 2, plan::kNone, {}}, 0, what);
          compare({"", "TopK", 11, {{"axis", number_of(axis)}, {"largest", number_of(0)}}, {&x, &count}, 2, plan::kNone, {}}, 0,
                  what + " smallest");
        }
      }
    }
  }
  HostTensor odd(DType::f32, Shape{8});
  const float values[] = {1.0f, NAN, -INFINITY, 0.0f, -0.0f, INFINITY, NAN, -1.0f};
  std::copy(std::begin(values), std::end(values), odd.as<float>().begin());
  const HostTensor all = integers({8});
  for (const std::int64_t largest : {0, 1})
    compare({"", "TopK", 11, {{"largest", number_of(largest)}}, {&odd, &all}, 2, plan::kNone, {}}, 0, "odd values");
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.topk"}));
}

TEST_F(CudaIndex, ArgMaxAlongLongAxesIsExact) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::i32}) {
    for (const Shape& shape : {Shape{2, 300}, Shape{1, 33000}, Shape{2, 257, 3}}) {
      const HostTensor x = coarse(random_, type, shape, 50);
      for (const char* op : {"ArgMax", "ArgMin"}) {
        for (const std::int64_t last : {0, 1}) {
          compare({"", op, 13, {{"axis", number_of(1)}, {"select_last_index", number_of(last)}}, {&x}, 1, plan::kNone, {}}, 0,
                  op + shape.to_string());
        }
      }
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.arg_long"}));
}

TEST_F(CudaIndex, CumSumAlongLongAxes) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::i32, DType::i64}) {
    const bool whole = type == DType::i32 || type == DType::i64;
    for (const Shape& shape : {Shape{2, 300}, Shape{1, 5000}, Shape{2, 513, 3}}) {
      const HostTensor x = coarse(random_, type, shape, 9), axis = integers({1});
      for (const std::int64_t exclusive : {0, 1}) {
        for (const std::int64_t reverse : {0, 1}) {
          compare(
              {"", "CumSum", 14, {{"exclusive", number_of(exclusive)}, {"reverse", number_of(reverse)}}, {&x, &axis}, 1, plan::kNone, {}},
              whole ? 0 : 4 * tolerance_of(type), std::string(dtype_name(type)) + shape.to_string());
        }
      }
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.cumsum_long"}));
}

TEST_F(CudaIndex, GathersAreExact) {
  for (const DType type : {DType::f32, DType::f16, DType::i64}) {
    const HostTensor x =
        type == DType::i64 ? coarse(random_, type, Shape{3, 5, 7, 4}, 1000) : random_tensor(random_, type, Shape{3, 5, 7, 4});
    const HostTensor whole = random_indices(random_, Shape{6, 1}, 3), tuples = random_indices(random_, Shape{11, 2}, 3),
                     batched = random_indices(random_, Shape{3, 6, 2}, 5);
    compare({"", "GatherND", 13, {}, {&x, &whole}, 1, plan::kNone, {}}, 0, "slices");
    compare({"", "GatherND", 13, {}, {&x, &tuples}, 1, plan::kNone, {}}, 0, "rows");
    compare({"", "GatherND", 13, {{"batch_dims", number_of(1)}}, {&x, &batched}, 1, plan::kNone, {}}, 0, "batches");
    for (const DType wide : {DType::i32, DType::i64}) {
      const HostTensor elements = random_indices(random_, Shape{2, 5, 9, 3}, 7, wide);
      compare({"", "GatherElements", 13, {{"axis", number_of(2)}}, {&x, &elements}, 1, plan::kNone, {}}, 0, "elements");
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"host.indices+cuda.gather_tuples"}));
}

// Many updates of one place: taken in their order, bit by bit.
TEST_F(CudaIndex, ScattersHaveTheBitsOfTheCpu) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::i32, DType::i64}) {
    const bool whole = type == DType::i32 || type == DType::i64;
    const auto data = [&](const Shape& shape) { return whole ? coarse(random_, type, shape, 40) : random_tensor(random_, type, shape); };
    const HostTensor x = data(Shape{4, 6, 5}), rows = random_indices(random_, Shape{300, 1}, 4), row_updates = data(Shape{300, 6, 5});
    const HostTensor places = random_indices(random_, Shape{40, 70, 3}, 4), place_updates = data(Shape{40, 70});
    const HostTensor elements = random_indices(random_, Shape{4, 50, 5}, 6), element_updates = data(Shape{4, 50, 5});
    for (const char* reduction : {"none", "add", "mul", "min", "max"}) {
      const Attributes attributes = {{"reduction", text(reduction)}};
      const std::string what = std::string(dtype_name(type)) + " " + reduction;
      compare({"", "ScatterND", 18, attributes, {&x, &rows, &row_updates}, 1, plan::kNone, {}}, 0, what + " slices");
      compare({"", "ScatterND", 18, attributes, {&x, &places, &place_updates}, 1, plan::kNone, {}}, 0, what + " elements");
      Attributes along = attributes;
      along.push_back({"axis", number_of(1)});
      compare({"", "ScatterElements", 18, along, {&x, &elements, &element_updates}, 1, plan::kNone, {}}, 0, what + " along an axis");
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"host.indices+cuda.scatter_tuples"}));
}

TEST_F(CudaIndex, AnIndexOutsideIsNamed) {
  const HostTensor x = random_tensor(random_, DType::f32, Shape{4, 6});
  HostTensor indices = random_indices(random_, Shape{500, 2}, 4);
  indices.as<std::int64_t>()[701] = 6;
  const NodeRun run{"", "GatherND", 13, {}, {&x, &indices}, 1, plan::kNone, {}};
  const auto cpu = run_node(run, pool_), cuda = on_device(run);
  ASSERT_FALSE(cpu.ok());
  ASSERT_FALSE(cuda.ok());
  EXPECT_EQ(cuda.status().to_string(), cpu.status().to_string());
}

TEST_F(CudaIndex, ArrangingIsExact) {
  for (const DType type : {DType::f32, DType::f16, DType::i64}) {
    const auto data = [&](const Shape& shape) {
      return type == DType::i64 ? coarse(random_, type, shape, 90) : random_tensor(random_, type, shape);
    };
    const HostTensor image = data(Shape{2, 8, 6, 10}), matrices = data(Shape{3, 5, 7});
    for (const char* mode : {"DCR", "CRD"})
      compare({"", "DepthToSpace", 13, {{"blocksize", number_of(2)}, {"mode", text(mode)}}, {&image}, 1, plan::kNone, {}}, 0, mode);
    compare({"", "SpaceToDepth", 13, {{"blocksize", number_of(2)}}, {&image}, 1, plan::kNone, {}}, 0, "SpaceToDepth");
    for (const std::int64_t upper : {0, 1}) {
      for (const std::int64_t k : {-9, -2, 0, 3, 99}) {
        const HostTensor diagonal = integers({k});
        compare({"", "Trilu", 14, {{"upper", number_of(upper)}}, {&matrices, &diagonal}, 1, plan::kNone, {}}, 0, "Trilu");
      }
    }
    const HostTensor depth = integers({6}), values = data(Shape{2});
    for (const DType wide : {DType::i32, DType::i64}) {
      const HostTensor indices = random_indices(random_, Shape{4, 5}, 8, wide);
      for (const std::int64_t axis : {-1, 0, 1})
        compare({"", "OneHot", 11, {{"axis", number_of(axis)}}, {&indices, &depth, &values}, 1, plan::kNone, {}}, 0, "OneHot");
    }
    const HostTensor cache = data(Shape{3, 2, 9, 4}), rows = data(Shape{3, 2, 4, 4}), linear = integers({0, 5, 2}),
                     ring = integers({8, 0, 6});
    compare({"", "TensorScatter", 24, {}, {&cache, &rows}, 1, plan::kNone, {}}, 0, "rows at the front");
    compare({"", "TensorScatter", 24, {}, {&cache, &rows, &linear}, 1, plan::kNone, {}}, 0, "rows");
    compare({"", "TensorScatter", 24, {{"mode", text("circular")}}, {&cache, &rows, &ring}, 1, plan::kNone, {}}, 0, "rows in a ring");
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.blocks", "cuda.trilu", "cuda.one_hot", "cuda.cache_rows", "host.indices+cuda.cache_rows"}));
  const HostTensor cache = random_tensor(random_, DType::f32, Shape{3, 2, 9, 4}),
                   rows = random_tensor(random_, DType::f32, Shape{3, 2, 4, 4}), beyond = integers({0, 6, 2});
  const NodeRun run{"", "TensorScatter", 24, {}, {&cache, &rows, &beyond}, 1, plan::kNone, {}};
  const auto cpu = run_node(run, pool_), cuda = on_device(run);
  ASSERT_FALSE(cpu.ok() || cuda.ok());
  EXPECT_EQ(cuda.status().to_string(), cpu.status().to_string());
}

TEST_F(CudaIndex, FoldsOfSeveralOperandsAreClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor a = random_tensor(random_, type, Shape{3, 5, 64}), b = random_tensor(random_, type, Shape{5, 1}),
                     c = random_tensor(random_, type, Shape{3, 1, 64});
    for (const char* op : {"Sum", "Mean", "Min", "Max"})
      compare({"", op, 13, {}, {&a, &b, &c}, 1, plan::kNone, {}}, tolerance_of(type), op);
    compare({"", "Sum", 13, {}, {&a, &c}, 1, plan::kNone, {}}, tolerance_of(type), "Sum of two");
    compare({"", "PRelu", 16, {}, {&a, &b}, 1, plan::kNone, {}}, tolerance_of(type), "PRelu");
    const HostTensor image = random_tensor(random_, type, Shape{2, 9, 4, 5});
    for (const std::int64_t window : {1, 4, 5})
      compare({"", "LRN", 13, {{"size", number_of(window)}, {"alpha", plan::AttributeValue(0.7f)}}, {&image}, 1, plan::kNone, {}},
              tolerance_of(type), "LRN");
    for (const std::int64_t p : {1, 2})
      compare({"", "LpNormalization", 1, {{"axis", number_of(1)}, {"p", number_of(p)}}, {&image}, 1, plan::kNone, {}}, tolerance_of(type),
              "LpNormalization");
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.fold", "cuda.response_norm", "cuda.line_norm"}));
}

}  // namespace
}  // namespace forebay::testing
