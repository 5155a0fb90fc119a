#include "refit/catalog.h"

#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

#include "refit/refit_fixture.h"
#include "support/fault_fs.h"
#include "support/onnx_maker.h"

namespace forebay::test {
namespace {

using refit::Catalog;

Result<std::shared_ptr<const Catalog>> try_open(const std::vector<std::string>& sources) {
  return Catalog::open(posix_file_system(), sources, null_logger());
}

void expect_tensor(const Catalog& catalog, const std::string& name, const HostTensor& wanted) {
  const SourceTensor* found = catalog.find(name);
  ASSERT_NE(found, nullptr) << name;
  EXPECT_EQ(found->name, name);
  ASSERT_VALUE(const HostTensor read, load_source_tensor(*found, 1 << 24));
  ASSERT_EQ(read.bytes(), wanted.bytes());
  EXPECT_EQ(read.shape(), wanted.shape());
  EXPECT_EQ(std::memcmp(read.data(), wanted.data(), wanted.bytes()), 0) << name;
}

TEST(Catalog, OnnxInlineTypedExternalConstantsAndBodies) {
  TempFolder folder;
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {4});
  graph.output("y", DType::f32, {4});
  const HostTensor inline_small = random_tensor(DType::f32, {4}, 1), inline_large = random_tensor(DType::f32, {100, 100}, 2),
                   typed = random_tensor(DType::i32, {300}, 3), outside = random_tensor(DType::bf16, {4096}, 4),
                   constant = random_tensor(DType::f32, {9}, 5), nested = random_tensor(DType::f32, {7}, 6),
                   nested_constant = random_tensor(DType::f32, {8}, 7);
  graph.initializer("inline_small", inline_small);
  graph.initializer("inline_large", inline_large);
  graph.initializer("typed", typed, Store::typed);
  graph.initializer("outside", outside, Store::external);
  graph.constant("const_out", constant);
  graph.node("Constant", {}, {"floats_out"}).set("value_floats", std::vector<float>{1.5f, 2.5f});
  auto branch = graph.node("If", {"x"}, {"y"}).name("choose");
  auto body = branch.body("then_branch");
  body.output("b", DType::f32, {7});
  body.initializer("w", nested);
  auto inner = body.node("Loop", {}, {"", "looped"});
  inner.body("body").constant("c", nested_constant);
  maker.write(folder / "model.onnx");

  const auto catalog = open_catalog({folder / "model.onnx"});
  ASSERT_NE(catalog, nullptr);
  expect_tensor(*catalog, "inline_small", inline_small);
  expect_tensor(*catalog, "inline_large", inline_large);
  expect_tensor(*catalog, "typed", typed);
  expect_tensor(*catalog, "outside", outside);
  expect_tensor(*catalog, "const_out", constant);
  expect_tensor(*catalog, "choose/then_branch/w", nested);
  expect_tensor(*catalog, "choose/then_branch/looped/body/c", nested_constant);
  const SourceTensor* floats = catalog->find("floats_out");
  ASSERT_NE(floats, nullptr);
  EXPECT_EQ(floats->shape, (Shape{2}));
  EXPECT_TRUE(catalog->problems().empty());
}

TEST(Catalog, SafetensorsFileFolderAndIndex) {
  TempFolder folder;
  const Tensors all = small_tensors(3);
  Tensors first, second;
  for (const auto& [name, tensor] : all) (first.size() < 3 ? first : second)[name] = tensor.clone();
  std::filesystem::create_directory(folder / "one");
  write_safetensors(folder / "one/anything.safetensors", all, 4096);
  std::filesystem::create_directory(folder / "many");
  write_safetensors(folder / "many/odd-name.safetensors", first);
  write_safetensors(folder / "many/b.safetensors", second);
  std::string map;
  for (const auto& [name, tensor] : all)
    map += (map.empty() ? "\"" : ",\"") + name + "\":\"" + (first.contains(name) ? "odd-name.safetensors" : "b.safetensors") + "\"";
  write_file(folder / "many/model.safetensors.index.json", "{\"metadata\":{\"total_size\":1},\"weight_map\":{" + map + "}}");

  for (const std::string& source :
       {folder / "one/anything.safetensors", folder / "one", folder / "many/model.safetensors.index.json", folder / "many"}) {
    SCOPED_TRACE(source);
    const auto catalog = open_catalog({source});
    ASSERT_NE(catalog, nullptr);
    EXPECT_EQ(catalog->names().size(), all.size());
    for (const auto& [name, tensor] : all) expect_tensor(*catalog, name, tensor);
    EXPECT_TRUE(catalog->problems().empty());
  }
  LineLogger logger;  // total_size is only a remark
  const std::string source = folder / "many";
  ASSERT_OK(Catalog::open(posix_file_system(), std::span(&source, 1), logger));
  EXPECT_TRUE(logger.has("stated_total_bytes=1 "));
}

TEST(Catalog, FoldersThatHoldNothingOrTooMuch) {
  TempFolder folder;
  EXPECT_CODE(try_open({folder.path()}), Code::not_found);
  write_safetensors(folder / "a.safetensors", small_tensors(1));
  write_safetensors(folder / "b.safetensors", small_tensors(2));
  const auto catalog = try_open({folder.path()});
  EXPECT_CODE(catalog, Code::invalid_argument);
  EXPECT_NE(catalog.status().message().find("a.safetensors, b.safetensors"), std::string::npos) << catalog.status().to_string();
  EXPECT_CODE(try_open({folder / "absent"}), Code::not_found);
}

// F37: both places are told; the same extent reached twice is no duplicate.
TEST(Catalog, DuplicatesAcrossSources) {
  TempFolder folder;
  write_safetensors(folder / "a.safetensors", small_tensors(1));
  write_safetensors(folder / "b.safetensors", small_tensors(2));
  const auto catalog = open_catalog({folder / "a.safetensors", folder / "b.safetensors"});
  ASSERT_NE(catalog, nullptr);
  ASSERT_EQ(catalog->problems().size(), small_tensors(1).size());
  const Problem* problem = find_problem(catalog->problems(), "duplicate_name", "mask");
  ASSERT_NE(problem, nullptr);
  EXPECT_NE(problem->message.find("in a.safetensors at offset"), std::string::npos) << problem->message;
  EXPECT_NE(problem->message.find("in b.safetensors at offset"), std::string::npos) << problem->message;
  ASSERT_EQ(::link((folder / "a.safetensors").c_str(), (folder / "c.safetensors").c_str()), 0);
  const auto same = open_catalog({folder / "a.safetensors", folder / "c.safetensors", folder / "a.safetensors"});
  ASSERT_NE(same, nullptr);
  EXPECT_TRUE(same->problems().empty());
}

TEST(Catalog, DuplicatesAcrossShardsOfAnIndexAndWrongPlaces) {
  TempFolder folder;
  Tensors a, b;
  a["twice"] = random_tensor(DType::f32, {4}, 1);
  a["moved"] = random_tensor(DType::f32, {4}, 2);
  b["twice"] = random_tensor(DType::f32, {4}, 3);
  b["other"] = random_tensor(DType::f32, {4}, 4);
  write_safetensors(folder / "a.safetensors", a);
  write_safetensors(folder / "b.safetensors", b);
  write_file(folder / "model.safetensors.index.json",
             R"({"weight_map":{"twice":"b.safetensors","moved":"b.safetensors","other":"b.safetensors","gone":"a.safetensors"}})");
  const auto catalog = open_catalog({folder.path()});
  ASSERT_NE(catalog, nullptr);
  EXPECT_NE(find_problem(catalog->problems(), "duplicate_name", "twice"), nullptr);
  EXPECT_NE(find_problem(catalog->problems(), "index_mismatch", "moved"), nullptr);
  EXPECT_NE(find_problem(catalog->problems(), "index_mismatch", "gone"), nullptr);
  EXPECT_EQ(catalog->problems().size(), 3u);
}

// Names inside an index may not lead out of its folder, nor through a link.
TEST(Catalog, AnIndexOpensNothingOutsideItsFolder) {
  TempFolder folder;
  std::filesystem::create_directory(folder / "model");
  write_safetensors(folder / "outside.safetensors", small_tensors(1));
  ASSERT_EQ(::symlink("../outside.safetensors", (folder / "model/link.safetensors").c_str()), 0);
  write_file(folder / "model/model.safetensors.index.json", R"({"weight_map":{"mask":"link.safetensors"}})");
  FaultFs fs;
  fs.record(true);
  const std::string source = folder / "model";
  EXPECT_FALSE(Catalog::open(fs, std::span(&source, 1), null_logger()).ok());
  write_file(folder / "model/model.safetensors.index.json", R"({"weight_map":{"mask":"../outside.safetensors"}})");
  EXPECT_CODE(Catalog::open(fs, std::span(&source, 1), null_logger()), Code::invalid_model);
  for (const std::string& line : fs.recorded()) EXPECT_EQ(line.find("outside"), std::string::npos) << line;
  // The user's own word may be a link.
  ASSERT_EQ(::symlink("outside.safetensors", (folder / "mine.safetensors").c_str()), 0);
  EXPECT_OK(try_open({folder / "mine.safetensors"}));
}

TEST(Catalog, ExternalDataMayBeTheSafetensorsShards) {
  TempFolder folder;
  const HostTensor w = random_tensor(DType::f32, {1024}, 1), bias = random_tensor(DType::f32, {4}, 2);
  const std::string shard = safetensors_bytes({{"w", &w}}, 4096);
  write_file(folder / "model-00001.safetensors", shard);
  OnnxMaker maker;
  auto graph = maker.graph();
  graph.input("x", DType::f32, {1024});
  graph.output("y", DType::f32, {1024});
  graph.initializer("bias", bias);
  graph.initializer_external("w", DType::f32, {1024},
                             {{"location", "model-00001.safetensors"},
                              {"offset", std::to_string(shard.size() - w.bytes())},
                              {"length", std::to_string(w.bytes())}});
  graph.node("Add", {"x", "w"}, {"y"});
  maker.write(folder / "model.onnx");
  for (const auto& sources : std::vector<std::vector<std::string>>{{folder / "model.onnx", folder / "model-00001.safetensors"},
                                                                   {folder / "model-00001.safetensors", folder / "model.onnx"},
                                                                   {folder.path()}}) {
    const auto catalog = open_catalog(sources);
    ASSERT_NE(catalog, nullptr);
    EXPECT_TRUE(catalog->problems().empty());
    expect_tensor(*catalog, "w", w);
    expect_tensor(*catalog, "bias", bias);
  }
}

TEST(Catalog, SeveralBrokenSourcesAreToldTogether) {
  TempFolder folder;
  write_file(folder / "a.safetensors", "short");
  write_file(folder / "b.safetensors", std::string(8, '\xff'));
  const auto catalog = try_open({folder / "a.safetensors", folder / "b.safetensors"});
  EXPECT_CODE(catalog, Code::corruption);
  EXPECT_EQ(catalog.status().problems().size(), 2u);
}

}  // namespace
}  // namespace forebay::test
