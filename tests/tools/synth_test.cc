#include "synth/synth_llama.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/digest.h"
#include "base/half.h"
#include "onnx/onnx_model.h"
#include "refit/catalog.h"
#include "synth/safetensors_layout.h"
#include "synth/weight_law.h"

namespace forebay::tools {
namespace {

class SynthFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (std::filesystem::temp_directory_path() / ("forebay-synth-" + std::to_string(::getpid()))).string();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string digest(const std::string& name) const {
    std::ifstream file(join_path(folder_, name), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    return to_hex(sha256(std::as_bytes(std::span(bytes.data(), bytes.size()))));
  }
  std::string folder_;
};

// The bytes of this release; another machine, thread count or compiler must give the same. Change them only with the law itself.
TEST_F(SynthFolder, SameBytesEverywhere) {
  std::map<std::string, std::string> first;
  for (const int threads : {1, 2, 3}) {
    SynthOptions options;
    options.params = "1M";
    options.seed = 7;
    options.threads = threads;
    const auto report = synth_llama(posix_file_system(), folder_, options);
    ASSERT_TRUE(report.ok()) << report.status().to_string();
    for (const std::string& file : report->files) {
      const auto [at, fresh] = first.emplace(file, digest(file));
      if (!fresh) {
        EXPECT_EQ(at->second, digest(file)) << file << " with " << threads << " threads";
      }
    }
  }
  EXPECT_EQ(first.at("model-00001-of-00001.safetensors"), "9220fd01b74c94aa65df3a3fa8e49c947e87b7e71e963746c90fde6bc885488f");
}

TEST_F(SynthFolder, OneCopyServesOnnxAndSafetensors) {
  SynthOptions options;
  options.params = "1M";
  options.dtype = DType::f16;
  options.max_shard_bytes = 1 << 20;
  const auto report = synth_llama(posix_file_system(), folder_, options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_GT(report->files.size(), 3u);  // several shards
  const auto model = onnx::read_model(posix_file_system(), join_path(folder_, "model.onnx"), {});
  ASSERT_TRUE(model.ok()) << model.status().to_string();
  const std::vector<std::string> sources{join_path(folder_, "model.safetensors.index.json")};
  const auto catalog = refit::Catalog::open(posix_file_system(), sources, null_logger());
  ASSERT_TRUE(catalog.ok()) << catalog.status().to_string();
  EXPECT_EQ(model->graph.initializers.size(), report->tensors);
  EXPECT_EQ((*catalog)->names().size(), report->tensors);
  std::size_t input_major = 0;
  for (const SourceTensor& tensor : model->graph.initializers) {
    const SourceTensor* other = (*catalog)->find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->offset, tensor.offset) << tensor.name;
    EXPECT_EQ(other->open_name, tensor.open_name) << tensor.name;
    EXPECT_TRUE(other->shape == tensor.shape);
    if (tensor.bytes() % 4096 == 0) {
      EXPECT_EQ(tensor.offset % 4096, 0u) << tensor.name;
    }
    if (tensor.name == "model.layers.0.mlp.up_proj.weight" || tensor.name == "model.layers.3.mlp.down_proj.weight") {
      const bool up = tensor.name.find("up_proj") != std::string::npos;
      EXPECT_EQ(tensor.shape[0], up ? report->shape.hidden : report->shape.ffn);
      ++input_major;
    }
  }
  EXPECT_EQ(input_major, 2u);
}

TEST_F(SynthFolder, CancelledLeavesNothing) {
  SynthOptions options;
  options.params = "1M";
  options.max_shard_bytes = 1 << 20;
  int calls = 0;
  options.progress = [&calls](const char*, std::uint64_t, std::uint64_t) { return ++calls < 20; };
  const auto report = synth_llama(posix_file_system(), folder_, options);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), Code::cancelled);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST(DecoderShapes, NamedCountsAreNear) {
  const std::map<std::string, double> wanted{{"1M", 1e6}, {"10M", 1e7}, {"100M", 1e8}, {"1B", 1e9}, {"2B", 2e9}, {"4B", 4e9},
                                             {"8B", 8e9}, {"24B", 2.35e10}, {"32B", 3.28e10}, {"3B", 3e9}, {"500M", 5e8}};
  for (const auto& [name, count] : wanted) {
    const auto shape = decoder_shape(name);
    ASSERT_TRUE(shape.ok()) << name;
    EXPECT_NEAR(static_cast<double>(shape->parameters()) / count, 1.0, 0.13) << name;
    EXPECT_EQ(shape->heads % shape->kv_heads, 0);
    std::uint64_t sum = 0;
    for (const DecoderTensor& tensor : decoder_tensors(*shape, DType::bf16)) {
      if (tensor.role != TensorRole::rope) sum += tensor.bytes() / 2;
    }
    EXPECT_EQ(sum, static_cast<std::uint64_t>(shape->parameters())) << name;
  }
  for (const char* bad : {"", "x", "-1B", "1", "1T", "1e99B"}) EXPECT_FALSE(decoder_shape(bad).ok()) << bad;
}

TEST(WeightLaw, TableHasTheQuantilesOfStudentsT) {
  const StudentTable table;
  EXPECT_NEAR(static_cast<double>(table.draw(32768, 0)), 0.0, 1e-4);
  EXPECT_NEAR(static_cast<double>(table.draw(static_cast<std::uint32_t>(0.975 * 65536), 0)), 2.306, 2e-3);
  EXPECT_NEAR(static_cast<double>(table.draw(static_cast<std::uint32_t>(0.995 * 65536), 0)), 3.355, 2e-2);
  float low = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) low = std::min(low, table.draw(0, mix64(i)));
  EXPECT_LT(low, -9.0f);  // the finer tail reaches further than 64Ki steps would
}

TEST(WeightLaw, ExponentialAndNormal) {
  for (const double x : {-2.0, -0.3, 0.0, 0.5, 1.7}) EXPECT_NEAR(exponential(x) / std::exp(x), 1.0, 1e-12);
  double sum = 0, squares = 0;
  constexpr int kCount = 20000;
  for (int i = 0; i < kCount; ++i) {
    const double draw = normal_draw(static_cast<std::uint64_t>(i));
    sum += draw;
    squares += draw * draw;
  }
  EXPECT_NEAR(sum / kCount, 0.0, 0.03);
  EXPECT_NEAR(squares / kCount, 1.0, 0.03);
}

// What trained matrices show: standard deviation 0.0256-0.0259 and exponent entropy 2.72 bits on large matrices.
TEST(WeightLaw, StatisticsOfAMatrix) {
  const auto shape = decoder_shape("1B");
  ASSERT_TRUE(shape.ok());
  const auto tensors = decoder_tensors(*shape, DType::bf16);
  const auto tensor = std::find_if(tensors.begin(), tensors.end(), [](const DecoderTensor& t) { return t.name == "model.layers.1.self_attn.q_proj.weight"; });
  ASSERT_NE(tensor, tensors.end());
  const StudentTable table;
  const WeightMaker maker(table, *shape, *tensor, 3);
  std::vector<std::byte> bytes(tensor->bytes());
  maker.rows(0, tensor->rows, bytes);
  const auto* bits = reinterpret_cast<const std::uint16_t*>(bytes.data());
  const std::size_t count = bytes.size() / 2;
  std::map<int, double> exponents;
  double squares = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(bf16_to_f32(bits[i]));
    squares += value * value;
    ++exponents[(bits[i] >> 7) & 255];
  }
  double entropy = 0;
  for (const auto& [exponent, n] : exponents) entropy -= n / static_cast<double>(count) * std::log2(n / static_cast<double>(count));
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(count)), 0.0257, 0.0012);
  EXPECT_NEAR(entropy, 2.72, 0.05);
  // Blocks are cut anywhere with the same bytes.
  std::vector<std::byte> part(bytes.size() / static_cast<std::size_t>(tensor->rows) * 5);
  maker.rows(100, 5, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), bytes.begin() + static_cast<std::ptrdiff_t>(part.size() / 5 * 100)));
}

TEST(SafetensorsLayout, HeadersAreWholeBlocks) {
  const auto shape = decoder_shape("10M");
  ASSERT_TRUE(shape.ok());
  const auto tensors = decoder_tensors(*shape, DType::bf16);
  const CheckpointLayout layout = lay_out(tensors, 4 << 20);
  EXPECT_GT(layout.shards.size(), 2u);
  std::size_t placed = 0;
  for (const ShardLayout& shard : layout.shards) {
    EXPECT_EQ(shard.header.size() % 4096, 0u);
    EXPECT_EQ(shard.header[8], '{');
    bool rest = false;
    std::uint64_t at = shard.header.size();
    for (std::size_t i = 0; i < shard.tensors.size(); ++i) {
      const std::uint64_t bytes = tensors[shard.tensors[i]].bytes();
      EXPECT_EQ(shard.offsets[i], at);  // no holes
      at += bytes;
      if (bytes % 4096 != 0) rest = true;
      else EXPECT_FALSE(rest) << "whole blocks come first";
      ++placed;
    }
    EXPECT_EQ(shard.bytes, at);
  }
  EXPECT_EQ(placed, tensors.size());
}

}  // namespace
}  // namespace forebay::tools
