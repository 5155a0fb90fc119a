#include <gtest/gtest.h>

#include "refit/catalog.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::test {
namespace {

Result<refit::NameMap> read_map(const std::string& text) {
  TempFolder folder;
  write_file(folder / "names.map", text);
  return refit::NameMap::read(posix_file_system(), folder / "names.map");
}

TEST(NameMap, ReadsNamesCommentsAndTranspose) {
  ASSERT_VALUE(const refit::NameMap map, read_map("# a comment\n\n"
                                                  "onnx::MatMul_7 = model.layers.0.q.weight transpose  # Hugging Face holds [N,K]\r\n"
                                                  "  a=b\n"
                                                  "x#1 = y#2\n"
                                                  "k=v = w=z\n"
                                                  "last = one"));
  ASSERT_EQ(map.entries.size(), 5u);
  EXPECT_EQ(map.entries.at("onnx::MatMul_7").source, "model.layers.0.q.weight");
  EXPECT_TRUE(map.entries.at("onnx::MatMul_7").transpose);
  EXPECT_EQ(map.entries.at("a").source, "b");
  EXPECT_FALSE(map.entries.at("a").transpose);
  EXPECT_EQ(map.entries.at("x#1").source, "y#2");
  EXPECT_EQ(map.entries.at("k=v").source, "w=z");
  EXPECT_EQ(map.entries.at("last").source, "one");
}

TEST(NameMap, EveryBadLineIsNamedAtOnce) {
  const auto map = read_map("good = one\nno sign\n= x\ny =\ngood = two\nz = a transposed\n");
  ASSERT_FALSE(map.ok());
  EXPECT_CODE(map, Code::invalid_argument);
  const auto& problems = map.status().problems();
  ASSERT_EQ(problems.size(), 5u);
  EXPECT_NE(problems[0].message.find("line 2: there is no '='"), std::string::npos);
  EXPECT_NE(problems[1].message.find("line 3: there is no name before"), std::string::npos);
  EXPECT_NE(problems[2].message.find("line 4: there is no name after"), std::string::npos);
  EXPECT_NE(problems[3].message.find("line 5: 'good' is already renamed in line 1"), std::string::npos);
  EXPECT_NE(problems[4].message.find("line 6: 'transposed' is not understood"), std::string::npos);
  EXPECT_EQ(problems[0].file, "names.map");
}

TEST(NameMap, MissingFile) {
  EXPECT_CODE(refit::NameMap::read(posix_file_system(), "/nonexistent/names.map"), Code::not_found);
}

}  // namespace
}  // namespace forebay::test
