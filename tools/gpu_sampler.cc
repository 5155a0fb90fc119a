#include "gpu_sampler.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>

namespace forebay::tools {
namespace {

constexpr auto kInterval = std::chrono::milliseconds(10);

struct Reason {
  std::uint64_t bit;
  const char* name;
};
// nvmlClocksEventReason*: idle, application clocks, sync boost and display clocks are no throttling.
constexpr std::array<Reason, 5> kReasons{{{0x4, "software_power_cap"},
                                          {0x8, "hardware_slowdown"},
                                          {0x20, "software_thermal"},
                                          {0x40, "hardware_thermal"},
                                          {0x80, "hardware_power_brake"}}};

}  // namespace

// The few calls of NVML and of the driver that are used, by their documented signatures.
struct GpuSampler::Nvml {
  using Handle = void*;
  int (*clock)(Handle, int, unsigned*) = nullptr;
  int (*power)(Handle, unsigned*) = nullptr;
  int (*temperature)(Handle, int, unsigned*) = nullptr;
  int (*reasons)(Handle, unsigned long long*) = nullptr;
  int (*shutdown)() = nullptr;
  void* library = nullptr;
  Handle device = nullptr;

  ~Nvml() {
    if (shutdown != nullptr) shutdown();
    if (library != nullptr) dlclose(library);
  }
  template <typename F>
  bool find(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library, name));
    return function != nullptr;
  }
  // The device that CUDA calls 0 (CUDA_VISIBLE_DEVICES may make it another one than NVML's).
  static std::string bus_of_first_device() {
    std::array<char, 32> bus{};
    void* cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (cuda == nullptr) return {};
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(cuda, "cuInit"));
    const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(cuda, "cuDeviceGet"));
    const auto name = reinterpret_cast<int (*)(char*, int, int)>(dlsym(cuda, "cuDeviceGetPCIBusId"));
    int device = 0;
    const bool found = init != nullptr && get != nullptr && name != nullptr && init(0) == 0 && get(&device, 0) == 0 &&
                       name(bus.data(), static_cast<int>(bus.size()) - 1, device) == 0;
    return found ? bus.data() : "";  // the driver stays loaded: the device uses it
  }
  bool open() {
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return false;
    int (*init)() = nullptr;
    int (*by_bus)(const char*, Handle*) = nullptr;
    if (!find(init, "nvmlInit_v2") || !find(by_bus, "nvmlDeviceGetHandleByPciBusId_v2") || !find(clock, "nvmlDeviceGetClockInfo") ||
        !find(power, "nvmlDeviceGetPowerUsage") || !find(temperature, "nvmlDeviceGetTemperature") ||
        !find(reasons, "nvmlDeviceGetCurrentClocksThrottleReasons")) {
      return false;
    }
    if (init() != 0) return false;
    find(shutdown, "nvmlShutdown");
    const std::string bus = bus_of_first_device();
    return !bus.empty() && by_bus(bus.c_str(), &device) == 0;
  }
};

GpuSampler::GpuSampler(const std::string& device) {
  if (device != "cuda") return;
  auto nvml = std::make_unique<Nvml>();
  if (nvml->open()) nvml_ = std::move(nvml);
}

GpuSampler::~GpuSampler() {
  on_ = false;
  if (thread_.joinable()) thread_.join();
}

void GpuSampler::sample() {
  while (on_) {
    Sample one;
    constexpr int kSm = 1, kMemory = 2, kCore = 0;  // NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU
    // A reading that this driver does not offer stays 0.
    nvml_->clock(nvml_->device, kSm, &one.sm_mhz);
    nvml_->clock(nvml_->device, kMemory, &one.memory_mhz);
    nvml_->power(nvml_->device, &one.milliwatts);
    nvml_->temperature(nvml_->device, kCore, &one.celsius);
    nvml_->reasons(nvml_->device, &one.reasons);
    samples_.push_back(one);
    std::this_thread::sleep_for(kInterval);
  }
}

void GpuSampler::start() {
  if (nvml_ == nullptr || on_) return;
  samples_.clear();
  on_ = true;
  thread_ = std::thread([this] { sample(); });
}

std::vector<std::string> GpuSampler::throttle_names(std::uint64_t reasons) {
  std::vector<std::string> names;
  for (const Reason& reason : kReasons) {
    if ((reasons & reason.bit) != 0) names.emplace_back(reason.name);
  }
  return names;
}

boost::json::value GpuSampler::stop() {
  namespace json = boost::json;
  on_ = false;
  if (thread_.joinable()) thread_.join();
  if (samples_.empty()) return nullptr;
  const auto spread = [&](auto field, double scale) {
    double least = field(samples_.front()), most = least, sum = 0;
    for (const Sample& sample : samples_) {
      const double value = field(sample);
      least = std::min(least, value);
      most = std::max(most, value);
      sum += value;
    }
    return json::object{{"min", least * scale}, {"mean", sum / static_cast<double>(samples_.size()) * scale}, {"max", most * scale}};
  };
  std::map<std::string, double> shares;
  for (const Sample& sample : samples_) {
    for (const std::string& name : throttle_names(sample.reasons)) shares[name] += 1.0 / static_cast<double>(samples_.size());
  }
  json::object reasons;
  for (const auto& [name, share] : shares) reasons[name] = share;
  return json::object{{"sm_mhz", spread([](const Sample& s) { return static_cast<double>(s.sm_mhz); }, 1)},
                      {"memory_mhz", spread([](const Sample& s) { return static_cast<double>(s.memory_mhz); }, 1)},
                      {"watts", spread([](const Sample& s) { return static_cast<double>(s.milliwatts); }, 1e-3)},
                      {"celsius", spread([](const Sample& s) { return static_cast<double>(s.celsius); }, 1)},
                      {"samples", samples_.size()},
                      {"throttled", !shares.empty()},
                      {"reasons", std::move(reasons)}};
}

}  // namespace forebay::tools
