// Packed weights on the CUDA device: the bits of the CPU's kernels for few rows, whatever the codes, blocks and cuts; close for many. Skips
// where there is no GPU, and says so.
#include <cmath>

#include "runtime/cuda_runner.h"
#include "runtime/ops/quant_layout.h"
#include "support/random.h"

namespace forebay::testing {
namespace {

class CudaPacked : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    device_ = CudaRunner::create(&why);
    if (device_ == nullptr) GTEST_SKIP() << why;
  }

  // Codes of 8-bit floats without NaN.
  HostTensor codes(DType type, const Shape& shape) {
    HostTensor t = test::random_tensor(type, shape, static_cast<std::uint64_t>(random_()));
    for (std::uint64_t i = 0; dtype_name(type).starts_with("f8") && i < t.bytes(); ++i)
      t.data()[i] = (t.data()[i] & std::byte{0xbb}) | std::byte{1};
    return t;
  }
  HostTensor scales(DType type, const Shape& shape) {
    HostTensor t = random_tensor(random_, type, shape);
    for (std::int64_t i = 0; i < shape.elements(); ++i) {
      const float v = 0.01f + 0.05f * std::abs(static_cast<float>(number(t, i)));
      if (type == DType::f32) t.as<float>()[static_cast<std::size_t>(i)] = v;
      if (type == DType::f16) t.as<std::uint16_t>()[static_cast<std::size_t>(i)] = f32_to_f16(v);
      if (type == DType::bf16) t.as<std::uint16_t>()[static_cast<std::size_t>(i)] = f32_to_bf16(v);
    }
    return t;
  }

  // `tolerance` 0: the same bytes; else relative to the largest output.
  void expect_close(const NodeRun& run, const HostTensor& want, const Result<std::vector<HostTensor>>& got, double tolerance,
                    const std::string& what) {
    ASSERT_TRUE(got.ok()) << what << ": " << got.status().to_string();
    ++compared_;
    if (tolerance == 0) {
      EXPECT_TRUE(same_bytes(want, (*got)[0])) << what << " by " << device_->id << ", " << run.op;
      return;
    }
    double worst = 0, largest = 0;
    for (std::int64_t i = 0; i < want.shape().elements(); ++i) {
      largest = std::max(largest, std::abs(number(want, i)));
      const double error = std::abs(number(want, i) - number((*got)[0], i));
      if (!(error <= worst)) worst = error;
    }
    EXPECT_LE(worst, tolerance * largest) << what << " by " << device_->id;
  }

  // Whole, in slabs and, where it can, in one launch; the slabs' sizes are multiples of `unit`.
  void compare(NodeRun run, std::int64_t rows, double tolerance, const std::string& what) {
    auto cpu = run_node(run, device_->pool);
    ASSERT_TRUE(cpu.ok()) << what << ": " << cpu.status().to_string();
    expect_close(run, (*cpu)[0], device_->run(run), tolerance, what);
    std::vector<TypeShape> in;
    for (const HostTensor* t : run.inputs) in.push_back(type_of(t));
    const plan::Plan plan;
    const NodeView node("tested", run.domain, run.op, run.version, run.attributes, plan, run.inputs.size(), 1);
    const ops::QuantCut cut = ops::quant_cut(node, in);
    if (rows < 2 * cut.row_unit) return;
    std::vector<std::size_t> alike;
    if (cut.scale_follows) alike.push_back(2);
    if (cut.zero_follows) alike.push_back(3);
    run.sliced = 1;
    const std::int64_t size = (rows / 3 + cut.row_unit - 1) / cut.row_unit * cut.row_unit;
    for (std::int64_t done = 0; done < rows; done += size) run.slab_rows.push_back(std::min(size, rows - done));
    auto slabs = device_->run(run, alike);
    expect_close(run, (*cpu)[0], slabs, tolerance, what + " in slabs");
    expect_close(run, (*cpu)[0], device_->run(run, alike, true), tolerance, what + " in slabs of one launch");
    merged_ += device_->merged ? 1 : 0;
  }

  std::unique_ptr<CudaRunner> device_;
  std::mt19937_64 random_{20261122};
  int compared_ = 0, merged_ = 0;
};

struct Case {
  DType code, value;
  std::int64_t m, n, k, block;
  bool turned, zero;
};
std::string name_of(const Case& c) {
  return std::string(dtype_name(c.code)) + " as " + std::string(dtype_name(c.value)) + " " + std::to_string(c.m) + "x" +
         std::to_string(c.n) + "x" + std::to_string(c.k) + " block " + std::to_string(c.block) + (c.turned ? " [N,K]" : " [K,N]") +
         (c.zero ? " with zero points" : "");
}

TEST_F(CudaPacked, FewRowsHaveTheBitsOfTheCpu) {
  int round = 0;
  for (const DType code :
       {DType::i4, DType::u4, DType::i8, DType::u8, DType::f8e4m3fn, DType::f8e5m2, DType::f8e4m3fnuz, DType::f4e2m1, DType::i2}) {
    for (const DType value : {DType::f32, DType::f16, DType::bf16}) {
      for (const std::int64_t block : {0, 32, 48, 128}) {
        for (const bool turned : {true, false}) {
          const bool fp = dtype_name(code).starts_with("f");
          const Case c{code, value, 1 + round++ % 8, 192, round % 5 == 0 ? 1144 : 1536, block, turned, !fp && round % 2 == 0};
          const std::int64_t rows = turned ? c.n : c.k, columns = turned ? c.k : c.n, axis = turned ? 1 : 0;
          const std::int64_t blocks = block == 0 ? 1 : ((turned ? columns : rows) + block - 1) / block;
          // Without blocks: a scale for each output.
          const Shape each = block == 0 ? Shape{c.n} : turned ? Shape{rows, blocks} : Shape{blocks, columns};
          const HostTensor a = random_tensor(random_, value, Shape{c.m, c.k}), w = codes(code, Shape{rows, columns}),
                           s = scales(value, each), z = codes(code, each);
          NodeRun run{"forebay", "QuantLinear", 1, {}, {&a, &w, &s, c.zero ? &z : nullptr}, 1, plan::kNone, {}};
          run.attributes = {{"transB", std::int64_t{turned}}, {"axis", block == 0 ? 1 - axis : axis}, {"block_size", block}};
          compare(run, rows, 0, name_of(c));
        }
      }
    }
  }
  EXPECT_GT(compared_, 400);
  EXPECT_GT(merged_, 50);
}

// One row by what bulk copies can serve, and by what they just cannot: odd numbers of rows, short last stages, every width of a block.
TEST_F(CudaPacked, OneRowHasTheBitsOfTheCpu) {
  int round = 0;
  for (const DType code : {DType::i4, DType::u4, DType::i8, DType::u8, DType::f8e4m3fn, DType::f8e5m2}) {
    for (const DType value : {DType::f16, DType::bf16, DType::f32}) {
      for (const std::int64_t block : {0, 16, 32, 64, 128, 256}) {
        for (const std::int64_t k : {256, 2048, 2304, 5120}) {
          const bool zero = !dtype_name(code).starts_with("f") && round++ % 2 == 0;
          const Case c{code, value, 1, 131, k, block, true, zero};
          const Shape each = block == 0 ? Shape{c.n} : Shape{c.n, (k + block - 1) / block};
          const HostTensor a = random_tensor(random_, value, Shape{1, k}), w = codes(code, Shape{c.n, k}), s = scales(value, each),
                           z = codes(code, each);
          NodeRun run{"forebay", "QuantLinear", 1, {}, {&a, &w, &s, zero ? &z : nullptr}, 1, plan::kNone, {}};
          run.attributes = {{"transB", std::int64_t{1}}, {"axis", std::int64_t{block != 0}}, {"block_size", block}};
          compare(run, c.n, 0, name_of(c));
        }
      }
    }
  }
  for (const std::int64_t bits : {4, 8}) {
    const std::int64_t n = 4099, k = 2560, blocks = k / 32;
    const HostTensor a = random_tensor(random_, DType::bf16, Shape{1, k}), w = codes(DType::u8, Shape{n, blocks, 4 * bits}),
                     s = scales(DType::bf16, Shape{n * blocks});
    NodeRun run{"com.microsoft", "MatMulNBits", 1, {}, {&a, &w, &s}, 1, plan::kNone, {}};
    run.attributes = {{"K", k}, {"N", n}, {"bits", bits}, {"block_size", std::int64_t{32}}};
    compare(run, n, 0, std::to_string(bits) + " bits");
  }
  EXPECT_GT(merged_, 100);
}

// Values that stay f32: every width of a block, depths that end within a stage, a run or a word of zero points.
TEST_F(CudaPacked, OneRowOfMatMulNBitsHasTheBitsOfTheCpu) {
  int round = 0;
  for (const std::int64_t bits : {4, 8}) {
    for (const DType value : {DType::f16, DType::bf16, DType::f32}) {
      for (const std::int64_t block : {16, 32, 64, 128, 256}) {
        for (const std::int64_t k : {96, 2048, 2880, 4352, 11008}) {
          const int zeros = round++ % 3;  // none, packed, floats
          const std::int64_t n = 131, blocks = (k + block - 1) / block, zero_row = (blocks * bits + 7) / 8;
          const HostTensor a = random_tensor(random_, value, Shape{1, k}), w = codes(DType::u8, Shape{n, blocks, block * bits / 8}),
                           s = scales(value, Shape{n * blocks}), packed = codes(DType::u8, Shape{n * zero_row}),
                           floats = random_tensor(random_, value, Shape{n * blocks}), bias = random_tensor(random_, value, Shape{n});
          NodeRun run{"com.microsoft", "MatMulNBits", 1, {}, {&a, &w, &s}, 1, plan::kNone, {}};
          if (zeros > 0) run.inputs.push_back(zeros == 1 ? &packed : &floats);
          if (round % 2 == 0) {
            run.inputs.resize(6, nullptr);
            run.inputs[5] = &bias;
          }
          run.attributes = {{"K", k}, {"N", n}, {"bits", bits}, {"block_size", block}};
          compare(run, n, 0,
                  std::to_string(bits) + " bits as " + std::string(dtype_name(value)) + ", K " + std::to_string(k) + ", block " +
                      std::to_string(block) + ", zero points " + std::to_string(zeros));
        }
      }
    }
  }
  EXPECT_EQ(merged_, 150);
}

TEST_F(CudaPacked, MatMulNBitsHasTheBitsOfTheCpu) {
  for (const std::int64_t bits : {2, 4, 8}) {
    for (const DType value : {DType::f32, DType::f16, DType::bf16}) {
      for (const int zeros : {0, 1, 2}) {  // none, packed, floats
        const std::int64_t block = 32, k = 1000, n = 160, blocks = (k + block - 1) / block;
        const HostTensor a = random_tensor(random_, value, Shape{3, k}), w = codes(DType::u8, Shape{n, blocks, block * bits / 8}),
                         s = scales(value, Shape{n * blocks}), packed = codes(DType::u8, Shape{n * ((blocks * bits + 7) / 8)}),
                         floats = random_tensor(random_, value, Shape{n * blocks}), bias = random_tensor(random_, value, Shape{n});
        NodeRun run{"com.microsoft",
                    "MatMulNBits",
                    1,
                    {},
                    {&a, &w, &s,
                     zeros == 0   ? nullptr
                     : zeros == 1 ? &packed
                                  : &floats,
                     nullptr, &bias},
                    1,
                    plan::kNone,
                    {}};
        run.attributes = {{"K", k}, {"N", n}, {"bits", bits}, {"block_size", block}};
        compare(run, n, 0, std::to_string(bits) + " bits as " + std::string(dtype_name(value)) + ", zero points " + std::to_string(zeros));
      }
    }
  }
}

// Products of one value, each by a weight of its own, and the norm that makes the value.
class Siblings {
 public:
  Siblings(CudaRunner& runner, std::mt19937_64& random, std::int64_t k) : runner_(runner), k_(k) {
    const TypeShape row{DType::bf16, true, {1, k}}, scale{DType::bf16, true, {k}};
    const HostTensor x = random_tensor(random, DType::bf16, Shape{1, k}), s = random_tensor(random, DType::bf16, Shape{k});
    norm_ = {"SimplifiedLayerNormalization", "", {row, scale}, row, {{"axis", std::int64_t{-1}}}};
    norm_.inputs = {put(x), put(s)};
    make(norm_);
  }
  void add(const HostTensor& codes, const HostTensor& scales) {
    const std::int64_t n = codes.shape()[0], block = 2 * codes.shape()[2];
    Node& one = *nodes_.emplace_back(std::make_unique<Node>());
    one = {"MatMulNBits", "com.microsoft", {norm_.out, type_of(&codes), type_of(&scales)}, {DType::bf16, true, {1, n}}, {}};
    one.attributes = {{"K", k_}, {"N", n}, {"bits", std::int64_t{4}}, {"block_size", block}};
    const TensorView& a = norm_.outputs[0];
    one.inputs = {ConstTensorView(a.data, a.dtype, a.shape), put(codes), put(scales)};
    make(one);
    for (const std::size_t input : {std::size_t{1}, std::size_t{2}}) dynamic_cast<WeightReader&>(*one.kernel).reads_weight(input);
  }
  // 0: each alone; 1: the products in one launch; 2: with the norm. How many products were done together.
  std::size_t run(int together) {
    together_ = together;
    done_ = 0;
    for (const auto& node : nodes_) clear(node->outputs[0]);
    if (together_ == 2) clear(norm_.outputs[0]);
    runner_.queue().launch([](void* self) { return static_cast<Siblings*>(self)->launch(); }, this);
    EXPECT_TRUE(runner_.queue().synchronize().ok());
    return done_;
  }
  std::vector<HostTensor> results() {
    std::vector<HostTensor> all;
    for (std::size_t i = 0; i <= nodes_.size(); ++i) {
      const TensorView& from = i < nodes_.size() ? nodes_[i]->outputs[0] : norm_.outputs[0];
      HostTensor& made = all.emplace_back(from.dtype, from.shape);
      runner_.queue().copy(made.data(), from.data, made.bytes());
    }
    EXPECT_TRUE(runner_.queue().synchronize().ok());
    return all;
  }

 private:
  struct Node {
    std::string op, domain;
    std::vector<TypeShape> in;
    TypeShape out;
    std::vector<plan::Attribute> attributes;
    std::unique_ptr<Kernel> kernel = {};
    std::vector<ConstTensorView> inputs = {};
    std::vector<TensorView> outputs = {};
    KernelCall call = {};
  };
  ConstTensorView put(const HostTensor& from) {
    std::byte* const at = runner_.place(from.bytes());
    runner_.queue().copy(at, from.data(), from.bytes());
    EXPECT_TRUE(runner_.queue().synchronize().ok());
    return ConstTensorView(at, from.dtype(), from.shape());
  }
  void clear(const TensorView& view) {
    HostTensor none(view.dtype, view.shape);
    std::memset(none.data(), 0xff, none.bytes());
    runner_.queue().copy(view.data, none.data(), none.bytes());
    EXPECT_TRUE(runner_.queue().synchronize().ok());
  }
  void make(Node& one) {
    const NodeView node("tested", one.domain, one.op, 1, one.attributes, plan_, one.in.size(), 1);
    const std::vector<TypeShape> outs{one.out};
    one.kernel = runner_.device->create_kernel(node, one.in, outs).value();
    const std::vector<const HostTensor*> known(one.in.size(), nullptr);
    ASSERT_TRUE(
        one.kernel->prepare(PrepareContext{node, one.in, known, outs, &runner_.pool, plan::kNone, plan::Consumption::whole, {}}).ok());
    one.outputs = {TensorView{runner_.place(static_cast<std::uint64_t>(one.out.dims[1]) * 2), DType::bf16, one.out.shape()}};
    one.call.inputs = one.inputs;
    one.call.outputs = one.outputs;
    one.call.slab_count = 1;
  }
  Status launch() {
    std::vector<GroupedKernel::Member> members;
    for (const auto& node : nodes_) members.push_back({node->kernel.get(), {&node->call, 1}});
    auto& first = dynamic_cast<GroupedKernel&>(*members[0].kernel);
    if (together_ == 2) {
      const GroupedKernel::Member before{norm_.kernel.get(), {&norm_.call, 1}};
      FB_ASSIGN(const auto done, first.run_between(&before, members, nullptr));
      done_ = done.members;
      return {};
    }
    FB_TRY(norm_.kernel->run(norm_.call));
    if (together_ == 1) {
      FB_ASSIGN(done_, first.run_group(members));
      return {};
    }
    for (const auto& node : nodes_) FB_TRY(node->kernel->run(node->call));
    return {};
  }

  CudaRunner& runner_;
  const std::int64_t k_;
  const plan::Plan plan_;
  Node norm_;
  std::vector<std::unique_ptr<Node>> nodes_;
  int together_ = 0;
  std::size_t done_ = 0;
};

TEST_F(CudaPacked, ProductsOfOneValueShareALaunchAndItsNorm) {
  for (const std::int64_t k : {512, 2880, 4096}) {
    Siblings siblings(*device_, random_, k);
    for (const std::int64_t n : {1501, 300, 303}) {
      const std::int64_t block = 32, blocks = k / block;
      siblings.add(codes(DType::u8, Shape{n, blocks, block / 2}), scales(DType::bf16, Shape{n * blocks}));
    }
    siblings.run(0);
    const std::vector<HostTensor> want = siblings.results();
    for (const int together : {1, 2}) {
      EXPECT_EQ(siblings.run(together), 3u);
      const std::vector<HostTensor> got = siblings.results();
      for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_TRUE(same_bytes(got[i], want[i])) << "K " << k << ", " << (together == 2 ? "with the norm" : "products alone") << ", " << i;
    }
  }
}

TEST_F(CudaPacked, TallWeightsHaveTheBitsOfTheCpu) {
  for (const DType code : {DType::i4, DType::u8}) {
    const std::int64_t n = 16384 + 5, k = 96;
    const HostTensor a = random_tensor(random_, DType::bf16, Shape{1, k}), w = codes(code, Shape{n, k}),
                     s = scales(DType::bf16, Shape{n, k / 32});
    NodeRun run{"forebay",
                "QuantLinear",
                1,
                {{"transB", std::int64_t{1}}, {"axis", std::int64_t{1}}, {"block_size", std::int64_t{32}}},
                {&a, &w, &s},
                1,
                plan::kNone,
                {}};
    compare(run, n, 0, std::string(dtype_name(code)));
  }
}

TEST_F(CudaPacked, ManyRowsAreCloseAndTheSameForEachCut) {
  for (const DType code : {DType::i4, DType::u8, DType::f8e4m3fn}) {
    for (const DType value : {DType::f32, DType::f16, DType::bf16}) {
      for (const bool turned : {true, false}) {
        const Case c{code, value, 40, 512, 1024, 32, turned, false};
        const std::int64_t rows = turned ? c.n : c.k, columns = turned ? c.k : c.n;
        const HostTensor a = random_tensor(random_, value, Shape{c.m, c.k}), w = codes(code, Shape{rows, columns}),
                         s = scales(value, turned ? Shape{rows, columns / 32} : Shape{rows / 32, columns});
        NodeRun run{"forebay", "QuantLinear", 1, {}, {&a, &w, &s, nullptr}, 1, plan::kNone, {}};
        run.attributes = {{"transB", std::int64_t{turned}}, {"axis", std::int64_t{turned}}, {"block_size", std::int64_t{32}}};
        compare(run, rows, value == DType::f32 ? 1e-5 : value == DType::f16 ? 2e-3 : 1e-2, name_of(c));
        EXPECT_TRUE(device_->id.starts_with("cuda.packed+")) << device_->id;
      }
    }
  }
}

HostTensor indices(const std::vector<std::int64_t>& values) {
  HostTensor t(DType::i64, Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.as<std::int64_t>().begin());
  return t;
}

TEST_F(CudaPacked, RowsOfTablesAreTheCpus) {
  const HostTensor picked = indices({3, -1, 0, 99, 50, 3, -100});
  for (const DType code : {DType::u4, DType::i4, DType::u8}) {
    for (const DType value : {DType::f32, DType::f16, DType::bf16}) {
      const HostTensor data = codes(code, Shape{100, 96}), s = scales(value, Shape{100, code == DType::u8 ? 6 : 3}),
                       z = codes(code, Shape{100, 3});
      NodeRun run{"com.microsoft",
                  "GatherBlockQuantized",
                  1,
                  {{"block_size", std::int64_t{32}}},
                  {&data, &picked, &s, code == DType::u8 ? nullptr : &z},
                  1,
                  plan::kNone,
                  {}};
      auto cpu = run_node(run, device_->pool);
      ASSERT_TRUE(cpu.ok()) << cpu.status().to_string();
      expect_close(run, (*cpu)[0], device_->run(run), 0, std::string(dtype_name(code)));
      EXPECT_EQ(device_->id, "host.indices+cuda.packed.rows");
    }
  }
}

TEST_F(CudaPacked, GatherTakesRowsFromSlabs) {
  const HostTensor picked = indices({3, -1, 0, 99, 50, 3, -100}), outside = indices({3, 100});
  for (const std::int64_t columns : {1, 3, 24, 128}) {
    const HostTensor table = random_tensor(random_, DType::bf16, Shape{100, columns});
    NodeRun run{"", "Gather", 13, {}, {&table, &picked}, 1, plan::kNone, {}};
    auto cpu = run_node(run, device_->pool);
    ASSERT_TRUE(cpu.ok()) << cpu.status().to_string();
    expect_close(run, (*cpu)[0], device_->run(run), 0, "whole");
    run.sliced = 0;
    run.slab_rows = {40, 40, 20};
    expect_close(run, (*cpu)[0], device_->run(run), 0, "slabs");
    EXPECT_EQ(device_->id, "host.indices+cuda.gather");
    run.inputs[1] = &outside;
    const auto refused = device_->run(run);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.status().to_string().find("index 100 at position 1"), std::string::npos) << refused.status().to_string();
  }
}

TEST_F(CudaPacked, IntegerProductsAreExact) {
  for (const DType a_type : {DType::i8, DType::u8}) {
    for (const DType b_type : {DType::i8, DType::u8}) {
      for (const std::int64_t m : {1, 70}) {
        const std::int64_t k = 203, n = 90;
        const HostTensor a = codes(a_type, Shape{m, k}), b = codes(b_type, Shape{k, n}), az = codes(a_type, Shape{}),
                         bz = codes(b_type, Shape{n});
        const std::string what = std::string(dtype_name(a_type)) + " by " + std::string(dtype_name(b_type)) + ", rows " + std::to_string(m);
        NodeRun run{"", "MatMulInteger", 10, {}, {&a, &b, &az, &bz}, 1, plan::kNone, {}};
        auto cpu = run_node(run, device_->pool);
        ASSERT_TRUE(cpu.ok()) << cpu.status().to_string();
        expect_close(run, (*cpu)[0], device_->run(run), 0, what);
        run.sliced = 1;
        run.slab_rows = {80, 80, 43};
        expect_close(run, (*cpu)[0], device_->run(run), 0, what + " in slabs");
        const HostTensor as = scales(DType::f32, Shape{}), bs = scales(DType::f32, Shape{n}), ys = scales(DType::f32, Shape{}),
                         yz = codes(DType::u8, Shape{});
        run = {"", "QLinearMatMul", 10, {}, {&a, &as, &az, &b, &bs, &bz, &ys, &yz}, 1, plan::kNone, {}};
        cpu = run_node(run, device_->pool);
        ASSERT_TRUE(cpu.ok()) << cpu.status().to_string();
        expect_close(run, (*cpu)[0], device_->run(run), 0, what + " scaled");
        run.sliced = 3;
        run.slab_rows = {80, 80, 43};
        expect_close(run, (*cpu)[0], device_->run(run), 0, what + " scaled, in slabs");
        EXPECT_EQ(device_->id, "cuda.product.i8");
      }
    }
  }
}

TEST_F(CudaPacked, ConversionsAreTheCpus) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const HostTensor x = random_tensor(random_, type, Shape{6, 64, 10}), one = scales(type, Shape{}), each = scales(type, Shape{64}),
                     blocked = scales(type, Shape{6, 4, 10});
    for (const DType code : {DType::i8, DType::u8, DType::i16, DType::u16}) {
      const std::string what = std::string(dtype_name(type)) + " and " + std::string(dtype_name(code));
      const HostTensor z = codes(code, Shape{}), zs = codes(code, Shape{64}), zb = codes(code, Shape{6, 4, 10}),
                       q = codes(code, Shape{6, 64, 10});
      for (const char* op : {"QuantizeLinear", "DequantizeLinear"}) {
        const HostTensor* in = op[0] == 'Q' ? &x : &q;
        NodeRun run{"", op, 21, {}, {in, &one, &z}, 1, plan::kNone, {}};
        const auto compare_one = [&](const std::string& how) {
          auto cpu = run_node(run, device_->pool);
          ASSERT_TRUE(cpu.ok()) << what << ": " << cpu.status().to_string();
          expect_close(run, (*cpu)[0], device_->run(run), 0, what + how);
        };
        compare_one(" one scale");
        run.inputs = {in, &each, &zs};
        compare_one(" a scale each");
        run.inputs = {in, &blocked, &zb};
        run.attributes = {{"axis", std::int64_t{1}}, {"block_size", std::int64_t{16}}};
        compare_one(" blocks");
      }
    }
  }
  for (const std::int64_t count : {1, 1000, 300000}) {
    const HostTensor x = random_tensor(random_, DType::f32, Shape{count});
    NodeRun run{"", "DynamicQuantizeLinear", 11, {}, {&x}, 3, plan::kNone, {}};
    auto cpu = run_node(run, device_->pool);
    auto got = device_->run(run);
    ASSERT_TRUE(cpu.ok() && got.ok());
    for (std::size_t o = 0; o < 3; ++o) EXPECT_TRUE(same_bytes((*cpu)[o], (*got)[o])) << count << " output " << o;
  }
}

}  // namespace
}  // namespace forebay::testing
