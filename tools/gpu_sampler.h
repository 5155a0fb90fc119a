// What the GPU does while a row is measured: clocks, power and reasons for lower clocks, through NVML, which comes with the driver and is
// opened when asked for. Without it nothing is sampled, and the answer says why.
#pragma once

#include <atomic>
#include <boost/json.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace forebay::tools {

class GpuSampler {
 public:
  explicit GpuSampler(const std::string& device);  // "cuda" samples; anything else does nothing
  ~GpuSampler();
  GpuSampler(const GpuSampler&) = delete;
  GpuSampler& operator=(const GpuSampler&) = delete;

  bool works() const { return nvml_ != nullptr; }
  void start();
  // {sm_mhz, memory_mhz, watts: {min, mean, max}, celsius, samples, reasons: {NAME: share of the samples}, throttled}; null when nothing
  // was sampled.
  boost::json::value stop();
  // The names of the reasons in a bit mask of NVML's that mean lower clocks than the load asks for.
  static std::vector<std::string> throttle_names(std::uint64_t reasons);

 private:
  struct Nvml;
  struct Sample {
    unsigned sm_mhz = 0, memory_mhz = 0, milliwatts = 0, celsius = 0;
    unsigned long long reasons = 0;
  };
  void sample();
  std::unique_ptr<Nvml> nvml_;
  std::vector<Sample> samples_;
  std::atomic<bool> on_{false};
  std::thread thread_;
};

}  // namespace forebay::tools
