// Times of kernels, by device, problem and way: a text file that people read and edit, a line a way:
//
//   NVIDIA H200; sm=90; ... | product m=512 ... | cuda.cublaslt | algo=66 ... | 12.345
//
// The last field is microseconds, or "failed": never chosen. A line taken out is measured again. A line with the kernel "*" counts the
// lines of a problem and names the heuristics' choice: while they are all there nobody needs to ask the device how the work can be done.
// The same lines without the device are what plans record, the heuristics' choice first. Lines that begin with # are comments, which a
// rewrite drops but for the first.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/file.h"
#include "runtime/choosing_kernel.h"

namespace forebay {

struct TimedWay {
  KernelWay way;
  double microseconds = -1;  // below 0: it failed
};
double rounded_time(double microseconds);  // as it is written

class TimingCache {
 public:
  // A file that is not there is an empty cache. invalid_argument naming file and line for what is no line of it.
  static Result<TimingCache> read(FileSystem& fs, const std::string& path);
  static Result<TimingCache> parse(std::string_view text, const std::string& name);
  std::string text() const;  // sorted: the same times give the same bytes
  Status write(FileSystem& fs, const std::string& path) const;

  std::optional<double> find(const std::string& device, const std::string& problem, const KernelWay& way) const;
  void put(const std::string& device, const std::string& problem, const TimedWay& timed);
  // Every way of a problem, the heuristics' first, when all were timed (`all_timed`) and no line has been taken out since.
  std::optional<std::vector<TimedWay>> find_all(const std::string& device, const std::string& problem) const;
  void all_timed(const std::string& device, const std::string& problem, std::size_t ways, const KernelWay& first);
  std::size_t size() const { return times_.size(); }

 private:
  std::map<std::tuple<std::string, std::string, std::string, std::string>, double> times_;
};

// The smallest time wins, the first of equals, if it beats that of the very first way, the heuristics', by more than a launch by itself can
// tell of one in a pass; null when none served.
const TimedWay* best_way(std::span<const TimedWay> ways);

// Lines of a plan's kernel choice: "problem | kernel | config | time".
std::string choice_line(const std::string& problem, const TimedWay& timed);
struct ChoiceLine {
  std::string_view problem;
  TimedWay timed;
};
// Every line of `parameters` that tells a time.
std::vector<ChoiceLine> choice_lines(std::string_view parameters);

}  // namespace forebay
