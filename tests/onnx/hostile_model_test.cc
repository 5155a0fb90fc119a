// Models that mean harm or are damaged (F42): bounded time and memory, one clear error with file and offset.
#include <chrono>

#include <gtest/gtest.h>

#include "base/memory_info.h"
#include "onnx/onnx_model.h"
#include "onnx/wire_maker.h"
#include "support/memory_fs.h"
#include "support/onnx_maker.h"
#include "support/random.h"
#include "support/status_test.h"

namespace forebay::onnx {
namespace {

using test::OnnxMaker;
using test::random_tensor;
using test::Wire;
using test::wire_model;

class Hostile : public ::testing::Test {
 protected:
  Status status_of(const std::string& file) {
    fs_.put("/models/m.onnx", file);
    return read_model(fs_, "/models/m.onnx", Limits{}).status();
  }
  Status tensor_status(const Wire& tensor) { return status_of(wire_model(Wire().message(5, tensor))); }
  void expect_refused(const Status& status, Code code, std::string_view word) {
    EXPECT_EQ(to_string(status.code()), to_string(code)) << status.to_string();
    EXPECT_NE(status.to_string().find(word), std::string::npos) << status.to_string();
    if (!status.ok()) {
      EXPECT_EQ(status.problems().front().file, "m.onnx") << status.to_string();
    }
  }
  // If inside If, `depth` graphs below the main one.
  static std::string nested(int depth) {
    // From the inside: each level is a head before the level inside it.
    std::vector<std::string> heads;
    std::uint64_t inner = 0;
    for (int i = 0; i < depth; ++i) {
      const std::string attribute = Wire().text(1, "then_branch").number(20, 5).promise(6, inner).bytes();
      const std::string node = Wire().text(4, "If").text(2, "y").promise(5, attribute.size() + inner).raw(attribute).bytes();
      heads.push_back(Wire().promise(1, node.size() + inner).raw(node).bytes());
      inner += heads.back().size();
    }
    Wire file;
    file.number(1, 8).message(8, Wire().number(2, 17)).promise(7, inner);
    for (auto head = heads.rbegin(); head != heads.rend(); ++head) file.raw(*head);
    return file.bytes();
  }
  test::MemoryFs fs_;
};

TEST_F(Hostile, Nesting) {
  EXPECT_OK(status_of(nested(32)));
  expect_refused(status_of(nested(33)), Code::resource_exhausted, "nested");
  expect_refused(status_of(nested(34)), Code::resource_exhausted, "nested");
  // Ten thousand levels, with lengths that fit: built from the inside, 10 bytes a level.
  const std::uint64_t before = memory_info().rss_bytes;
  expect_refused(status_of(nested(10'000)), Code::resource_exhausted, "nested");
  EXPECT_LT(memory_info().rss_bytes, before + (64 << 20));
}

TEST_F(Hostile, NestedTypes) {
  Wire type;
  for (int i = 0; i < 5000; ++i) type = Wire().message(4, Wire().message(1, type));
  const Status status = status_of(wire_model(Wire().message(11, Wire().text(1, "x").message(2, type))));
  expect_refused(status, Code::invalid_model, "parsed");
}

TEST_F(Hostile, AMillionNodes) {
  Wire graph;
  for (int i = 0; i < 1'000'000; ++i) graph.raw(std::string_view("\x0a\x03\x22\x01" "A", 5));
  const std::string file = wire_model(graph);
  const std::uint64_t before = memory_info().rss_bytes;
  static_cast<void>(reset_peak_rss());
  const auto start = std::chrono::steady_clock::now();
  expect_refused(status_of(file), Code::resource_exhausted, "nodes");
  const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  RecordProperty("milliseconds", static_cast<int>(seconds * 1000));
  EXPECT_LT(memory_info().peak_rss_bytes, before + (256 << 20));
}

TEST_F(Hostile, AMillionTensorsAndNames) {
  Wire tensors, names;
  for (int i = 0; i < 1'000'000; ++i) tensors.raw(std::string_view("\x2a\x00", 2));
  Wire node;
  for (int i = 0; i < 5'000'000; ++i) node.raw(std::string_view("\x0a\x00", 2));
  EXPECT_FALSE(status_of(wire_model(tensors)).ok());
  expect_refused(status_of(wire_model(Wire().message(1, node))), Code::resource_exhausted, "names");
}

TEST_F(Hostile, Names) {
  expect_refused(status_of(wire_model(Wire().message(1, Wire().text(3, std::string(70'000, 'n'))))), Code::resource_exhausted,
                 "name of 70000");
  expect_refused(status_of(wire_model(Wire().message(1, Wire().text(3, "\xff\xfe")))), Code::invalid_model, "UTF-8");
  // A gigabyte that is only promised.
  expect_refused(status_of(Wire().number(1, 8).promise(7, 1 << 30).promise(2, 1 << 29).bytes()), Code::corruption, "cut");
}

TEST_F(Hostile, Dimensions) {
  const auto tensor = [](std::initializer_list<std::uint64_t> dims) {
    Wire wire;
    for (const std::uint64_t dim : dims) wire.number(1, dim);
    wire.number(2, 1).text(8, "w").text(9, "abcd");
    return wire;
  };
  EXPECT_OK(tensor_status(tensor({1})));
  const std::uint64_t big = std::uint64_t{1} << 40;
  Status status = tensor_status(tensor({big, big}));
  expect_refused(status, Code::invalid_model, "64 bits");
  EXPECT_EQ(status.problems().front().tensor, "w");
  EXPECT_TRUE(status.problems().front().offset.has_value());
  expect_refused(tensor_status(tensor({big, big, 0})), Code::invalid_model, "64 bits");
  expect_refused(tensor_status(tensor({std::uint64_t{1} << 62, 4})), Code::invalid_model, "64 bits");
  expect_refused(tensor_status(tensor({static_cast<std::uint64_t>(-1)})), Code::invalid_model, "negative");
  expect_refused(tensor_status(tensor({static_cast<std::uint64_t>(-1), static_cast<std::uint64_t>(-1)})), Code::invalid_model, "negative");
  expect_refused(tensor_status(tensor({std::uint64_t{1} << 63})), Code::invalid_model, "negative");
  expect_refused(tensor_status(tensor({2})), Code::invalid_model, "4 bytes are stored");
  expect_refused(tensor_status(tensor({big})), Code::invalid_model, "4 bytes are stored");
  expect_refused(tensor_status(tensor({1, 1, 1, 1, 1, 1, 1, 1, 1})), Code::unsupported, "rank 9");
}

TEST_F(Hostile, KindsOfTensors) {
  const auto typed = [](std::uint64_t type) { return Wire().number(1, 1).number(2, type).text(8, "w").text(9, "abcd"); };
  expect_refused(tensor_status(typed(8)), Code::unsupported, "string tensor");
  expect_refused(tensor_status(typed(14)), Code::unsupported, "complex64");
  expect_refused(tensor_status(typed(99)), Code::unsupported, "99");
  expect_refused(tensor_status(typed(0)), Code::invalid_model, "element type");
  expect_refused(tensor_status(typed(static_cast<std::uint64_t>(-5))), Code::invalid_model, "element type");
  expect_refused(tensor_status(Wire().number(1, 1).number(2, 1).text(8, "w").message(3, Wire().number(1, 0))), Code::unsupported,
                 "segments");
  expect_refused(tensor_status(Wire().number(1, 1).number(2, 1).text(8, "w")), Code::invalid_model, "no data");
  expect_refused(tensor_status(Wire().number(1, 1).number(2, 1).text(8, "w").text(9, "abcd").f32(4, 1)), Code::invalid_model, "twice");
  expect_refused(tensor_status(Wire().number(1, 1).number(2, 1).text(8, "w").number(5, 1)), Code::invalid_model, "another type");
  expect_refused(tensor_status(Wire().number(1, 1).number(2, 7).text(8, "w").text(6, "x")), Code::invalid_model, "strings");
  expect_refused(tensor_status(Wire().number(1, 1).number(2, 1).text(8, "w").text(9, "abcd").number(14, 7)), Code::invalid_model,
                 "location");
  expect_refused(tensor_status(Wire().number(1, 1).number(2, 1).text(9, "abcd")), Code::invalid_model, "no name");
  // All unsupported initializers in one go.
  Wire graph;
  for (int i = 0; i < 5; ++i) graph.message(5, Wire().number(1, 1).number(2, 8).text(8, "s" + std::to_string(i)));
  EXPECT_EQ(status_of(wire_model(graph)).problems().size(), 5u);
  // Sparse ones are listed by name, and attributes of such kinds are kept for the builder to refuse.
  Wire sparse;
  sparse.message(15, Wire().message(1, Wire().text(8, "sp").number(1, 1).number(2, 1)));
  sparse.message(1, Wire().text(4, "Constant").text(2, "c").message(5, Wire().text(1, "value").number(20, 4).message(5, typed(8))));
  sparse.message(1, Wire().text(4, "X").text(2, "d").message(5, Wire().text(1, "gs").number(20, 10).message(11, Wire())));
  fs_.put("/models/m.onnx", wire_model(sparse));
  ASSERT_VALUE(const Model model, read_model(fs_, "/models/m.onnx", Limits{}));
  EXPECT_EQ(model.graph.sparse, std::vector<std::string>{"sp"});
  EXPECT_EQ(model.graph.nodes[0].attributes[0].unsupported, "string tensor");
  EXPECT_EQ(model.graph.nodes[1].attributes[0].unsupported, "graphs");
}

// A file cannot state extents of its own through the fields that the pre-pass writes.
TEST_F(Hostile, OwnExtents) {
  const Wire extent = Wire().number(1, 9).number(2, 0).number(3, 4);
  expect_refused(tensor_status(Wire().number(1, 1).number(2, 1).text(8, "w").message(60000, extent)), Code::invalid_model, "no data");
  Wire tensor;
  tensor.number(1, 1).number(2, 1).text(8, "w").text(9, "good").message(60000, extent).number(60001, 5);
  fs_.put("/models/m.onnx", wire_model(Wire().message(5, tensor)));
  ASSERT_VALUE(const Model model, read_model(fs_, "/models/m.onnx", Limits{}));
  ASSERT_VALUE(const HostTensor got, load_source_tensor(model.graph.initializers[0], 100));
  EXPECT_EQ(std::memcmp(got.data(), "good", 4), 0);
  // Two tensors in one attribute: a merging parser would mix their extents.
  const Wire inner = Wire().number(1, 1).number(2, 1).text(9, "abcd");
  Wire node;
  node.text(4, "Constant").text(2, "c").message(5, Wire().text(1, "value").number(20, 4).message(5, inner).message(5, inner));
  expect_refused(status_of(wire_model(Wire().message(1, node))), Code::invalid_model, "two tensors");
}

TEST_F(Hostile, Versions) {
  const auto versions = [&](std::uint64_t ir, std::uint64_t opset) {
    return status_of(Wire().number(1, ir).message(7, Wire().text(2, "g")).message(8, Wire().number(2, opset)).bytes());
  };
  EXPECT_OK(versions(3, 6));
  EXPECT_OK(versions(14, 27));
  expect_refused(versions(2, 6), Code::unsupported, "IR version 2");
  expect_refused(versions(99, 6), Code::unsupported, "IR version 99");
  expect_refused(status_of(Wire().number(1, 8).message(7, Wire()).bytes()), Code::invalid_model, "opset");
  expect_refused(status_of(Wire().number(1, 8).message(8, Wire().number(2, 17)).bytes()), Code::invalid_model, "graph");
  expect_refused(status_of(Wire()
                               .number(1, 8)
                               .message(7, Wire())
                               .message(8, Wire().number(2, 17))
                               .message(8, Wire().text(1, "ai.onnx").number(2, 18))
                               .bytes()),
                 Code::invalid_model, "twice");
}

TEST_F(Hostile, Duplicates) {
  const Wire tensor = Wire().number(1, 1).number(2, 1).text(8, "w").text(9, "abcd");
  expect_refused(status_of(wire_model(Wire().message(5, tensor).message(5, tensor))), Code::invalid_model, "\"w\"");
  Wire node;
  node.text(4, "Op")
      .text(3, "n")
      .message(5, Wire().text(1, "a").number(3, 1).number(20, 2))
      .message(5, Wire().text(1, "a").number(3, 2).number(20, 2));
  expect_refused(status_of(wire_model(Wire().message(1, node))), Code::invalid_model, "twice");
}

TEST_F(Hostile, OtherFiles) {
  expect_refused(status_of(""), Code::invalid_model, "empty");
  expect_refused(status_of("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), Code::invalid_model, "git lfs pull");
  expect_refused(status_of("PK\x03\x04rest"), Code::invalid_model, "zip");
  EXPECT_FALSE(status_of("{\"json\": true}").ok());
  EXPECT_FALSE(status_of(std::string(1000, '\xff')).ok());
  EXPECT_FALSE(status_of(std::string(1000, '\0')).ok());
}

// Every cut of a real model: refused, with an offset inside the file, or (between two fields) a model without its last part.
TEST_F(Hostile, EveryCut) {
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"n", 4});
  graph.initializer("w", random_tensor(DType::f32, {4, 2}, 1));
  graph.constant("c", random_tensor(DType::i64, {3}, 2), test::Store::typed);
  graph.node("If", {"b"}, {"y"}).body("then_branch").constant("d", random_tensor(DType::f16, {3}, 2));
  const std::string file = maker.bytes();
  int refused = 0;
  for (std::size_t size = 0; size < file.size(); ++size) {
    const Status status = status_of(file.substr(0, size));
    if (status.ok()) continue;
    ++refused;
    if (status.problems().front().offset) {
      EXPECT_LE(*status.problems().front().offset, size);
    }
  }
  EXPECT_GT(refused, static_cast<int>(file.size()) - 8);
  // Every bit turned: an answer, never a crash.
  for (std::size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    static_cast<void>(status_of(flipped).ok());
  }
}

}  // namespace
}  // namespace forebay::onnx
