// Every tensor of real models equals what the onnx Python package reads. Needs FOREBAY_TEST_PYTHON; skipped without.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/digest.h"
#include "onnx/onnx_model.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::onnx {
namespace {

struct Wanted {
  std::string name, dtype, dims, digest;
};

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> parts;
  std::size_t at = 0;
  for (std::size_t tab = line.find('\t'); tab != std::string::npos; at = tab + 1, tab = line.find('\t', at))
    parts.push_back(line.substr(at, tab - at));
  parts.push_back(line.substr(at));
  return parts;
}

void collect(const Graph& graph, std::vector<const SourceTensor*>& to, int& others) {
  for (const SourceTensor& tensor : graph.initializers) to.push_back(&tensor);
  for (const Node& node : graph.nodes) {
    for (const Attribute& attribute : node.attributes) {
      if (const auto* tensor = std::get_if<SourceTensor>(&attribute.value)) to.push_back(tensor);
      if (const auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute.value)) collect(**body, to, others);
      others += attribute.unsupported.ends_with("tensor") ? 1 : 0;
    }
  }
}

TEST(OnnxOracle, TensorsEqualThePackages) {
  const char* const python = std::getenv("FOREBAY_TEST_PYTHON");
  if (python == nullptr || *python == '\0') GTEST_SKIP() << "FOREBAY_TEST_PYTHON is not set";
  const test::TempFolder folder;
  const std::string command =
      std::string(python) + " " FOREBAY_SOURCE_DIR "/tests/onnx/onnx_oracle.py " + folder.path() + " 400 2>/dev/null";
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), &::pclose);
  ASSERT_NE(pipe, nullptr);
  std::string text;
  char buffer[65536];
  for (std::size_t got = 0; (got = std::fread(buffer, 1, sizeof buffer, pipe.get())) > 0;) text.append(buffer, got);
  std::vector<std::pair<std::string, std::vector<Wanted>>> models;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> parts = split(line);
    if (parts[0] == "M") {
      models.emplace_back(parts.at(1), std::vector<Wanted>());
    } else {
      models.back().second.push_back({parts.at(1), parts.at(2), parts.at(3), parts.at(4)});
    }
  }
  ASSERT_GT(models.size(), 100u) << "the onnx package is not there, or has no test data";
  std::size_t compared = 0, refused = 0;
  for (const auto& [path, wanted] : models) {
    const auto model = read_model(posix_file_system(), path, Limits{});
    if (!model.ok()) {
      EXPECT_CODE(model, Code::unsupported);  // strings and the like
      ++refused;
      continue;
    }
    std::vector<const SourceTensor*> found;
    int others = 0;
    collect(model->graph, found, others);
    std::size_t at = 0;
    for (const Wanted& each : wanted) {
      if (each.dtype == "other") continue;
      // 4- and 2-bit types are "other" to the script, and tensors to us.
      while (at < found.size() && dtype_bits(found[at]->dtype) < 8) ++at;
      ASSERT_LT(at, found.size()) << path;
      const SourceTensor& tensor = *found[at++];
      EXPECT_EQ(tensor.name, each.name) << path;
      EXPECT_EQ(dtype_name(tensor.dtype), each.dtype) << path;
      const std::string shape = tensor.shape.to_string();
      EXPECT_EQ(shape.substr(1, shape.size() - 2), each.dims) << path;
      ASSERT_VALUE(const HostTensor data, load_source_tensor(tensor, std::uint64_t{1} << 30));
      EXPECT_EQ(to_hex(sha256({data.data(), static_cast<std::size_t>(data.bytes())})), each.digest) << path << " " << each.name;
      ++compared;
    }
  }
  RecordProperty("compared", static_cast<int>(compared));
  EXPECT_GT(compared, 150u);
  EXPECT_LT(refused, models.size() / 10);
}

}  // namespace
}  // namespace forebay::onnx
