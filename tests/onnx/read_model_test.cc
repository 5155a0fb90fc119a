// Reading well-formed models: structure, every element type in every kind of storage, nested tensors, odd orders, huge files.
#include <algorithm>
#include <cstring>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/memory_info.h"
#include "onnx/onnx_model.h"
#include "onnx/tensor_walk.h"
#include "onnx/wire_maker.h"
#include "support/fault_fs.h"
#include "support/onnx_maker.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::onnx {
namespace {

using test::OnnxMaker;
using test::random_tensor;
using test::Store;
using test::TempFolder;
using test::Wire;
using test::wire_model;

Result<Model> read(const std::string& path) { return read_model(posix_file_system(), path, Limits{}); }

void expect_same(const SourceTensor& record, const HostTensor& wanted) {
  auto got = load_source_tensor(record, 1 << 30);
  ASSERT_TRUE(got.ok()) << record.name << ": " << got.status().to_string();
  ASSERT_EQ(got->dtype(), wanted.dtype()) << record.name;
  ASSERT_EQ(got->shape(), wanted.shape()) << record.name;
  EXPECT_EQ(std::memcmp(got->data(), wanted.data(), wanted.bytes()), 0) << record.name;
}

TEST(ReadModel, GraphAsWritten) {
  const TempFolder folder;
  OnnxMaker maker(18, 9);
  maker.import("com.example", 3);
  auto graph = maker.graph();
  graph.input("x", DType::f32, {"batch", 3, -1});
  graph.output("y", DType::bf16, {});
  graph.value_info("h", DType::i64, {2});
  graph.node("Conv", {"x", "", "b"}, {"h", ""})
      .name("conv")
      .set("pads", std::vector<std::int64_t>{1, -1})
      .set("alpha", 0.5f)
      .set("mode", "same");
  graph.node("Thing", {"h"}, {"y"}, "com.example")
      .set("names", std::vector<std::string>{"a", "b"})
      .set("scales", std::vector<float>{1, 2})
      .set("axis", -1);
  maker.write(folder / "m.onnx");
  ASSERT_VALUE(const Model model, read(folder / "m.onnx"));
  EXPECT_EQ(model.ir_version, 9);
  EXPECT_EQ(model.opsets, (std::vector<std::pair<std::string, std::int64_t>>{{"", 18}, {"com.example", 3}}));
  EXPECT_EQ(model.file_name, "m.onnx");
  ASSERT_EQ(model.graph.inputs.size(), 1u);
  EXPECT_EQ(model.graph.inputs[0].dims[0].name, "batch");
  EXPECT_EQ(model.graph.inputs[0].dims[1].size, 3);
  EXPECT_EQ(model.graph.inputs[0].dims[2].size, -1);
  EXPECT_TRUE(model.graph.outputs[0].has_shape);
  EXPECT_EQ(model.graph.outputs[0].dtype, DType::bf16);
  ASSERT_EQ(model.graph.nodes.size(), 2u);
  const Node& conv = model.graph.nodes[0];
  EXPECT_EQ(conv.inputs, (std::vector<std::string>{"x", "", "b"}));
  EXPECT_EQ(conv.outputs, (std::vector<std::string>{"h", ""}));
  EXPECT_EQ(std::get<std::vector<std::int64_t>>(conv.attributes[0].value), (std::vector<std::int64_t>{1, -1}));
  EXPECT_EQ(std::get<float>(conv.attributes[1].value), 0.5f);
  EXPECT_EQ(std::get<std::string>(conv.attributes[2].value), "same");
  const Node& thing = model.graph.nodes[1];
  EXPECT_EQ(thing.domain, "com.example");
  EXPECT_EQ(std::get<std::vector<std::string>>(thing.attributes[0].value), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(std::get<std::vector<float>>(thing.attributes[1].value), (std::vector<float>{1, 2}));
  EXPECT_EQ(std::get<std::int64_t>(thing.attributes[2].value), -1);
}

TEST(ReadModel, EveryTypeInEveryStore) {
  for (const Store store : {Store::raw, Store::typed, Store::external}) {
    const TempFolder folder;
    OnnxMaker maker(21, 10);
    std::vector<HostTensor> wanted;
    for (int i = 1; i < kDTypeCount; ++i) {
      for (const Shape& shape : {Shape{}, Shape{3, 5}, Shape{1300, 3}, Shape{0, 4}}) {
        wanted.push_back(random_tensor(static_cast<DType>(i), shape, static_cast<std::uint64_t>(i)));
        maker.graph().initializer("t" + std::to_string(wanted.size()), wanted.back(), store);
      }
    }
    maker.write(folder / "m.onnx");
    ASSERT_VALUE(const Model model, read(folder / "m.onnx"));
    ASSERT_EQ(model.graph.initializers.size(), wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      expect_same(model.graph.initializers[i], wanted[i]);
      if (store != Store::typed) {
        EXPECT_EQ(model.graph.initializers[i].encoding, Encoding::raw);
      }
    }
    // Packed floats are extents as good as raw ones: they can be streamed.
    if (store == Store::typed) {
      EXPECT_EQ(model.graph.initializers[2].encoding, Encoding::raw);
    }
    EXPECT_EQ(model.graph.initializers[2].open_folder.empty(), store != Store::external);
    ASSERT_OK(open_source_file(posix_file_system(), model.graph.initializers[2], DirectIo::prefer));
  }
}

TEST(ReadModel, TensorsWhereverTheyAre) {
  const TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  const HostTensor top = random_tensor(DType::f32, {4000}, 1), deep = random_tensor(DType::f16, {3000}, 2),
                   inner = random_tensor(DType::bf16, {7}, 3);
  graph.constant("c", top);
  auto branch = graph.node("If", {"cond"}, {"y"}).name("if0");
  auto then_body = branch.body("then_branch");
  then_body.constant("d", deep);
  then_body.node("Loop", {"n", ""}, {"z"}).body("body").initializer("e", inner, Store::typed);
  auto else_body = branch.body("else_branch");
  else_body.constant("d", inner);
  maker.write(folder / "m.onnx");
  ASSERT_VALUE(const Model model, read(folder / "m.onnx"));
  std::map<std::string, SourceTensor> found;
  for_each_tensor(model.graph, [&](const std::string& name, const SourceTensor& tensor) { found[name] = tensor; });
  ASSERT_EQ(found.size(), 4u);
  expect_same(found.at("c"), top);
  expect_same(found.at("if0/then_branch/d"), deep);
  expect_same(found.at("if0/then_branch/z/body/e"), inner);
  expect_same(found.at("if0/else_branch/d"), inner);
}

TEST(ReadModel, Bf16InInt32Data) {
  const TempFolder folder;
  // 1.0 and -2.0 as bf16; the second as other writers do it, sign-extended.
  Wire tensor;
  tensor.number(1, 2).number(2, 16).text(8, "w").text(5, Wire().varint(0x3f80).varint(0xffffffffffffc000u).bytes());
  test::write_file(folder / "m.onnx", wire_model(Wire().message(5, tensor)));
  ASSERT_VALUE(const Model model, read(folder / "m.onnx"));
  ASSERT_VALUE(const HostTensor got, load_source_tensor(model.graph.initializers.at(0), 100));
  EXPECT_EQ(got.as<std::uint16_t>()[0], 0x3f80);
  EXPECT_EQ(got.as<std::uint16_t>()[1], 0xc000);
}

TEST(ReadModel, OddOrdersAndUnknownFields) {
  const TempFolder folder;
  Wire floats;  // data before name, dims and type; unpacked, packed and split; unknown fields in between
  floats.f32(4, 1)
      .text(12, "documentation")
      .f32(4, 2)
      .text(4, std::string(8, '\0'))
      .number(99, 7)
      .number(2, 1)
      .f32(4, 5)
      .number(1, 5)
      .text(8, "floats");
  Wire ints;
  ints.number(7, 1)
      .text(8, "ints")
      .number(7, static_cast<std::uint64_t>(-2))
      .text(7, Wire().varint(3).varint(300).bytes())
      .text(1, "\x04")
      .number(2, 7);
  Wire doubles;
  doubles.f64(10, 1.5).f64(10, 2.5).number(1, 2).number(2, 11).text(8, "doubles");
  Wire twice;  // of a field that is not repeated the last one counts
  twice.text(9, "12345678").text(9, "abcd").number(2, 1).number(1, 1).text(8, "twice");
  Wire hollow;  // an empty payload beside the real one
  hollow.text(4, "").text(9, "abcd").number(2, 1).number(1, 1).text(8, "hollow");
  Wire graph;
  graph.message(5, floats).message(5, ints).message(5, doubles).text(77, "unknown").message(5, twice).message(5, hollow);
  // Opset and IR after and before, and the graph in two pieces, as a merging parser takes them.
  Wire second;
  second.message(1, Wire().text(4, "Relu").text(1, "x").text(2, "y"));
  const std::string file = Wire().message(8, Wire().number(2, 17)).message(7, graph).number(1, 8).message(7, second).f64(50, 0).bytes();
  test::write_file(folder / "m.onnx", file);
  ASSERT_VALUE(const Model model, read(folder / "m.onnx"));
  ASSERT_EQ(model.graph.initializers.size(), 5u);
  ASSERT_EQ(model.graph.nodes.size(), 1u);
  const auto load = [&](std::size_t i) { return load_source_tensor(model.graph.initializers[i], 1000); };
  ASSERT_VALUE(const HostTensor f, load(0));
  EXPECT_EQ(std::vector<float>(f.as<float>().begin(), f.as<float>().end()), (std::vector<float>{1, 2, 0, 0, 5}));
  ASSERT_VALUE(const HostTensor i, load(1));
  EXPECT_EQ(std::vector<std::int64_t>(i.as<std::int64_t>().begin(), i.as<std::int64_t>().end()),
            (std::vector<std::int64_t>{1, -2, 3, 300}));
  ASSERT_VALUE(const HostTensor d, load(2));
  EXPECT_EQ(d.as<double>()[1], 2.5);
  ASSERT_VALUE(const HostTensor t, load(3));
  EXPECT_EQ(std::memcmp(t.data(), "abcd", 4), 0);
  ASSERT_VALUE(const HostTensor h, load(4));
  EXPECT_EQ(std::memcmp(h.data(), "abcd", 4), 0);
}

TEST(ReadModel, OldModelsWithoutAttributeKinds) {
  const TempFolder folder;
  Wire node;
  node.text(4, "Op").text(2, "y").message(5, Wire().text(1, "a").number(3, 5)).message(5, Wire().text(1, "b").f32(7, 1.5f));
  const std::string file = Wire().number(1, 3).message(7, Wire().message(1, node)).message(8, Wire().number(2, 6)).bytes();
  test::write_file(folder / "m.onnx", file);
  ASSERT_VALUE(const Model model, read(folder / "m.onnx"));
  EXPECT_EQ(std::get<std::int64_t>(model.graph.nodes[0].attributes[0].value), 5);
  EXPECT_EQ(std::get<std::vector<float>>(model.graph.nodes[0].attributes[1].value), std::vector<float>{1.5f});
}

// Many small pieces: the graph is handed on in parts, and must be whole again.
TEST(ReadModel, ManyNodesAndTensors) {
  const TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  for (int i = 0; i < 20'000; ++i) {
    graph.node("Add", {"v" + std::to_string(i), "w" + std::to_string(i)}, {"v" + std::to_string(i + 1)}).name("node_" + std::to_string(i));
    if (i % 4 == 0) graph.initializer("w" + std::to_string(i), random_tensor(DType::f32, {3}, static_cast<std::uint64_t>(i)));
  }
  maker.write(folder / "m.onnx");
  ASSERT_VALUE(const Model model, read(folder / "m.onnx"));
  ASSERT_EQ(model.graph.nodes.size(), 20'000u);
  ASSERT_EQ(model.graph.initializers.size(), 5'000u);
  for (std::size_t i = 0; i < 20'000; i += 501) EXPECT_EQ(model.graph.nodes[i].name, "node_" + std::to_string(i));
  expect_same(model.graph.initializers[4321], random_tensor(DType::f32, {3}, 4 * 4321));
}

// 12 GiB of weights inside one file (holes, so that it takes no disk): megabytes and no reading of payloads.
TEST(ReadModel, HugeFilesCostTheirGraphAlone) {
  const TempFolder folder;
  constexpr std::uint64_t kTensor = std::uint64_t{3} << 30;
  constexpr int kTensors = 4;
  std::vector<std::string> heads;
  std::uint64_t graph_bytes = 0;
  for (int i = 0; i < kTensors; ++i) {
    Wire head;
    head.number(1, kTensor / 4).number(2, 1).text(8, "w" + std::to_string(i)).promise(9, kTensor);
    const std::string inner = head.bytes();
    heads.push_back(Wire().promise(5, inner.size() + kTensor).raw(inner).bytes());
    graph_bytes += heads.back().size() + kTensor;
  }
  const int fd = ::open((folder / "m.onnx").c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  ASSERT_GE(fd, 0);
  std::uint64_t at = 0;
  const auto put = [&](const std::string& bytes) {
    ASSERT_EQ(::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at)), static_cast<ssize_t>(bytes.size()));
    at += bytes.size();
  };
  put(Wire().number(1, 8).message(8, Wire().number(2, 17)).promise(7, graph_bytes).bytes());
  for (const std::string& head : heads) {
    put(head);
    at += kTensor;
    ASSERT_EQ(::pwrite(fd, "last", 4, static_cast<off_t>(at - 4)), 4);
  }
  ::close(fd);
  test::FaultFs fs;  // counts reads
  const std::uint64_t before = memory_info().rss_bytes;
  ASSERT_VALUE(const Model model, read_model(fs, folder / "m.onnx", Limits{}));
  EXPECT_LT(fs.count(test::FaultOp::read), 40u);
  EXPECT_LT(memory_info().rss_bytes, before + (64 << 20));
  ASSERT_EQ(model.graph.initializers.size(), 4u);
  EXPECT_GT(model.graph.initializers[3].offset, 3 * kTensor);
  std::string tail(4, '\0');
  ASSERT_OK(read_source_tensor(model.graph.initializers[3], kTensor - 4, std::as_writable_bytes(std::span(tail))));
  EXPECT_EQ(tail, "last");
}

TEST(ReadTensorFile, BackendTestData) {
  const TempFolder folder;
  for (const Store store : {Store::raw, Store::typed}) {
    const HostTensor wanted = random_tensor(DType::f16, {2, 3}, 5);
    test::write_file(folder / "input_0.pb", test::tensor_bytes("x", wanted, store));
    std::string name;
    ASSERT_VALUE(const HostTensor got, read_tensor_file(posix_file_system(), folder / "input_0.pb", 1000, &name));
    EXPECT_EQ(name, "x");
    EXPECT_EQ(std::memcmp(got.data(), wanted.data(), wanted.bytes()), 0);
    EXPECT_CODE(read_tensor_file(posix_file_system(), folder / "input_0.pb", 11, nullptr), Code::resource_exhausted);
  }
  test::write_file(folder / "s.pb", Wire().number(1, 1).number(2, 8).text(6, "text").bytes());
  EXPECT_CODE(read_tensor_file(posix_file_system(), folder / "s.pb", 1000, nullptr), Code::unsupported);
}

// Every read fails in turn: a clear error, and the next attempt succeeds.
TEST(ReadModel, EveryIoFaultIsToldOnce) {
  const TempFolder folder;
  OnnxMaker maker;
  for (int i = 0; i < 30; ++i) {
    maker.graph().initializer("w" + std::to_string(i), random_tensor(DType::f32, {5000}, 1), i % 2 == 0 ? Store::raw : Store::external);
  }
  maker.write(folder / "m.onnx");
  test::FaultFs fs;
  for (const bool lasting : {false, true}) {
    const std::uint64_t injected = test::fault_loop(fs, {.error = EIO, .lasting = lasting}, [&](std::uint64_t nth) {
      const auto model = read_model(fs, folder / "m.onnx", Limits{});
      EXPECT_EQ(model.ok(), !fs.met()) << nth;
      if (!model.ok()) {
        EXPECT_CODE(model, Code::io_error);
        EXPECT_FALSE(model.status().problems().front().file.empty()) << model.status().to_string();
      }
    });
    EXPECT_GT(injected, 30u);
  }
  fs.arm({.op = test::FaultOp::read, .kind = test::FaultKind::short_transfer, .lasting = true});
  ASSERT_VALUE(const Model model, read_model(fs, folder / "m.onnx", Limits{}));
  EXPECT_EQ(model.graph.initializers.size(), 30u);
}

}  // namespace
}  // namespace forebay::onnx
