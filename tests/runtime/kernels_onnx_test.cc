// The ONNX backend's node cases for the neural-network families, through evaluate_node. Needs FOREBAY_TEST_PYTHON with the onnx package.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "base/half.h"
#include "runtime/op.h"

namespace forebay {
namespace {

constexpr const char* kOps =
    "MatMul Gemm Conv ConvTranspose MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool "
    "GlobalLpPool MaxUnpool MaxRoiPool RoiAlign "
    "BatchNormalization InstanceNormalization GroupNormalization LayerNormalization "
    "RMSNormalization LpNormalization LRN "
    "MeanVarianceNormalization Softmax LogSoftmax LSTM GRU RNN Resize Upsample GridSample "
    "AffineGrid Einsum RotaryEmbedding Attention "
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger QLinearMatMul "
    "QLinearConv STFT DFT HannWindow "
    "HammingWindow BlackmanWindow MelWeightMatrix NonMaxSuppression DeformConv Col2Im "
    "TensorScatter Cast CastLike";

class Reader {
 public:
  explicit Reader(std::vector<char> bytes) : bytes_(std::move(bytes)) {}
  bool done() const { return at_ >= bytes_.size(); }
  template <typename T>
  T value() {
    T v{};
    std::memcpy(&v, take(sizeof(T)), sizeof(T));
    return v;
  }
  std::string text() {
    const auto size = value<std::uint32_t>();
    return std::string(take(size), size);
  }
  template <typename T>
  std::vector<T> list() {
    std::vector<T> values(value<std::uint32_t>());
    for (T& v : values) v = value<T>();
    return values;
  }
  HostTensor tensor() {
    if (value<std::uint8_t>() == 0) return {};
    const auto dtype = static_cast<DType>(value<std::uint8_t>());
    const auto dims = list<std::int64_t>();
    HostTensor made(dtype, Shape(dims));
    const auto bytes = value<std::uint64_t>();
    EXPECT_EQ(bytes, made.bytes());
    if (bytes > 0) std::memcpy(made.data(), take(bytes), std::min<std::uint64_t>(bytes, made.bytes()));
    return made;
  }

 private:
  const char* take(std::uint64_t bytes) {
    if (bytes > bytes_.size() - at_) std::abort();
    at_ += bytes;
    return bytes_.data() + at_ - bytes;
  }
  std::vector<char> bytes_;
  std::uint64_t at_ = 0;
};

struct Case {
  std::string name, domain, op;
  std::int32_t version = 0;
  plan::Plan plan;
  std::vector<plan::Attribute> attributes;
  std::vector<HostTensor> inputs, outputs;
};

Case read_case(Reader& in) {
  Case c;
  c.name = in.text();
  c.domain = in.text();
  c.op = in.text();
  c.version = in.value<std::int32_t>();
  const auto attributes = in.value<std::uint32_t>();
  for (std::uint32_t i = 0; i < attributes; ++i) {
    plan::Attribute a;
    a.name = in.text();
    switch (in.value<char>()) {
      case 'i': a.value = in.value<std::int64_t>(); break;
      case 'f': a.value = in.value<float>(); break;
      case 's': a.value = in.text(); break;
      case 'I': a.value = in.list<std::int64_t>(); break;
      case 'F': a.value = in.list<float>(); break;
      case 'S': {
        std::vector<std::string> texts(in.value<std::uint32_t>());
        for (std::string& text : texts) text = in.text();
        a.value = texts;
        break;
      }
      default: {
        const HostTensor t = in.tensor();
        plan::Constant constant;
        constant.dtype = t.dtype();
        constant.shape = t.shape();
        constant.data.assign(t.data(), t.data() + t.bytes());
        a.value = plan::TensorRef{static_cast<std::uint32_t>(c.plan.constants.size())};
        c.plan.constants.push_back(std::move(constant));
      }
    }
    c.attributes.push_back(std::move(a));
  }
  c.inputs.resize(in.value<std::uint32_t>());
  for (HostTensor& t : c.inputs) t = in.tensor();
  c.outputs.resize(in.value<std::uint32_t>());
  for (HostTensor& t : c.outputs) t = in.tensor();
  return c;
}

double element(const HostTensor& t, std::int64_t i) {
  const auto at = static_cast<std::size_t>(i);
  switch (t.dtype()) {
    case DType::f32: return t.as<float>()[at];
    case DType::f64: return t.as<double>()[at];
    case DType::f16: return f16_to_f32(t.as<std::uint16_t>()[at]);
    case DType::bf16: return bf16_to_f32(t.as<std::uint16_t>()[at]);
    case DType::i8: return t.as<std::int8_t>()[at];
    case DType::u8: case DType::boolean: return t.as<std::uint8_t>()[at];
    case DType::i16: return t.as<std::int16_t>()[at];
    case DType::u16: return t.as<std::uint16_t>()[at];
    case DType::i32: return t.as<std::int32_t>()[at];
    case DType::u32: return t.as<std::uint32_t>()[at];
    case DType::i64: return static_cast<double>(t.as<std::int64_t>()[at]);
    case DType::u64: return static_cast<double>(t.as<std::uint64_t>()[at]);
    default: return 0;
  }
}

// Empty when they agree.
std::string difference(const HostTensor& got, const HostTensor& want) {
  if (got.dtype() != want.dtype()) return "dtype " + std::string(dtype_name(got.dtype())) + " for " + std::string(dtype_name(want.dtype()));
  if (!(got.shape() == want.shape())) return "shape " + got.shape().to_string() + " for " + want.shape().to_string();
  if (dtype_bits(got.dtype()) < 8 || static_cast<int>(got.dtype()) >= static_cast<int>(DType::f8e4m3fn)) {
    return std::memcmp(got.data(), want.data(), got.bytes()) == 0 ? "" : "bytes differ";
  }
  const double relative = got.dtype() == DType::bf16 ? 1.6e-2 : got.dtype() == DType::f16 ? 2e-3 : 1e-3;
  const double absolute = got.dtype() == DType::bf16 ? 8e-3 : got.dtype() == DType::f16 ? 1e-3 : dtype_is_float(got.dtype()) ? 1e-5 : 0;
  for (std::int64_t i = 0; i < got.shape().elements(); ++i) {
    const double a = element(got, i), b = element(want, i);
    if (std::isnan(a) && std::isnan(b)) continue;
    if (a == b) continue;
    const double limit = dtype_is_float(got.dtype()) ? absolute + relative * std::abs(b) : 0;
    if (!(std::abs(a - b) <= limit)) return "element " + std::to_string(i) + ": " + std::to_string(a) + " for " + std::to_string(b);
  }
  return "";
}

// Cases that `script` writes for `ops`, at least `least` of which must pass.
void run_cases(const std::string& script, const std::string& ops, int least) {
  const char* python = std::getenv("FOREBAY_TEST_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "FOREBAY_TEST_PYTHON is not set: it names a Python with the onnx package";
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() /
      ("forebay_kernels_onnx_" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) +
       "_" +
       std::to_string(static_cast<long>(std::hash<std::string>()(FOREBAY_SOURCE_DIR) & 0xffffff)) +
       "_" + std::to_string(reinterpret_cast<std::uintptr_t>(&kOps)) + "_" + script + ".bin");
  const std::string command = "\"" + std::string(python) +
                              "\" \"" FOREBAY_SOURCE_DIR "/tests/runtime/" + script + "\" \"" +
                              file.string() + "\" " + ops + " 2>/dev/null";
  if (std::system(command.c_str()) != 0)
    GTEST_SKIP() << "this Python lacks the packages of " << script;
  std::ifstream stream(file, std::ios::binary);
  Reader reader(std::vector<char>(std::istreambuf_iterator<char>(stream), {}));
  std::filesystem::remove(file);
  ThreadPool pool(2);
  int passed = 0, unsupported = 0;
  while (!reader.done()) {
    const Case c = read_case(reader);
    const NodeView node(c.name, c.domain, c.op, c.version, c.attributes, c.plan, c.inputs.size(), c.outputs.size());
    std::vector<const HostTensor*> inputs;
    for (const HostTensor& t : c.inputs) inputs.push_back(t.dtype() != DType::none ? &t : nullptr);
    auto made = evaluate_node(node, inputs, pool);
    if (!made.ok()) {
      EXPECT_EQ(made.status().code(), Code::unsupported) << c.name << ": " << made.status().to_string();
      std::printf("unsupported %s: %s\n", c.name.c_str(), made.status().message().c_str());
      ++unsupported;
      continue;
    }
    std::string wrong;
    for (std::size_t i = 0; i < c.outputs.size() && wrong.empty(); ++i) {
      if (c.outputs[i].dtype() == DType::none) continue;
      wrong = difference((*made)[i], c.outputs[i]);
      if (!wrong.empty()) wrong = "output " + std::to_string(i) + " " + wrong;
    }
    EXPECT_EQ(wrong, "") << c.name << " opset " << c.version;
    if (wrong.empty()) ++passed;
  }
  std::printf("passed %d, unsupported %d\n", passed, unsupported);
  EXPECT_GE(passed, least);
}

TEST(KernelsOnnx, NodeCases) {
  run_cases("kernels_onnx_cases.py", kOps, 100);
}

// Operators of ONNX Runtime, against its CPU kernels.
TEST(KernelsOnnx, PackedWeightCases) {
  run_cases("kernels_packed_cases.py", "", 22);
}

}  // namespace
}  // namespace forebay
