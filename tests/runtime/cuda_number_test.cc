// f64, integers of every width and bool on the CUDA device, beside the CPU's kernels.
#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

constexpr DType kWhole[] = {DType::i8, DType::u8, DType::i16, DType::u16, DType::i32, DType::u32, DType::i64, DType::u64};

plan::AttributeValue number_of(std::int64_t value) {
  return plan::AttributeValue(value);
}

class CudaNumbers : public CudaKernels {
 protected:
  HostTensor wide(const Shape& shape, double scale = 1.0) {
    HostTensor t(DType::f64, shape);
    std::uniform_real_distribution<double> value(-scale, scale);
    for (double& v : t.as<double>()) v = value(random_);
    return t;
  }
  // Bytes as they come, so that every corner is among them; bools are 0 and 1.
  HostTensor any(DType type, const Shape& shape) {
    HostTensor t(type, shape);
    for (std::size_t i = 0; i < t.bytes(); ++i) t.data()[i] = static_cast<std::byte>(type == DType::boolean ? random_() % 2 : random_());
    return t;
  }
  void fill_small(HostTensor& t, std::int64_t most) {
    const std::size_t size = static_cast<std::size_t>(dtype_bits(t.dtype()) / 8);
    for (std::int64_t i = 0; i < t.shape().elements(); ++i) {
      const std::uint64_t value = random_() % static_cast<std::uint64_t>(most);
      std::memcpy(t.data() + static_cast<std::size_t>(i) * size, &value, size);
    }
  }
};

TEST_F(CudaNumbers, DoublesAreClose) {
  const HostTensor a = wide(Shape{3, 5, 64}), b = wide(Shape{5, 1}), c = wide(Shape{3, 5, 64});
  for (const char* op : {"Add", "Sub", "Mul", "Div", "Min", "Max", "Mod"}) {
    plan::Attribute fmod{"fmod", number_of(std::string_view(op) == "Mod" ? 1 : 0)};
    compare({"", op, 14, {fmod}, {&a, &b}, 1, plan::kNone, {}}, 1e-14, op);
  }
  for (const char* op : {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
    compare({"", op, 16, {}, {&a, &c}, 1, plan::kNone, {}}, 0, op);
  for (const char* op : {"Sigmoid", "Cos", "Sin", "Exp", "Tanh", "Neg", "Abs", "Relu", "Erf", "Floor", "Ceil", "Reciprocal"})
    compare({"", op, 14, {}, {&a}, 1, plan::kNone, {}}, 1e-12, op);
  for (const char* op : {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"}) {
    const bool sums = std::string_view(op) == "ReduceSum";
    const HostTensor axes = integers({0, 2});
    NodeRun run{"", op, 13, {}, {&a}, 1, plan::kNone, {}};
    if (sums) {
      run.inputs.push_back(&axes);
    } else {
      run.attributes = {{"axes", plan::AttributeValue(std::vector<std::int64_t>{0, 2})}};
    }
    compare(run, 1e-13, op);
  }
  const HostTensor left = wide(Shape{2, 1, 9, 40}), right = wide(Shape{1, 3, 40, 17});
  compare({"", "MatMul", 13, {}, {&left, &right}, 1, plan::kNone, {}}, 1e-13, "MatMul");
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.numbers", "cuda.number_unary", "cuda.reduce_axes", "cuda.product.f64"}));
}

TEST_F(CudaNumbers, IntegersHaveTheBitsOfTheCpu) {
  for (const DType type : kWhole) {
    const HostTensor a = any(type, Shape{4, 100}), b = any(type, Shape{100});
    HostTensor small(type, Shape{4, 100});
    fill_small(small, 9);
    const std::string name(dtype_name(type));
    for (const char* op : {"Add", "Sub", "Mul", "Div", "Min", "Max"}) {
      compare({"", op, 14, {}, {&a, &b}, 1, plan::kNone, {}}, 0, op + name);
      compare({"", op, 14, {}, {&a, &small}, 1, plan::kNone, {}}, 0, op + name + " small");
    }
    for (const char* op : {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
      compare({"", op, 16, {}, {&small, &b}, 1, plan::kNone, {}}, 0, op + name);
    for (const std::int64_t fmod : {0, 1})
      compare({"", "Mod", 13, {{"fmod", number_of(fmod)}}, {&a, &small}, 1, plan::kNone, {}}, 0, "Mod" + name);
    for (const char* op : {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}) compare({"", op, 18, {}, {&a, &b}, 1, plan::kNone, {}}, 0, op + name);
    const bool is_unsigned = type == DType::u8 || type == DType::u16 || type == DType::u32 || type == DType::u64;
    for (const char* direction : {"LEFT", "RIGHT"}) {
      if (!is_unsigned) continue;
      compare({"", "BitShift", 11, {{"direction", plan::AttributeValue(std::string(direction))}}, {&a, &small}, 1, plan::kNone, {}}, 0,
              direction + name);
    }
    if (!is_unsigned) compare({"", "Neg", 13, {}, {&a}, 1, plan::kNone, {}}, 0, "Neg" + name);
    if (type != DType::u64) compare({"", "Abs", 13, {}, {&a}, 1, plan::kNone, {}}, 0, "Abs" + name);
  }
  const HostTensor p = any(DType::boolean, Shape{90}), q = any(DType::boolean, Shape{90});
  for (const char* op : {"And", "Or", "Xor"}) compare({"", op, 7, {}, {&p, &q}, 1, plan::kNone, {}}, 0, op);
  compare({"", "Equal", 13, {}, {&p, &q}, 1, plan::kNone, {}}, 0, "Equal of bools");
}

// Out of range, fractions, ties, not-a-numbers.
TEST_F(CudaNumbers, CastsHaveTheBitsOfTheCpu) {
  constexpr std::pair<DType, std::int64_t> kTypes[] = {
      {DType::f32, 1},     {DType::u8, 2},   {DType::i8, 3},   {DType::u16, 4},  {DType::i16, 5},  {DType::i32, 6},  {DType::i64, 7},
      {DType::boolean, 9}, {DType::f16, 10}, {DType::f64, 11}, {DType::u32, 12}, {DType::u64, 13}, {DType::bf16, 16}};
  for (const auto& [from, from_number] : kTypes) {
    std::vector<HostTensor> inputs;
    const bool real = from == DType::f64 || from == DType::f32 || from == DType::f16 || from == DType::bf16;
    if (!real) inputs.push_back(any(from, Shape{700}));
    if (real && from != DType::f64) inputs.push_back(random_tensor(random_, from, Shape{700}));
    if (from == DType::f64) {
      for (const double scale : {3.0, 70000.0, 4e9, 1e19, 1e38, 1e-40}) inputs.push_back(wide(Shape{300}, scale));
      HostTensor odd(DType::f64, Shape{6});
      const double values[] = {NAN, INFINITY, -INFINITY, -0.0, 2147483647.5, -9223372036854775808.0};
      std::copy(std::begin(values), std::end(values), odd.as<double>().begin());
      inputs.push_back(std::move(odd));
    }
    if (from == DType::f32) {
      HostTensor odd(DType::f32, Shape{8});
      const float values[] = {NAN, INFINITY, -INFINITY, -0.0f, 3e9f, -3e9f, 1e19f, 255.5f};
      std::copy(std::begin(values), std::end(values), odd.as<float>().begin());
      inputs.push_back(std::move(odd));
    }
    for (const auto& [to, number] : kTypes) {
      for (const HostTensor& input : inputs) {
        const std::string what = std::string(dtype_name(from)) + " to " + std::string(dtype_name(to));
        const bool floats = real && (to == DType::f16 || to == DType::bf16 || to == DType::f32 || to == DType::f64);
        compare({"", "Cast", 13, {{"to", number_of(number)}}, {&input}, 1, plan::kNone, {}}, floats ? 1e-300 : 0, what);
      }
    }
  }
}

}  // namespace
}  // namespace forebay::testing
