#include "operator_table.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>

#include "device_operators.h"

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
  EXPECT_NE(table.find("| Erf | 9+ | floats |  | cpu, cuda |"), std::string::npos);
  EXPECT_NE(table.find("| Not | 6+ | bool |"), std::string::npos);
  EXPECT_NE(table.find("| com.microsoft.FastGelu | Add where"), std::string::npos);
}

// The rows of the device's kernel tables, as they are written: no GPU is needed to read them.
TEST(OperatorTable, TheCudaColumnIsTheDevicesTables) {
  const std::regex row("\\{\"([a-z.]*)\", \"([A-Za-z0-9]+)\", make");
  std::set<std::string> rows;
  for (const auto& entry : std::filesystem::directory_iterator(FOREBAY_SOURCE_DIR "/src/runtime/cuda")) {
    if (!entry.path().filename().string().ends_with("_kernels.cc")) continue;
    std::ifstream file(entry.path());
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    for (std::sregex_iterator at(text.begin(), text.end(), row), end; at != end; ++at)
      rows.insert(((*at)[1].length() == 0 ? "" : (*at)[1].str() + ".") + (*at)[2].str());
  }
  EXPECT_GT(rows.size(), 100u);
  EXPECT_EQ(rows, std::set<std::string>(std::begin(kOnCuda), std::end(kOnCuda)));
}

}  // namespace
}  // namespace forebay::tools
