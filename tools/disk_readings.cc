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

double disk_share(const std::vector<double>& rates, const std::vector<double>& readings) {
  std::vector<double> shares;
  for (std::size_t i = 0; i < rates.size() && i + 1 < readings.size(); ++i) {
    if (const double beside = readings[i] + readings[i + 1]; beside > 0) shares.push_back(2 * rates[i] / beside);
  }
  return disk_limit(std::move(shares)).median;
}

boost::json::object disk_limit_json(const std::vector<double>& gbps) {
  const DiskLimit limit = disk_limit(gbps);
  boost::json::array readings;
  for (const double value : gbps) readings.push_back(value);
  return {{"median", limit.median},   {"min", limit.low},         {"max", limit.high},
          {"spread", limit.spread()}, {"steady", limit.steady()}, {"readings", std::move(readings)}};
}

}  // namespace forebay::tools
