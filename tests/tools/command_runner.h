// Runs the built command in a process of its own.
#pragma once

#include <boost/json.hpp>
#include <map>
#include <string>
#include <vector>

namespace forebay::tools_test {

struct CommandResult {
  int exit = -1;  // 128 + signal when it was killed
  std::string out, err;
  boost::json::object json() const;  // of stdout; fails the test when it is not one object
};
struct CommandOptions {
  std::string program;                             // empty: the forebay that was built
  std::map<std::string, std::string> environment;  // added
  int signal_after_ms = -1;                        // then SIGINT
};
CommandResult run_command(const std::vector<std::string>& arguments, const CommandOptions& options = {});

// A folder below the system's temporary one, removed with its object.
class WorkFolder {
 public:
  WorkFolder();
  ~WorkFolder();
  std::string path(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  std::vector<std::string> names() const;  // everything inside, recursively

 private:
  std::string path_;
};

}  // namespace forebay::tools_test
