// Pieces of the command that need no process: comparison, raw reads, JSON of errors, conformance rules.
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "conformance_rules.h"
#include "disk_readings.h"
#include "json_out.h"
#include "raw_read.h"
#include "reference_compare.h"

namespace forebay::tools {
namespace {

HostTensor floats(std::initializer_list<float> values) {
  HostTensor tensor(DType::f32, Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.as<float>().begin());
  return tensor;
}

TEST(Compare, ToleranceAndSpecialValues) {
  const float nan = std::nanf(""), inf = INFINITY;
  EXPECT_TRUE(compare_tensors(floats({1, nan, inf}), floats({1, nan, inf}), 0, 0).pass());
  EXPECT_FALSE(compare_tensors(floats({nan}), floats({1}), 1e9, 1e9).pass());
  EXPECT_FALSE(compare_tensors(floats({inf}), floats({-inf}), 1, 1).pass());
  const Difference near = compare_tensors(floats({1, 2.001f}), floats({1, 2}), 0, 1e-3);
  EXPECT_TRUE(near.pass());
  EXPECT_NEAR(near.max_abs, 1e-3, 1e-6);
  const Difference far = compare_tensors(floats({1, 2.1f, 3}), floats({1, 2, 4}), 0, 1e-3);
  EXPECT_EQ(far.beyond, 2u);
  EXPECT_EQ(far.first, 1);
  EXPECT_FALSE(compare_tensors(floats({1}), floats({1, 1}), 1, 1).pass());  // shapes
}

TEST(Compare, IntegersAreExactAndTypesMatter) {
  HostTensor a(DType::i64, Shape{1}), b(DType::i64, Shape{1});
  a.as<std::int64_t>()[0] = (1ll << 60) + 1;  // the same as a double
  b.as<std::int64_t>()[0] = 1ll << 60;
  EXPECT_FALSE(compare_tensors(a, b, 1e9, 1e9).pass());
  EXPECT_FALSE(compare_tensors(HostTensor(DType::i32, Shape{1}), HostTensor(DType::i64, Shape{1}), 1, 1).pass());
  HostTensor packed(DType::i4, Shape{2});
  packed.data()[0] = std::byte{0xf8};
  EXPECT_EQ(element_as_double(packed, 0), -8);
  EXPECT_EQ(element_as_double(packed, 1), -1);
}

TEST(ErrorJson, AbsentMembersHaveNoKeys) {
  Problem first;
  first.code = "weight_missing";
  first.message = "no such \"tensor\"\n";
  first.tensor = "w\1";
  first.offset = 12;
  Problem second;
  second.code = "weight_shape";
  second.message = "other";
  const Status status(Code::weight_mismatch, "two problems", {first, second});
  const std::string text = boost::json::serialize(error_json(status));
  const boost::json::object back = boost::json::parse(text).as_object();
  EXPECT_EQ(back.at("code"), "weight_mismatch");
  EXPECT_EQ(back.at("tensor"), "w\1");
  EXPECT_EQ(back.at("offset"), 12);
  EXPECT_FALSE(back.contains("file"));
  ASSERT_EQ(back.at("problems").as_array().size(), 2u);
  EXPECT_FALSE(back.at("problems").as_array()[1].as_object().contains("tensor"));
  EXPECT_FALSE(error_text(status, false).empty());
}

TEST(RawRead, ReadsWhatIsThere) {
  const std::string path = (std::filesystem::temp_directory_path() / ("forebay-raw-" + std::to_string(::getpid()))).string();
  {
    std::ofstream file(path, std::ios::binary);
    const std::string block(1 << 20, 'x');
    for (int i = 0; i < 4; ++i) file << block;
  }
  for (const bool uring : {true, false}) {
    std::vector<std::unique_ptr<File>> files;
    auto file = posix_file_system().open_read(path, DirectIo::prefer);
    ASSERT_TRUE(file.ok());
    files.push_back(std::move(file).value());
    RawReadOptions options;
    options.seconds = 0.02;
    options.allow_uring = uring;
    const auto read = raw_read(files, options);
    ASSERT_TRUE(read.ok()) << read.status().to_string();
    EXPECT_GT(read->bytes, 0u);
    EXPECT_GT(read->gbps, 0.0);
    EXPECT_EQ(read->next_block, read->bytes >> 20);
    DiskReadings readings(files, uring);
    for (std::uint64_t i = 0, blocks = 0; i < 3; ++i) {
      ASSERT_TRUE(readings.take(0.01).ok());
      EXPECT_GT(readings.last().next_block, blocks) << "a reading goes on where the last one ended";
      blocks = readings.last().next_block;
    }
    EXPECT_EQ(readings.gbps().size(), 3u);
  }
  std::filesystem::remove(path);
}

TEST(DiskLimit, IsTheMedianAndSaysHowSteadyItIs) {
  EXPECT_EQ(disk_limit({}).median, 0);
  EXPECT_TRUE(disk_limit({}).steady());
  EXPECT_EQ(disk_limit({3, 1, 2}).median, 2);
  const DiskLimit even = disk_limit({2.1, 1.9, 2.0, 2.2});
  EXPECT_DOUBLE_EQ(even.median, 2.05);
  EXPECT_DOUBLE_EQ(even.low, 1.9);
  EXPECT_DOUBLE_EQ(even.high, 2.2);
  EXPECT_TRUE(even.steady());
  EXPECT_FALSE(disk_limit({2.0, 2.4}).steady());
  EXPECT_EQ(disk_share({}, {2.0}), 0);
  EXPECT_DOUBLE_EQ(disk_share({2.0, 1.5, 1.0}, {2.0, 2.0, 1.0, 1.0}), 1.0);
  EXPECT_DOUBLE_EQ(disk_share({1.8}, {1.9, 2.1}), 0.9);
  const boost::json::object json = disk_limit_json({2.0, 2.4});
  EXPECT_EQ(json.at("steady"), false);
  EXPECT_EQ(json.at("readings").as_array().size(), 2u);
}

TEST(ConformanceRules, SkipsByNameAndOperatorOnly) {
  onnx::Model model;
  EXPECT_EQ(conformance_skip("test_add", model), "");
  EXPECT_NE(conformance_skip("test_training_dropout_default", model), "");
  onnx::Node node;
  node.op = "Bernoulli";
  model.graph.nodes.push_back(node);
  EXPECT_EQ(conformance_skip("test_x", model), "random (Bernoulli)");
  model.graph.nodes[0].domain = "com.example";
  EXPECT_EQ(conformance_skip("test_x", model), "");
  onnx::Model strings;
  onnx::ValueInfo value;
  value.name = "s";
  value.unsupported = "string";
  strings.graph.inputs.push_back(value);
  EXPECT_EQ(conformance_skip("test_x", strings), "string types (value s)");
  EXPECT_EQ(conformance_tolerance("test_add").rtol, kConformanceRtol);
  EXPECT_GT(conformance_tolerance("test_attention_3d_bf16").rtol, kConformanceRtol);
}

}  // namespace
}  // namespace forebay::tools
