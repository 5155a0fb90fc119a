// Style as a test: include direction, fences, lengths, banned calls, files that no CMake list names, unique file names, unfinished marks.
// Exceptions are listed here, each with its reason.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Source {
  std::string path;  // from the root, with '/'
  std::string text;
  std::vector<std::string> lines;
};

std::string root() { return FOREBAY_SOURCE_DIR; }

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

const std::vector<Source>& sources() {
  static const std::vector<Source> all = [] {
    std::vector<Source> found;
    for (const char* folder : {"include", "src", "tools", "tests", "bench", "examples"}) {
      if (!fs::is_directory(fs::path(root()) / folder)) continue;
      for (const auto& entry : fs::recursive_directory_iterator(fs::path(root()) / folder)) {
        const std::string extension = entry.path().extension().string();
        if (!entry.is_regular_file() || (extension != ".h" && extension != ".cc" && extension != ".cu")) continue;
        Source source{fs::relative(entry.path(), root()).generic_string(), read_text(entry.path()), {}};
        source.lines = split_lines(source.text);
        found.push_back(std::move(source));
      }
    }
    std::sort(found.begin(), found.end(), [](const Source& a, const Source& b) { return a.path < b.path; });
    return found;
  }();
  return all;
}

bool starts_with_any(const std::string& text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& prefix) { return text.starts_with(prefix); });
}

std::string layer_of(const std::string& path) {
  if (path.starts_with("include/forebay/")) return "include";
  if (!path.starts_with("src/")) return path.substr(0, path.find('/'));
  return path.substr(4, path.find('/', 4) - 4);
}

struct Include {
  std::string name;
  bool quoted = false;
  std::size_t line = 0;
};

std::vector<Include> includes_of(const Source& source) {
  static const std::regex pattern(R"re(^\s*#\s*include\s*([<"])([^>"]+)[>"])re");
  std::vector<Include> found;
  for (std::size_t i = 0; i < source.lines.size(); ++i) {
    std::smatch match;
    if (source.lines[i].find("include") == std::string::npos || !std::regex_search(source.lines[i], match, pattern)) continue;
    found.push_back({match[2], match[1] == "\"", i + 1});
  }
  return found;
}

// Source without comments and with the contents of strings and characters blanked; line breaks stay.
std::string code_of(const std::string& text) {
  std::string out;
  enum class In { code, line, block, string, character } in = In::code;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i], next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (in == In::code && c == 'R' && next == '"') {  // raw string: skip to its end
      const std::size_t open = text.find('(', i);
      if (open != std::string::npos) {
        const std::string end = ")" + text.substr(i + 2, open - i - 2) + "\"";
        const std::size_t stop = std::min(text.find(end, open), text.size() - end.size());
        out += "\"\"";
        for (std::size_t j = i; j < stop; ++j) out += text[j] == '\n' ? "\n" : "";
        i = stop + end.size() - 1;
        continue;
      }
    }
    const auto alphanumeric = [](char letter) { return std::isalnum(static_cast<unsigned char>(letter)) != 0; };
    if (in == In::code && c == '\'' && i > 0 && alphanumeric(text[i - 1]) && alphanumeric(next)) continue;  // 1'000
    switch (in) {
      case In::code:
        if (c == '/' && next == '/') in = In::line;
        else if (c == '/' && next == '*') in = In::block;
        else if (c == '"') in = In::string;
        else if (c == '\'') in = In::character;
        out += in == In::line || in == In::block ? ' ' : c;
        break;
      case In::line:
        if (c == '\n') in = In::code;
        out += c == '\n' ? '\n' : ' ';
        break;
      case In::block:
        if (c == '*' && next == '/') {
          in = In::code;
          ++i;
        }
        out += c == '\n' ? '\n' : ' ';
        break;
      case In::string:
      case In::character:
        if (c == '\\') {
          ++i;
          continue;
        }
        if (c == (in == In::string ? '"' : '\'')) {
          in = In::code;
          out += c;
        } else if (c == '\n') {
          out += c;
        }
        break;
    }
  }
  return out;
}

// ---- include direction ----

TEST(Tidy, IncludesPointOneWay) {
  // layer -> layers it may include.
  const std::map<std::string, std::set<std::string>> allowed{
      {"include", {"include"}},
      {"base", {"base", "include"}},
      {"codec", {"codec", "base", "include"}},
      {"onnx", {"onnx", "base", "include"}},
      {"plan", {"plan", "base", "include"}},
      {"runtime", {"runtime", "plan", "onnx", "codec", "base", "include"}},
      {"stream", {"stream", "runtime", "plan", "codec", "base", "include"}},
      {"refit", {"refit", "stream", "runtime", "plan", "onnx", "codec", "base", "include"}},
      {"builder", {"builder", "runtime", "plan", "onnx", "codec", "base", "include"}},
      {"api", {"api", "builder", "refit", "stream", "runtime", "plan", "onnx", "codec", "base", "include"}},
  };
  for (const Source& source : sources()) {
    const std::string layer = layer_of(source.path);
    const auto rule = allowed.find(layer);
    if (rule == allowed.end()) {
      EXPECT_TRUE(starts_with_any(source.path, {"tools/", "tests/", "bench/", "examples/"})) << source.path << ": folder without a rule";
      continue;
    }
    for (const Include& include : includes_of(source)) {
      std::string target;
      if (include.name.starts_with("forebay/")) target = "include";
      else if (include.quoted && include.name.find('/') != std::string::npos) target = include.name.substr(0, include.name.find('/'));
      else continue;
      if (!allowed.contains(target) && target != "tools" && target != "tests" && target != "bench") continue;  // generated files
      EXPECT_TRUE(rule->second.contains(target)) << source.path << ":" << include.line << " includes " << include.name;
    }
  }
}

TEST(Tidy, ExamplesUseThePublicHeadersOnly) {
  for (const Source& source : sources()) {
    if (!source.path.starts_with("examples/")) continue;
    for (const Include& include : includes_of(source)) {
      EXPECT_TRUE(!include.quoted) << source.path << ":" << include.line << " includes " << include.name;
    }
  }
}

// ---- fences ----

TEST(Tidy, ThirdPartyHeadersStayBehindTheirFences) {
  struct Fence {
    std::vector<std::string> headers, folders;
  };
  const std::vector<Fence> fences{
      {{"liburing"}, {"src/stream/"}},
      {{"zstd"}, {"src/codec/"}},
      {{"xxhash", "xxh3"}, {"src/base/digest"}},
      {{"openssl/"}, {"src/base/digest"}},
      {{"cuda", "cublas", "cudnn"}, {"src/runtime/cuda/"}},
      {{"dnnl", "oneapi/"}, {"src/runtime/cpu/"}},
      {{"google/protobuf", "onnx_wire.pb.h"}, {"src/onnx/", "src/plan/"}},
      {{"boost/json"}, {"src/refit/safetensors", "src/serve/", "tools/"}},
      {{"boost/"}, {"src/refit/safetensors", "src/serve/", "tools/"}},
      {{"spdlog/", "fmt/"}, {"src/serve/", "tools/"}},
  };
  for (const Source& source : sources()) {
    if (source.path.starts_with("tests/") || source.path.starts_with("bench/")) continue;  // they may include anything
    for (const Include& include : includes_of(source)) {
      for (const Fence& fence : fences) {
        if (!starts_with_any(include.name, fence.headers) || include.name.starts_with("forebay/")) continue;
        EXPECT_TRUE(starts_with_any(source.path, fence.folders)) << source.path << ":" << include.line << " includes " << include.name;
      }
    }
  }
}

TEST(Tidy, HeadersHaveAGuardAndSourcesNoTabs) {
  for (const Source& source : sources()) {
    if (source.path.ends_with(".h")) {
      EXPECT_NE(source.text.find("#pragma once"), std::string::npos) << source.path;
    }
    EXPECT_EQ(source.text.find('\t'), std::string::npos) << source.path << " holds a tab";
    EXPECT_TRUE(source.text.empty() || source.text.back() == '\n') << source.path << " ends without a line break";
  }
}

// ---- lengths ----

TEST(Tidy, FilesAndLinesAreNotTooLong) {
  constexpr std::size_t kFileLines = 700, kLineBytes = 190;
  const std::set<std::string> long_files{};  // with a reason each; none is needed
  for (const Source& source : sources()) {
    if (!long_files.contains(source.path)) {
      EXPECT_LE(source.lines.size(), kFileLines) << source.path;
    }
    for (std::size_t i = 0; i < source.lines.size(); ++i) {
      EXPECT_LE(source.lines[i].size(), kLineBytes) << source.path << ":" << i + 1;
    }
  }
}

// Functions by their braces: a '{' that closes a signature at namespace or class level, up to its '}'.
TEST(Tidy, FunctionsAreNotTooLong) {
  constexpr std::size_t kLines = 120;
  for (const Source& source : sources()) {
    if (source.path.starts_with("tests/")) continue;
    const std::vector<std::string> lines = split_lines(code_of(source.text));
    // Formatted code: a function ends with '}' alone at the indentation of the line that starts it.
    for (std::size_t i = 0; i < lines.size(); ++i) {
      static const std::regex head(R"(^( ?| {2})[A-Za-z_~].*\)[^;=]*\{\s*$)");
      if (!std::regex_match(lines[i], head) || lines[i].find("namespace") != std::string::npos) continue;
      static const std::regex not_function(R"(^\s*(class|struct|enum|union|if|for|while|switch|else|do|try|extern)\b)");
      if (std::regex_search(lines[i], not_function)) continue;
      const std::string indent = lines[i].substr(0, lines[i].find_first_not_of(' '));
      std::size_t end = i + 1;
      while (end < lines.size() && lines[end].substr(0, indent.size() + 1) != indent + "}") ++end;
      EXPECT_LE(end - i, kLines) << source.path << ":" << i + 1 << " " << lines[i];
    }
  }
}

// ---- banned calls ----

TEST(Tidy, BannedCalls) {
  struct Ban {
    std::regex pattern;
    std::string name;
    std::vector<std::string> allowed;  // path prefixes
  };
  const std::vector<Ban> bans{
      {std::regex(R"(\b(f|v|vf)?printf\s*\()"), "printf", {"src/base/status.cc", "tests/"}},  // check_failed writes one line before it aborts
      {std::regex(R"(std::c(err|log)\b)"), "std::cerr", {"tests/"}},
      {std::regex(R"(std::cout\b)"), "std::cout", {"tests/", "examples/", "bench/"}},
      {std::regex(R"(\bcudaMalloc|\bcudaDeviceSynchronize)"), "device memory beside the arena, device-wide waits",
       {"tests/", "bench/", "src/runtime/cuda/cudnn_conv.cc"}},  // a caller's; 4 KiB that a library may name and nothing touches
      {std::regex(R"(\b(malloc|calloc|realloc)\s*\()"), "malloc", {"tests/"}},
      {std::regex(R"(\b(system|popen|tmpnam|gets|strcpy|strcat|sprintf)\s*\()"), "unsafe call", {"tests/"}},
      {std::regex(R"(\bmmap\s*\()"), "mmap", {"src/runtime/cpu/cpu_arena.cc", "src/stream/", "tools/raw_read.cc", "tests/"}},  // never of inputs
      {std::regex(R"(\b(std::)?(exit|quick_exit|_Exit)\s*\()"), "exit", {"tests/"}},
      {std::regex(R"(\bthrow\b(?! std::bad_alloc))"), "throw", {"tests/"}},  // no memory is said as operator new says it
  };
  // A bare `new` whose result is not taken by an owner at once.
  const std::regex bare_new(R"((^|[^_A-Za-z0-9])new\s+[A-Za-z_(])");
  const std::regex owned_new(R"((unique_ptr|shared_ptr)\s*<[^;]*new\s|\.reset\s*\(\s*new\s|new\s*\([^)]*\)|operator new|std::nothrow)");
  for (const Source& source : sources()) {
    const std::vector<std::string> lines = split_lines(code_of(source.text));
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string& line = lines[i];
      for (const Ban& ban : bans) {
        if (starts_with_any(source.path, ban.allowed) || !std::regex_search(line, ban.pattern)) continue;
        ADD_FAILURE() << source.path << ":" << i + 1 << " uses " << ban.name << ": " << source.lines[std::min(i, source.lines.size() - 1)];
      }
      if (source.path.starts_with("tests/") || !std::regex_search(line, bare_new) || std::regex_search(line, owned_new)) continue;
      ADD_FAILURE() << source.path << ":" << i + 1 << " has a bare new: " << line;
    }
  }
}

TEST(Tidy, NoUnfinishedMarks) {
  const std::vector<std::string> marks{std::string("TO") + "DO", std::string("FIX") + "ME", std::string("XX") + "X:", std::string("HA") + "CK:"};
  for (const Source& source : sources()) {
    for (std::size_t i = 0; i < source.lines.size(); ++i) {
      for (const std::string& mark : marks) {
        EXPECT_EQ(source.lines[i].find(mark), std::string::npos) << source.path << ":" << i + 1 << " has the mark " << mark;
      }
    }
  }
}

// ---- files and lists ----

TEST(Tidy, FileNamesAreUnique) {
  std::map<std::string, std::string> seen;
  for (const Source& source : sources()) {
    const std::string name = fs::path(source.path).filename().string();
    if (source.path.starts_with("tests/fuzz/")) continue;  // a harness is named after what it drives
    const auto [at, fresh] = seen.emplace(name, source.path);
    EXPECT_TRUE(fresh) << name << " is both " << at->second << " and " << source.path;
  }
}

// The CMake lists above a file, up to the root: one of them must name it.
TEST(Tidy, EverySourceIsInACMakeList) {
  for (const Source& source : sources()) {
    if (!source.path.ends_with(".cc") && !source.path.ends_with(".cu")) continue;
    const std::string name = fs::path(source.path).filename().string();
    bool named = false;
    std::vector<fs::path> lists;
    for (fs::path folder = fs::path(source.path).parent_path(); !folder.empty(); folder = folder.parent_path()) {
      lists.push_back(fs::path(root()) / folder / "CMakeLists.txt");
      for (const auto& entry : fs::directory_iterator(fs::path(root()) / folder)) {
        if (entry.path().extension() == ".cmake") lists.push_back(entry.path());
      }
    }
    if (source.path.starts_with("tests/")) lists.push_back(fs::path(root()) / "tests/tools/CMakeLists.txt");  // this file
    for (const fs::path& list : lists) {
      if (!fs::exists(list)) continue;
      const std::string text = read_text(list);
      std::size_t at = text.find(name);
      while (at != std::string::npos && !named) {
        const bool whole = at == 0 || std::string("/ \n\t(").find(text[at - 1]) != std::string::npos;
        named = whole;
        at = text.find(name, at + 1);
      }
      // Lists of names without an ending, as in foreach(test a b c): the stem counts there.
      const std::string stem = fs::path(source.path).stem().string();
      if (!named && text.find("${") != std::string::npos) named = std::regex_search(text, std::regex("(^|[\\s(])" + stem + "($|[\\s)])"));
    }
    EXPECT_TRUE(named) << source.path << " is in no CMakeLists.txt";
  }
}

}  // namespace
