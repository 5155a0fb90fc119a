#include "disk_readings.h"

#include <algorithm>

#include "base/check.h"

namespace forebay::tools {

Status DiskReadings::take(double seconds) {
  options_.seconds = seconds;
  FB_ASSIGN(last_, raw_read(files_, options_));
  options_.first_block = last_.next_block;
  if (last_.gbps > 0) gbps_.push_back(last_.gbps);
  return {};
}

DiskLimit disk_limit(std::vector<double> gbps) {
  if (gbps.empty()) return {};
  std::sort(gbps.begin(), gbps.end());
  const std::size_t half = gbps.size() / 2;
  return {gbps.size() % 2 == 1 ? gbps[half] : (gbps[half - 1] + gbps[half]) / 2, gbps.front(), gbps.back()};
}

boost::json::object disk_limit_json(const std::vector<double>& gbps) {
  const DiskLimit limit = disk_limit(gbps);
  boost::json::array readings;
  for (const double value : gbps) readings.push_back(value);
  return {{"median", limit.median},   {"min", limit.low},         {"max", limit.high},
          {"spread", limit.spread()}, {"steady", limit.steady()}, {"readings", std::move(readings)}};
}

}  // namespace forebay::tools
