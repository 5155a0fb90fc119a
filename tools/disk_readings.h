// Raw readings of the disk around the passes of a row: the limit that the row stands beside. A disk gives another rate in another minute,
// so the readings lie between the passes, go on through the files where the last one ended, and their median counts.
#pragma once

#include <boost/json.hpp>
#include <memory>
#include <vector>

#include "base/file.h"
#include "raw_read.h"

namespace forebay::tools {

class DiskReadings {
 public:
  static constexpr double kSteady = 0.15;  // readings that differ by more are no limit to compare a pass with

  DiskReadings(const std::vector<std::unique_ptr<File>>& files, bool allow_uring) : files_(files) { options_.allow_uring = allow_uring; }
  // Reads for so long and keeps the rate.
  Status take(double seconds);
  void clear() { gbps_.clear(); }
  const std::vector<double>& gbps() const { return gbps_; }
  const RawReadResult& last() const { return last_; }

 private:
  const std::vector<std::unique_ptr<File>>& files_;
  RawReadOptions options_;
  RawReadResult last_;
  std::vector<double> gbps_;
};

// Of readings of one row: their median, and how far the lowest and the highest are apart, in parts of it.
struct DiskLimit {
  double median = 0, low = 0, high = 0;
  double spread() const { return median > 0 ? (high - low) / median : 0; }
  bool steady() const { return spread() <= DiskReadings::kSteady; }
};
DiskLimit disk_limit(std::vector<double> gbps);
// Passes whose rates lie between readings, each over the mean of the two beside it: their median. A disk that drifts meanwhile moves it
// little. There is one reading more than there are rates.
double disk_share(const std::vector<double>& rates, const std::vector<double>& readings);
boost::json::object disk_limit_json(const std::vector<double>& gbps);  // {median, min, max, spread, steady, readings}

}  // namespace forebay::tools
