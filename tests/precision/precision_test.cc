// Every float operator in f32, f16 and bf16 against fp64, and where ONNX Runtime has a kernel against that: precision_rows*.py are the
// tables (operator, versions, attributes, inputs, bound and where the bound comes from). FOREBAY_PRECISION_SEED draws other values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "runtime/flat_cases.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

using test::Case;
using test::element;
using test::Reader;

enum class Measure : std::uint8_t { element_ulps, scale_ulps, share };

struct Wanted {
  std::vector<std::uint8_t> dtypes;  // of float outputs, else 0: as wanted
  Measure measure = Measure::element_ulps;
  double bound = 0;
};

Wanted read_wanted(Reader& in, std::size_t outputs) {
  Wanted wanted;
  for (std::size_t i = 0; i < outputs; ++i) wanted.dtypes.push_back(in.value<std::uint8_t>());
  wanted.measure = static_cast<Measure>(in.value<std::uint8_t>());
  wanted.bound = in.value<double>();
  return wanted;
}

struct Format {
  int bits, least_exponent;  // of the fraction; of the smallest normal number
  double largest;
};
Format format_of(DType dtype) {
  if (dtype == DType::f16) return {10, -14, 65504.0};
  if (dtype == DType::bf16) return {7, -126, 3.3895313892515355e38};
  return {23, -126, static_cast<double>(std::numeric_limits<float>::max())};
}

// The unit in the last place of numbers of this size.
double ulp(DType dtype, double size) {
  const Format format = format_of(dtype);
  const int exponent = size > 0 ? std::max(std::ilogb(size), format.least_exponent) : format.least_exponent;
  return std::ldexp(1.0, exponent - format.bits);
}

std::int64_t whole(const HostTensor& t, std::int64_t i) {
  return t.dtype() == DType::i64 ? t.as<std::int64_t>()[static_cast<std::size_t>(i)] : static_cast<std::int64_t>(element(t, i));
}

std::string other_integers(const HostTensor& got, const HostTensor& want) {
  if (got.dtype() != want.dtype()) return "dtype " + std::string(dtype_name(got.dtype())) + " for " + std::string(dtype_name(want.dtype()));
  for (std::int64_t i = 0; i < got.shape().elements(); ++i) {
    if (whole(got, i) != whole(want, i))
      return "element " + std::to_string(i) + ": " + std::to_string(whole(got, i)) + " for " + std::to_string(whole(want, i));
  }
  return "";
}

// Empty when they agree; `worst` grows to the largest error in the measure.
std::string difference(const HostTensor& got, const HostTensor& want, std::uint8_t dtype, const Wanted& wanted, double* worst) {
  if (!(got.shape() == want.shape())) return "shape " + got.shape().to_string() + " for " + want.shape().to_string();
  if (dtype == 0) return other_integers(got, want);
  if (got.dtype() != static_cast<DType>(dtype)) return "dtype " + std::string(dtype_name(got.dtype()));
  const double largest = format_of(got.dtype()).largest, beyond = largest + ulp(got.dtype(), largest) / 2;
  double scale = 0;
  for (std::int64_t i = 0; i < want.shape().elements(); ++i)
    if (const double b = std::abs(element(want, i)); b < beyond) scale = std::max(scale, b);
  for (std::int64_t i = 0; i < want.shape().elements(); ++i) {
    const double a = element(got, i), b = element(want, i);
    if ((std::isnan(a) && std::isnan(b)) || a == b) continue;
    if (std::abs(b) >= beyond && std::isinf(a) && std::signbit(a) == std::signbit(b)) continue;
    const double unit = wanted.measure == Measure::share          ? std::max(scale, std::numeric_limits<double>::min())
                        : wanted.measure == Measure::element_ulps ? ulp(got.dtype(), std::abs(b))
                                                                  : ulp(got.dtype(), scale);
    const double error = std::abs(a - b) / unit;
    if (error <= wanted.bound) {
      *worst = std::max(*worst, error);
      continue;
    }
    std::ostringstream text;
    text << "element " << i << " of " << want.shape().to_string() << ": " << a << " for " << b << ", off by " << error << ", bound "
         << wanted.bound;
    return text.str();
  }
  return "";
}

using Served = std::map<std::string, std::set<std::int32_t>>;  // versions by operator that had a case

void run_case(const Case& c, const Wanted& wanted, ThreadPool& pool, std::map<std::string, double>& worst) {
  const NodeView node(c.name, c.domain, c.op, c.version, c.attributes, c.plan, c.inputs.size(), c.outputs.size());
  std::vector<const HostTensor*> inputs;
  for (const HostTensor& t : c.inputs) inputs.push_back(t.dtype() != DType::none ? &t : nullptr);
  const auto made = evaluate_node(node, inputs, pool);
  ASSERT_TRUE(made.ok()) << c.name << ": " << made.status().to_string();
  double most = 0;
  for (std::size_t i = 0; i < c.outputs.size(); ++i) {
    if (c.outputs[i].dtype() == DType::none) continue;
    EXPECT_EQ(difference((*made)[i], c.outputs[i], wanted.dtypes[i], wanted, &most), "") << c.name << ", output " << i;
  }
  double& known = worst[c.op + (wanted.measure == Measure::share ? " of ONNX Runtime" : " of fp64")];
  known = std::max(known, most);
}

// Why an operator that takes floats has no row.
const std::map<std::string, std::string>& without_row() {
  static const std::map<std::string, std::string> reasons{
      {"Bernoulli", "its values are drawn here; ops_random_test"},
      {"Multinomial", "its values are drawn here; ops_random_test"},
      {"RandomNormalLike", "its values are drawn here; ops_random_test"},
      {"RandomUniformLike", "its values are drawn here; ops_random_test"},
  };
  return reasons;
}

bool takes_low_precision(const OpSpec& spec, const std::string& documented) {
  if ((spec.flags & kOpControl) != 0 || spec.name == "Constant") return false;  // kernels of their bodies are rows here
  return documented.empty() || documented.find("floats") != std::string::npos || documented.find("f16") != std::string::npos;
}

// The types of docs/operators.md, which a test compares with the registry: by "name versions".
std::map<std::string, std::string> documented_types() {
  std::map<std::string, std::string> types;
  std::ifstream file(FOREBAY_SOURCE_DIR "/docs/operators.md");
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> cells;
    std::istringstream row(line);
    for (std::string cell; std::getline(row, cell, '|');) {
      const std::size_t first = cell.find_first_not_of(' '), last = cell.find_last_not_of(' ');
      cells.push_back(first == std::string::npos ? "" : cell.substr(first, last - first + 1));
    }
    if (cells.size() > 3) types[cells[1]] += cells[3];
  }
  return types;
}

void expect_rows(const Served& served) {
  const std::map<std::string, std::string> types = documented_types();
  for (const OpSpec& spec : OpRegistry::builtin().all()) {
    const std::string name = (spec.domain.empty() ? "" : std::string(spec.domain) + ".") + std::string(spec.name);
    const auto documented = types.find(name);
    ASSERT_NE(documented, types.end()) << name << " is not in docs/operators.md";
    if (!takes_low_precision(spec, documented->second) || without_row().contains(name)) continue;
    const auto rows = served.find(name);
    const bool found = rows != served.end() && std::any_of(rows->second.begin(), rows->second.end(), [&](std::int32_t version) {
                         return version >= spec.since && version <= spec.until;
                       });
    EXPECT_TRUE(found) << name << " of opsets " << spec.since << " to " << spec.until << " takes f16 and has no row in precision_rows*.py";
  }
}

TEST(Precision, FloatOperatorsAreWithinTheirBounds) {
  const char* python = std::getenv("FOREBAY_TEST_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "FOREBAY_TEST_PYTHON is not set: it names a Python with onnx and onnxruntime";
  const char* seed = std::getenv("FOREBAY_PRECISION_SEED");
  const test::TempFolder folder;
  const std::string file = folder / "cases.bin";
  const std::string command = "\"" + std::string(python) + "\" \"" FOREBAY_SOURCE_DIR "/tests/precision/precision_cases.py\" \"" + file +
                              "\" --seed " + std::to_string(seed == nullptr ? 1 : std::atoi(seed));
  const int status = std::system(command.c_str());
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "this Python lacks onnx, onnxruntime or ml_dtypes";
  ASSERT_EQ(status, 0);
  std::ifstream stream(file, std::ios::binary);
  Reader reader(std::vector<char>(std::istreambuf_iterator<char>(stream), {}));
  ThreadPool pool(2);
  Served served;
  std::map<std::string, double> worst;
  while (!reader.done()) {
    const Case c = read_case(reader);
    const Wanted wanted = read_wanted(reader, c.outputs.size());
    run_case(c, wanted, pool, worst);
    served[(c.domain.empty() ? "" : c.domain + ".") + c.op].insert(c.version);
  }
  if (std::getenv("FOREBAY_PRECISION_SHOW") != nullptr) {
    for (const auto& [op, most] : worst) std::cout << op << ": " << most << "\n";
  }
  EXPECT_GT(served.size(), 150u);
  expect_rows(served);
}

}  // namespace
}  // namespace forebay
