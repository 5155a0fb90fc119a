// The CUDA device's kernels beside the CPU's: the same bits where both promise them (copies,
// matrix-vector products), close elsewhere; and the same bits from themselves however a weight is
// cut. Skips where there is no GPU, and says so.
#include <thread>

#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

// Up to 8 rows in [N,K] form and in [K,N] form: the CPU's bits, whole and cut into slabs.
TEST_F(CudaKernels, MatrixVectorProductsHaveTheBitsOfTheCpu) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const bool turned : {true, false}) {
      for (int round = 0; round < 24; ++round) {
        const std::int64_t m = 1 + round % 8, n = 1 + static_cast<std::int64_t>(random_() % 300);
        const std::int64_t k = round % 3 == 0
                                   ? 1 + static_cast<std::int64_t>(random_() % 3000)
                                   : 8 * (1 + static_cast<std::int64_t>(random_() % 400));
        const HostTensor a = random_tensor(random_, type, Shape{m, k}),
                         b = random_tensor(random_, type, turned ? Shape{n, k} : Shape{k, n});
        const HostTensor c = random_tensor(random_, type, Shape{n});
        NodeRun run{
            "",       "Gemm", 13,          {{"transB", plan::AttributeValue(std::int64_t{turned})}},
            {&a, &b}, 1,      plan::kNone, {}};
        if (round % 2 == 1) {
          run.inputs.push_back(&c);
          run.attributes.push_back({"alpha", plan::AttributeValue(0.75f)});
          run.attributes.push_back({"beta", plan::AttributeValue(1.5f)});
        }
        const std::string what = std::string(dtype_name(type)) + (turned ? " [N,K] " : " [K,N] ") +
                                 std::to_string(m) + "x" + std::to_string(n) + "x" +
                                 std::to_string(k);
        compare(run, 0, what);
        run.sliced = 1;
        run.slab_rows = random_cut(random_, turned ? n : k);
        compare(run, 0, what + " in " + std::to_string(run.slab_rows.size()) + " slabs");
        merge_ = true;
        compare(run, 0, what + " in " + std::to_string(run.slab_rows.size()) + " slabs of one launch");
        merge_ = false;
      }
    }
  }
  EXPECT_EQ(merged_, 2 * 3 * 24);  // all
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.gemv256", "cuda.gemv_axpy"}));
}

TEST_F(CudaKernels, LargeProductsAreCloseAndTheSameForEachCall) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const bool turned : {true, false}) {
      const std::int64_t m = 77, n = 320, k = 512;
      const HostTensor a = random_tensor(random_, type, Shape{m, k}),
                       b = random_tensor(random_, type, turned ? Shape{n, k} : Shape{k, n});
      NodeRun run{
          "",       "Gemm", 13,          {{"transB", plan::AttributeValue(std::int64_t{turned})}},
          {&a, &b}, 1,      plan::kNone, {}};
      const std::string what = std::string(dtype_name(type)) + (turned ? " [N,K]" : " [K,N]");
      compare(run, 10 * tolerance_of(type), what);
      run.sliced = 1;
      run.slab_rows =
          turned ? std::vector<std::int64_t>{128, 128, 64} : std::vector<std::int64_t>{256, 256};
      compare(run, 10 * tolerance_of(type), what + " in slabs");
      auto once = on_device(run), again = on_device(run);
      ASSERT_TRUE(once.ok() && again.ok());
      EXPECT_TRUE(same_bytes((*once)[0], (*again)[0])) << what;
    }
  }
  // Batches with broadcasting, odd sizes.
  const HostTensor a = random_tensor(random_, DType::bf16, Shape{2, 3, 45, 37}),
                   b = random_tensor(random_, DType::bf16, Shape{2, 3, 37, 51});
  compare({"", "MatMul", 13, {}, {&a, &b}, 1, plan::kNone, {}}, 0.05, "batches");
}

TEST_F(CudaKernels, ElementwiseIsClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor a = random_tensor(random_, type, Shape{3, 5, 64}),
                     b = random_tensor(random_, type, Shape{5, 1}),
                     whole = random_tensor(random_, type, Shape{3, 5, 64});
    const std::string name(dtype_name(type));
    for (const char* op : {"Add", "Sub", "Mul", "Div", "Min", "Max"}) {
      // A quotient by nearly nothing is as large: compared relative to itself.
      compare({"", op, 14, {}, {&a, &b}, 1, plan::kNone, {}}, tolerance_of(type), op + name);
      compare({"", op, 14, {}, {&a, &whole}, 1, plan::kNone, {}}, tolerance_of(type), op + name);
    }
    const HostTensor rows = random_tensor(random_, type, Shape{24, 16, 768}), one = random_tensor(random_, type, Shape{1, 16, 768});
    compare({"", "Add", 14, {}, {&rows, &one}, 1, plan::kNone, {}}, 2 * tolerance_of(type), "rows that repeat " + name);
    compare({"", "Sub", 14, {}, {&one, &rows}, 1, plan::kNone, {}}, 2 * tolerance_of(type), "rows that repeat " + name);
    for (const char* op : {"Sigmoid", "Cos", "Sin", "Exp", "Tanh", "Neg", "Abs", "Relu", "Erf",
                           "Floor", "Ceil", "Reciprocal"}) {
      compare({"", op, 13, {}, {&a}, 1, plan::kNone, {}}, tolerance_of(type), op + name);
    }
    HostTensor two(type, Shape{});
    if (type == DType::f32)
      two.as<float>()[0] = 2.0f;
    else
      two.as<std::uint16_t>()[0] = type == DType::f16 ? f32_to_f16(2.0f) : f32_to_bf16(2.0f);
    compare({"", "Pow", 15, {}, {&a, &two}, 1, plan::kNone, {}}, tolerance_of(type), "Pow" + name);
    for (const std::int64_t to : {1, 10, 16}) {
      compare({"", "Cast", 13, {{"to", plan::AttributeValue(to)}}, {&a}, 1, plan::kNone, {}}, 0,
              "Cast" + name + std::to_string(to));
    }
  }
  const HostTensor p = integers({3, 1, 4, 1, 5, 9, 2, 6}), q = integers({2, 7, 1, 8, 2, 8, 1, 8});
  for (const char* op :
       {"Add", "Sub", "Mul", "LessOrEqual", "Less", "Greater", "GreaterOrEqual", "Equal"}) {
    compare({"", op, 16, {}, {&p, &q}, 1, plan::kNone, {}}, 0, op);
  }
}

TEST_F(CudaKernels, MovementIsExact) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const HostTensor a = random_tensor(random_, type, Shape{2, 6, 5, 16}),
                     b = random_tensor(random_, type, Shape{2, 6, 3, 16});
    const auto ints = [](std::vector<std::int64_t> v) {
      return plan::AttributeValue(std::move(v));
    };
    compare({"", "Transpose", 13, {{"perm", ints({0, 2, 1, 3})}}, {&a}, 1, plan::kNone, {}}, 0,
            "Transpose");
    compare({"", "Transpose", 13, {{"perm", ints({3, 0, 2, 1})}}, {&a}, 1, plan::kNone, {}}, 0,
            "Transpose");
    compare({"", "Transpose", 13, {}, {&a}, 1, plan::kNone, {}}, 0, "Transpose");
    compare({"",
             "Concat",
             13,
             {{"axis", plan::AttributeValue(std::int64_t{2})}},
             {&a, &b},
             1,
             plan::kNone,
             {}},
            0, "Concat");
    const HostTensor sizes = integers({2, 4}), starts = integers({-1, 1}),
                     ends = integers({-100, 9}), axes = integers({2, 3}), steps = integers({-2, 3});
    compare({"",
             "Split",
             13,
             {{"axis", plan::AttributeValue(std::int64_t{1})}},
             {&a, &sizes},
             2,
             plan::kNone,
             {}},
            0, "Split");
    compare({"", "Slice", 13, {}, {&a, &starts, &ends, &axes, &steps}, 1, plan::kNone, {}}, 0,
            "Slice");
    const HostTensor target = integers({4, 2, 6, 3, 16}), index = integers({-1, 0, 4, 4});
    compare({"", "Expand", 13, {}, {&b, &target}, 1, plan::kNone, {}}, 0, "Expand");
    compare({"",
             "Gather",
             13,
             {{"axis", plan::AttributeValue(std::int64_t{2})}},
             {&a, &index},
             1,
             plan::kNone,
             {}},
            0, "Gather");
    HostTensor condition(DType::boolean, Shape{6, 1, 16});
    for (std::int64_t i = 0; i < condition.shape().elements(); ++i)
      condition.as<std::uint8_t>()[static_cast<std::size_t>(i)] = random_() % 2;
    const HostTensor other = random_tensor(random_, type, Shape{1});
    compare({"", "Where", 16, {}, {&condition, &a, &other}, 1, plan::kNone, {}}, 0, "Where");
  }
}

TEST_F(CudaKernels, ReductionsAreClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor a = random_tensor(random_, type, Shape{3, 7, 1000});
    const auto last = plan::AttributeValue(std::vector<std::int64_t>{-1});
    for (const char* op : {"ReduceMean", "ReduceMax", "ReduceMin"}) {
      compare({"", op, 13, {{"axes", last}}, {&a}, 1, plan::kNone, {}}, tolerance_of(type), op);
    }
    compare({"", "Softmax", 13, {}, {&a}, 1, plan::kNone, {}}, tolerance_of(type), "Softmax");
    const HostTensor scale = random_tensor(random_, type, Shape{1000}), shift = random_tensor(random_, type, Shape{1000});
    compare({"", "LayerNormalization", 17, {}, {&a, &scale, &shift}, 1, plan::kNone, {}}, 4 * tolerance_of(type), "LayerNormalization");
    compare({"", "RMSNormalization", 23, {}, {&a, &scale}, 1, plan::kNone, {}}, 4 * tolerance_of(type), "RMSNormalization");
    for (const char* op : {"Swish", "Gelu", "HardSwish", "Mish", "LeakyRelu", "HardSigmoid"}) {
      compare({"", op, 24, {}, {&a}, 1, plan::kNone, {}}, 2 * tolerance_of(type), op);
    }
  }
}

// Many rows go to warps, few to blocks: each row has the same bits.
TEST_F(CudaKernels, ARowsNormIsTheSameHoweverManyThereAre) {
  unwanted_ = {1, 2};
  for (const DType type : {DType::f16, DType::bf16}) {
    for (const std::int64_t length : {8, 264, 768, 1024}) {
      constexpr std::int64_t kMany = 301, kFew = 7;
      const HostTensor x = random_tensor(random_, type, Shape{kMany, length}), skip = random_tensor(random_, type, Shape{kMany, length}),
                       scale = random_tensor(random_, type, Shape{length}), shift = random_tensor(random_, type, Shape{length});
      const std::size_t bytes = static_cast<std::size_t>(kFew * length) * 2;
      HostTensor x_few(type, Shape{kFew, length}), skip_few(type, Shape{kFew, length});
      std::memcpy(x_few.data(), x.data(), bytes);
      std::memcpy(skip_few.data(), skip.data(), bytes);
      for (const char* op : {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}) {
        const std::string what = op + std::string(dtype_name(type)) + std::to_string(length);
        NodeRun run{"com.microsoft", op, 1, {}, {&x, &skip, &scale, &shift}, 4, plan::kNone, {}};
        compare(run, 6 * tolerance_of(type), what);
        const auto many = on_device(run);
        run.inputs = {&x_few, &skip_few, &scale, &shift};
        const auto few = on_device(run);
        ASSERT_TRUE(many.ok() && few.ok()) << what;
        for (const std::size_t o : {std::size_t{0}, std::size_t{3}})
          EXPECT_EQ(std::memcmp((*many)[o].data(), (*few)[o].data(), bytes), 0) << what;
      }
    }
  }
}

struct AttentionCase {
  std::int64_t batch, q_heads, kv_heads, queries, keys, past, head, value_head;
  bool packed = false, causal = false;
  DType mask = DType::none;
  float softcap = 0;
  bool lengths = false;
};

struct AttentionInputs {
  HostTensor q, k, v, mask, past_key, past_value, lengths;
  NodeRun run;
};

// Masks hide a third of the keys, and now and then a whole row.
HostTensor random_mask(std::mt19937_64& random, DType type, Shape shape, bool whole_rows) {
  HostTensor mask(type, shape);
  const std::int64_t length = shape[shape.rank() - 1];
  bool hidden = false;
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    if (i % length == 0) hidden = whole_rows && random() % 5 == 0;
    const bool hides = hidden || random() % 3 == 0;
    const float added = hides ? -INFINITY : static_cast<float>(random() % 1000) / 500.0f - 1.0f;
    const auto at = static_cast<std::size_t>(i);
    if (type == DType::boolean) mask.as<std::uint8_t>()[at] = hides ? 0 : 1;
    if (type == DType::f32) mask.as<float>()[at] = added;
    if (type == DType::f16) mask.as<std::uint16_t>()[at] = f32_to_f16(added);
    if (type == DType::bf16) mask.as<std::uint16_t>()[at] = f32_to_bf16(added);
  }
  return mask;
}

void make_attention(AttentionInputs& in, const AttentionCase& c, DType type, std::mt19937_64& random, const std::string& domain) {
  in.q =
      random_tensor(random, type, c.packed ? Shape{c.batch, c.queries, c.q_heads * c.head} : Shape{c.batch, c.q_heads, c.queries, c.head});
  in.k = random_tensor(random, type, c.packed ? Shape{c.batch, c.keys, c.kv_heads * c.head} : Shape{c.batch, c.kv_heads, c.keys, c.head});
  in.v = random_tensor(random, type,
                       c.packed ? Shape{c.batch, c.keys, c.kv_heads * c.value_head} : Shape{c.batch, c.kv_heads, c.keys, c.value_head});
  NodeRun& run = in.run;
  run.domain = domain;
  run.op = "Attention";
  run.version = domain.empty() ? 23 : 1;
  run.inputs = {&in.q, &in.k, &in.v, nullptr, nullptr, nullptr, nullptr};
  if (c.packed) run.attributes = {{"q_num_heads", plan::AttributeValue(c.q_heads)}, {"kv_num_heads", plan::AttributeValue(c.kv_heads)}};
  if (c.causal) run.attributes.push_back({"is_causal", plan::AttributeValue(std::int64_t{1})});
  if (c.softcap != 0) run.attributes.push_back({"softcap", plan::AttributeValue(c.softcap)});
  if (c.mask != DType::none) {
    in.mask = random_mask(random, c.mask, c.batch > 1 ? Shape{c.batch, 1, c.queries, c.past + c.keys} : Shape{c.queries, c.past + c.keys},
                          c.queries > 1);
    run.inputs[3] = &in.mask;
  }
  if (c.past > 0) {
    in.past_key = random_tensor(random, type, Shape{c.batch, c.kv_heads, c.past, c.head});
    in.past_value = random_tensor(random, type, Shape{c.batch, c.kv_heads, c.past, c.value_head});
    run.inputs[4] = &in.past_key;
    run.inputs[5] = &in.past_value;
    run.outputs = 3;
  }
  if (c.lengths) {
    in.lengths = HostTensor(DType::i64, Shape{c.batch});
    for (std::int64_t b = 0; b < c.batch; ++b) in.lengths.as<std::int64_t>()[static_cast<std::size_t>(b)] = c.keys * b / c.batch;
    run.inputs[6] = &in.lengths;
  }
}

// Decoding with long caches (split among blocks), prompts, grouped heads, odd and large sizes, masks of every type, rows that see nothing.
TEST_F(CudaKernels, AttentionIsCloseToTheCpu) {
  const AttentionCase cases[] = {{1, 8, 2, 1, 1, 3000, 128, 128},
                                 {2, 4, 4, 1, 1, 500, 64, 64, false, false, DType::f32},
                                 {1, 2, 1, 1, 5000, 0, 80, 80, false, false, DType::boolean},
                                 {1, 3, 1, 2, 2, 900, 64, 64, false, true},
                                 {1, 8, 2, 77, 77, 0, 128, 128, false, true},
                                 {2, 6, 2, 33, 200, 20, 40, 24, true, false, DType::boolean},
                                 {2, 4, 2, 65, 65, 0, 37, 19, true, true, DType::f32},
                                 {1, 4, 2, 9, 300, 0, 64, 300, false, false, DType::f16, 30.0f},
                                 {2, 2, 2, 5, 640, 0, 32, 32, false, false, DType::bf16, 5.0f},
                                 {3, 4, 4, 6, 70, 0, 64, 64, false, false, DType::none, 0, true},
                                 {1, 1, 1, 3, 200, 0, 2500, 8},
                                 {1, 1, 1, 2, 150, 0, 1, 1}};
  for (const std::string domain : {"", "forebay"}) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const AttentionCase& c : cases) {
        AttentionInputs in;
        make_attention(in, c, type, random_, domain);
        const std::string what = domain + " " + std::string(dtype_name(type)) + ", case " + std::to_string(&c - cases);
        compare(in.run, 4 * tolerance_of(type), what);
        if (c.mask != DType::boolean || domain.empty()) continue;
        in.run.attributes.push_back({"nan_rows", plan::AttributeValue(std::int64_t{1})});
        compare(in.run, 4 * tolerance_of(type), what + ", empty rows are zero");
        in.run.attributes.back() = {"mask_fill", plan::AttributeValue(-20.0f)};
        compare(in.run, 4 * tolerance_of(type), what + ", masked scores have a value");
      }
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.attention"}));
}

// What a row may not see changes no bit, and neither does another run.
TEST_F(CudaKernels, HiddenKeysChangeNoBitOfAttention) {
  const AttentionCase c{2, 4, 2, 1, 700, 0, 64, 64, false, false, DType::none, 0, true};
  AttentionInputs in;
  make_attention(in, c, DType::bf16, random_, "");
  const auto want = on_device(in.run);
  ASSERT_TRUE(want.ok()) << want.status().to_string();
  for (HostTensor* t : {&in.k, &in.v}) {
    for (std::int64_t row = 0; row < 2 * 2 * 700; ++row) {
      if (row % 700 < in.lengths.as<std::int64_t>()[static_cast<std::size_t>(row / 1400)]) continue;
      for (std::int64_t e = 0; e < 64; ++e) t->as<std::uint16_t>()[static_cast<std::size_t>(row * 64 + e)] = 0x7fc0;
    }
  }
  const auto got = on_device(in.run);
  ASSERT_TRUE(got.ok()) << got.status().to_string();
  EXPECT_TRUE(same_bytes((*got)[0], (*want)[0]));
}

// Few rows have the bits of the product alone and are close after an activation; many rows are close. Whole, in slabs, in one launch.
TEST_F(CudaKernels, LinearWithBiasAndActivation) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const bool turned : {true, false}) {
      for (const std::int64_t rows : {1, 7, 50}) {
        for (const char* activation :
             {"", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu", "GeluTanh"}) {
          const HostTensor x = random_tensor(random_, type, Shape{rows, 256}),
                           w = random_tensor(random_, type, turned ? Shape{192, 256} : Shape{256, 192});
          const HostTensor bias = random_tensor(random_, type, Shape{192});
          NodeRun run{"forebay",       "Linear", 1,           {{"transB", plan::AttributeValue(std::int64_t{turned})}},
                      {&x, &w, &bias}, 1,        plan::kNone, {}};
          if (*activation != 0) {
            run.attributes.push_back({"activation", plan::AttributeValue(std::string(activation))});
            const bool clip = std::string_view(activation) == "Clip";
            run.attributes.push_back({"activation_alpha", plan::AttributeValue(clip ? -0.5f : 0.25f)});
            run.attributes.push_back({"activation_beta", plan::AttributeValue(clip ? 0.5f : 0.0f)});
          }
          const std::string what =
              std::string(activation) + " " + std::string(dtype_name(type)) + (turned ? " [N,K] " : " [K,N] ") + std::to_string(rows);
          const double tolerance = *activation == 0 && rows <= 8 ? 0 : 10 * tolerance_of(type);
          compare(run, tolerance, what);
          run.sliced = 1;
          run.slab_rows = turned ? std::vector<std::int64_t>{64, 64, 64} : std::vector<std::int64_t>{128, 128};
          compare(run, tolerance, what + " in slabs");
          merge_ = true;
          compare(run, tolerance, what + " in slabs of one launch");
          merge_ = false;
        }
      }
    }
  }
  EXPECT_GT(merged_, 0);
}

// More slabs than streams, and what follows on the queue's own stream reads all of them.
TEST_F(CudaKernels, ManyRowsTimesSlabsBesideEachOther) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor a = random_tensor(random_, type, Shape{300, 512}), b = random_tensor(random_, type, Shape{1000, 512});
    NodeRun run{"", "Gemm", 13, {{"transB", plan::AttributeValue(std::int64_t{1})}}, {&a, &b}, 1, 1, {}};
    for (std::int64_t at = 0; at < 1000; at += 56) run.slab_rows.push_back(std::min<std::int64_t>(56, 1000 - at));
    const auto apart = on_device(run);
    ASSERT_TRUE(apart.ok()) << apart.status().to_string();
    merge_ = true;
    for (int round = 0; round < 8; ++round) {
      const auto beside = on_device(run);
      ASSERT_TRUE(beside.ok()) << beside.status().to_string();
      EXPECT_TRUE(same_bytes((*apart)[0], (*beside)[0])) << dtype_name(type) << ", round " << round;
    }
    merge_ = false;
  }
  EXPECT_EQ(merged_, 3 * 8);
}

TEST_F(CudaKernels, RotateHalfIsClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const DType table : {type, DType::f32}) {
      for (const std::int64_t width : {64, 32}) {
        const HostTensor x = random_tensor(random_, type, Shape{2, 3, 5, 64});
        const HostTensor cos = random_tensor(random_, table, Shape{2, 1, 5, width}), sin = random_tensor(random_, table, Shape{5, width});
        testing::NodeRun run{"forebay", "RotateHalf", 1, {}, {&x, &cos, &sin}, 1, plan::kNone, {}};
        compare(run, 2 * tolerance_of(type), "RotateHalf");
        run.attributes = {{"pairs", std::int64_t{1}}};
        compare(run, 2 * tolerance_of(type), "RotateHalf of pairs");
      }
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.rotate_half"}));
}

// The sum is given too, or not; the skip may be one batch for all.
TEST_F(CudaKernels, SkipNormsAreClose) {
  unwanted_ = {1, 2};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t length : {1000, 4096, 7}) {
      for (const bool one_batch : {false, true}) {
        const HostTensor x = random_tensor(random_, type, Shape{3, 4, length}),
                         skip = random_tensor(random_, type, one_batch ? Shape{4, length} : Shape{3, 4, length});
        const HostTensor scale = random_tensor(random_, type, Shape{length}), shift = random_tensor(random_, type, Shape{length}),
                         bias = random_tensor(random_, type, Shape{length});
        const std::string what = std::string(dtype_name(type)) + " " + std::to_string(length);
        compare({"com.microsoft", "SkipLayerNormalization", 1, {}, {&x, &skip, &scale, &shift, &bias}, 4, plan::kNone, {}},
                6 * tolerance_of(type), what);
        compare({"com.microsoft", "SkipLayerNormalization", 1, {}, {&x, &skip, &scale}, 4, plan::kNone, {}}, 6 * tolerance_of(type), what);
        compare({"com.microsoft", "SkipSimplifiedLayerNormalization", 1, {}, {&x, &skip, &scale, &bias}, 4, plan::kNone, {}},
                6 * tolerance_of(type), what);
      }
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.norm"}));
}

// One kernel, two threads, other depths: each wants other shared memory for it. What one asks for must not take from the other.
TEST_F(CudaKernels, TwoThreadsLaunchOneKernelInTwoSizes) {
  std::vector<std::thread> threads;
  for (const std::int64_t depth : {4096, 16384}) {
    threads.emplace_back([depth] {
      std::string why;
      const auto runner = CudaRunner::create(&why);
      ASSERT_NE(runner, nullptr) << why;
      std::mt19937_64 random(static_cast<std::uint64_t>(depth));
      const HostTensor a = random_tensor(random, DType::f16, Shape{1, depth}), b = random_tensor(random, DType::f16, Shape{depth, 64});
      const NodeRun run{"", "MatMul", 13, {}, {&a, &b}, 1, plan::kNone, {}};
      for (int i = 0; i < 300; ++i) {
        const auto made = runner->run(run);
        ASSERT_TRUE(made.ok()) << "depth " << depth << ", launch " << i << ": " << made.status().to_string();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace forebay::testing
