#include "operator_table.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace forebay::tools {
namespace {

TEST(OperatorTable, TheCommittedFileIsTheRegistry) {
  std::ifstream file(FOREBAY_SOURCE_DIR "/docs/operators.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(text.str() == operators_markdown()) << "run: forebay completion operators > docs/operators.md";
}

TEST(OperatorTable, FindsTypesAndVersions) {
  const std::string table = operators_markdown();
  EXPECT_NE(table.find("| Relu | "), std::string::npos);
  EXPECT_NE(table.find("| Erf | 9+ | floats |  | cpu |"), std::string::npos);
  EXPECT_NE(table.find("| Not | 6+ | bool |"), std::string::npos);
  EXPECT_NE(table.find("| com.microsoft.FastGelu | Add where"), std::string::npos);
}

}  // namespace
}  // namespace forebay::tools
