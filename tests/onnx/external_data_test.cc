// External data (F41, T3): contained, checked, opened once.
#include <cstring>
#include <filesystem>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "onnx/onnx_model.h"
#include "support/fault_fs.h"
#include "support/onnx_maker.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::onnx {
namespace {

using test::OnnxMaker;
using test::TempFolder;
using Keys = std::vector<std::pair<std::string, std::string>>;

class External : public ::testing::Test {
 protected:
  External() { test::write_file(folder_ / "w.bin", std::string(4096, 'a') + std::string(64, 'b')); }
  Result<Model> with(const Keys& keys) {
    OnnxMaker maker;
    maker.graph().initializer_external("w", DType::f32, {4}, keys);
    maker.write(folder_ / "m.onnx");
    return read_model(posix_file_system(), folder_ / "m.onnx", Limits{});
  }
  void expect_refused(const Keys& keys, Code code, std::string_view word) {
    const Status status = with(keys).status();
    EXPECT_EQ(to_string(status.code()), to_string(code)) << status.to_string();
    EXPECT_NE(status.to_string().find(word), std::string::npos) << status.to_string();
    if (!status.ok()) {
      EXPECT_EQ(status.problems().front().tensor, "w") << status.to_string();
      EXPECT_FALSE(status.problems().front().file.empty()) << status.to_string();
    }
  }
  TempFolder folder_;
};

TEST_F(External, GoodOnes) {
  for (const Keys& keys :
       {Keys{{"location", "w.bin"}, {"offset", "4096"}, {"length", "16"}}, Keys{{"location", "w.bin"}, {"offset", "4096"}},
        Keys{{"offset", "4096"}, {"checksum", "00"}, {"location", "./w.bin"}, {"length", "16"}}}) {
    ASSERT_VALUE(const Model model, with(keys));
    const SourceTensor& tensor = model.graph.initializers.at(0);
    EXPECT_EQ(tensor.offset, 4096u);
    EXPECT_EQ(tensor.stored_bytes, 16u);
    ASSERT_VALUE(const HostTensor got, load_source_tensor(tensor, 100));
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(got.data()), 16), std::string(16, 'b'));
    ASSERT_OK(open_source_file(posix_file_system(), tensor, DirectIo::prefer));
    EXPECT_EQ(model.notes.size(), keys.size() == 4 ? 1u : 0u);
  }
  ASSERT_VALUE(const Model model, with({{"location", "w.bin"}}));
  EXPECT_EQ(model.graph.initializers[0].offset, 0u);
}

TEST_F(External, BadKeys) {
  expect_refused({}, Code::invalid_model, "location");
  expect_refused({{"offset", "0"}}, Code::invalid_model, "location");
  expect_refused({{"location", "w.bin"}, {"offset", "-1"}}, Code::invalid_model, "offset");
  expect_refused({{"location", "w.bin"}, {"offset", "0x10"}}, Code::invalid_model, "offset");
  expect_refused({{"location", "w.bin"}, {"offset", ""}}, Code::invalid_model, "offset");
  expect_refused({{"location", "w.bin"}, {"offset", "99999999999999999999999"}}, Code::invalid_model, "offset");
  expect_refused({{"location", "w.bin"}, {"length", "16 "}}, Code::invalid_model, "length");
  expect_refused({{"location", "w.bin"}, {"location", "w.bin"}}, Code::invalid_model, "twice");
  expect_refused({{"location", "w.bin"}, {"length", "16"}, {"length", "16"}}, Code::invalid_model, "twice");
  expect_refused({{"location", "w.bin"}, {"__class__", "x"}}, Code::unsupported, "__class__");
}

TEST_F(External, BadRanges) {
  expect_refused({{"location", "w.bin"}, {"offset", "4160"}}, Code::corruption, "4160");
  expect_refused({{"location", "w.bin"}, {"offset", "4145"}, {"length", "16"}}, Code::corruption, "has 4160");
  expect_refused({{"location", "w.bin"}, {"offset", "18446744073709551615"}, {"length", "16"}}, Code::corruption, "w.bin");
  expect_refused({{"location", "w.bin"}, {"offset", "0"}, {"length", "17"}}, Code::invalid_model, "17 bytes");
  expect_refused({{"location", "w.bin"}, {"offset", "0"}, {"length", "18446744073709551615"}}, Code::corruption, "w.bin");
  expect_refused({{"location", "w.bin"}, {"offset", "0"}, {"length", "0"}}, Code::invalid_model, "0 bytes");
}

TEST_F(External, Escapes) {
  const TempFolder outside;
  test::write_file(outside / "secret", std::string(64, 's'));
  ASSERT_EQ(::symlink((outside / "secret").c_str(), (folder_ / "soft").c_str()), 0);
  ASSERT_EQ(::link((outside / "secret").c_str(), (folder_ / "hard").c_str()), 0);
  ASSERT_EQ(::mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  ASSERT_EQ(::symlink(outside.path().c_str(), (folder_ / "far").c_str()), 0);
  ASSERT_EQ(::symlink("/dev", (folder_ / "dev").c_str()), 0);
  const std::string up = "../" + std::filesystem::path(outside.path()).filename().string() + "/secret";
  for (const std::string& location :
       {up, outside / "secret", std::string("soft"), std::string("hard"), std::string("fifo"), std::string("far/secret"),
        std::string("dev/zero"), std::string(""), std::string("."), std::string("/dev/zero"), std::string("x/../../w.bin")}) {
    expect_refused({{"location", location}, {"offset", "0"}, {"length", "16"}}, Code::invalid_model, "");
  }
  expect_refused({{"location", "missing.bin"}}, Code::not_found, "folder of the model");
  // The same inside a Constant of a nested graph.
  OnnxMaker maker;
  auto body = maker.graph().node("If", {"c"}, {"y"}).body("then_branch");
  body.initializer_external("w", DType::f32, {4}, {{"location", up}, {"offset", "0"}, {"length", "16"}});
  maker.write(folder_ / "m.onnx");
  EXPECT_CODE(read_model(posix_file_system(), folder_ / "m.onnx", Limits{}), Code::invalid_model);
}

// Nothing outside of the folder is opened, not even to look.
TEST_F(External, NothingOutsideIsOpened) {
  test::FaultFs fs;
  fs.record(true);
  OnnxMaker maker;
  maker.graph().initializer_external("w", DType::f32, {4}, {{"location", "w.bin"}});
  maker.graph().initializer_external("v", DType::f32, {4}, {{"location", "w.bin"}, {"offset", "64"}});
  maker.write(folder_ / "m.onnx");
  fs.disarm();
  EXPECT_OK(read_model(fs, folder_ / "m.onnx", Limits{}));
  int opened = 0;
  for (const std::string& line : fs.recorded()) {
    if (line.starts_with("open ")) {
      ++opened;
      EXPECT_TRUE(line.starts_with("open " + folder_.path())) << line;
    }
  }
  EXPECT_EQ(opened, 2) << "the model, and its data file once for both tensors";
}

// A model that the user names through links of their own still finds its data beside the name they gave.
TEST_F(External, TheUsersOwnLinks) {
  ASSERT_OK(with({{"location", "w.bin"}}));
  const TempFolder other;
  ASSERT_EQ(::symlink((folder_ / "m.onnx").c_str(), (other / "m.onnx").c_str()), 0);
  EXPECT_CODE(read_model(posix_file_system(), other / "m.onnx", Limits{}), Code::not_found);
  std::filesystem::copy_file(folder_ / "w.bin", other / "w.bin");
  EXPECT_OK(read_model(posix_file_system(), other / "m.onnx", Limits{}));
  ASSERT_EQ(::symlink(folder_.path().c_str(), (other / "folder").c_str()), 0);
  ASSERT_VALUE(const Model model, read_model(posix_file_system(), other / "folder/m.onnx", Limits{}));
  EXPECT_OK(open_source_file(posix_file_system(), model.graph.initializers.at(0), DirectIo::prefer));
}

TEST_F(External, DataInBothPlaces) {
  OnnxMaker maker;
  maker.graph().initializer("w", test::random_tensor(DType::f32, {4}, 1));
  maker.write(folder_ / "m.onnx");
  std::string file = maker.bytes();
  ASSERT_OK(read_model(posix_file_system(), folder_ / "m.onnx", Limits{}));
  // data_location = external, raw data kept, no external keys
  OnnxMaker both;
  both.graph().initializer_external("w", DType::f32, {1}, {{"location", "w.bin"}});
  const std::string plain = both.bytes();
  const std::size_t name = plain.find("w.bin");
  ASSERT_NE(name, std::string::npos);
  // The tensor is the last field of the graph: append raw_data to it by hand is the fuzzer's work; here the lengths are patched.
  std::string patched = plain;
  const std::string raw("\x4a\x04" "abcd", 6);
  const std::size_t tensor_begin = patched.find('\x2a');
  ASSERT_NE(tensor_begin, std::string::npos);
  const auto tensor_bytes = static_cast<std::size_t>(static_cast<unsigned char>(patched[tensor_begin + 1]));
  patched.insert(tensor_begin + 2 + tensor_bytes, raw);
  patched[tensor_begin + 1] = static_cast<char>(tensor_bytes + raw.size());
  const std::size_t graph_begin = patched.find('\x3a');
  ASSERT_LT(graph_begin, tensor_begin);
  patched[graph_begin + 1] = static_cast<char>(static_cast<unsigned char>(patched[graph_begin + 1]) + raw.size());
  test::write_file(folder_ / "m.onnx", patched);
  const Status status = read_model(posix_file_system(), folder_ / "m.onnx", Limits{}).status();
  EXPECT_CODE(status, Code::invalid_model);
  EXPECT_NE(status.message().find("another file"), std::string::npos) << status.to_string();
}

}  // namespace
}  // namespace forebay::onnx
