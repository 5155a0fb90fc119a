// Runs cases one after another in a child process: a crash is one wrong case, and a device is started once, not once a case. Behind a case
// that did not pass comes another child: a device that is lost, or a heap that is not what it was, spoils nobody else's answer.
#pragma once

#include <sys/types.h>

#include <span>

#include "conformance_case.h"

namespace forebay::tools {

class CaseWorker {
 public:
  // No thread may run in this process. `cases` and `options` must live as long.
  CaseWorker(std::span<const ConformanceCase> cases, const CaseOptions& options) : cases_(cases), options_(options) {}
  ~CaseWorker() { end(false); }
  CaseWorker(const CaseWorker&) = delete;
  CaseWorker& operator=(const CaseWorker&) = delete;
  CaseResult run(std::size_t index);

 private:
  bool begin();
  int end(bool kill);  // the exit status of waitpid
  void serve(int orders, int answers) const;

  const std::span<const ConformanceCase> cases_;
  const CaseOptions& options_;
  pid_t child_ = -1;
  int orders_ = -1, answers_ = -1;  // pipes to and from the child
};

}  // namespace forebay::tools
