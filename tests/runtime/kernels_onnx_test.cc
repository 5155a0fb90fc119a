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

#include "runtime/flat_cases.h"

namespace forebay {
namespace {

using test::Case;
using test::element;
using test::Reader;

constexpr const char* kOps =
    "MatMul Gemm Conv ConvTranspose MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool GlobalLpPool MaxUnpool MaxRoiPool RoiAlign "
    "BatchNormalization InstanceNormalization GroupNormalization LayerNormalization RMSNormalization LpNormalization LRN "
    "MeanVarianceNormalization Softmax LogSoftmax LSTM GRU RNN Resize Upsample GridSample AffineGrid Einsum RotaryEmbedding Attention "
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger QLinearMatMul QLinearConv STFT DFT HannWindow "
    "HammingWindow BlackmanWindow MelWeightMatrix NonMaxSuppression DeformConv Col2Im TensorScatter CenterCropPad Det LinearAttention CausalConvWithState Cast CastLike";

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
