// The driver is asked itself: the CUDA runtime in this library would have no words of its own for a driver that lacks what it wants.
#include "runtime/cuda/cuda_facts.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <utility>

#include "base/check.h"

namespace forebay::cuda {
namespace {

std::string dotted(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Status refused(std::string why, const std::string& next) {
  return std::move(Status(Code::unavailable, std::move(why)).with_hint(next + "; the CPU device works everywhere (--device cpu)"));
}

template <typename F>
bool look_up(void* library, const char* symbol, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, symbol));
  return *function != nullptr;
}

struct Driver {
  decltype(&cuDriverGetVersion) version = nullptr;
  decltype(&cuInit) init = nullptr;
  decltype(&cuDeviceGetCount) count = nullptr;
  decltype(&cuDeviceGet) get = nullptr;
  decltype(&cuDeviceGetName) name = nullptr;
  decltype(&cuDeviceGetAttribute) attribute = nullptr;
  decltype(&cuDeviceTotalMem) memory = nullptr;
  decltype(&cuGetErrorString) words = nullptr;

  Status find() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // stays
    if (library == nullptr)
      return refused("no NVIDIA driver is there (libcuda.so.1)",
                     "install it; in a container, give the container the GPU (docker run --gpus all)");
    const bool all = look_up(library, "cuDriverGetVersion", &version) && look_up(library, "cuInit", &init) &&
                     look_up(library, "cuDeviceGetCount", &count) && look_up(library, "cuDeviceGet", &get) &&
                     look_up(library, "cuDeviceGetName", &name) && look_up(library, "cuDeviceGetAttribute", &attribute) &&
                     look_up(library, "cuDeviceTotalMem_v2", &memory) && look_up(library, "cuGetErrorString", &words);
    return all ? Status() : refused("libcuda.so.1 is no NVIDIA driver that this build knows", "update the driver");
  }
  Status failed(CUresult error, const std::string& doing) const {
    const char* text = nullptr;
    if (words(error, &text) != CUDA_SUCCESS || text == nullptr) text = "an error without a name";
    return refused("the NVIDIA driver does not work: " + doing + ", error " + std::to_string(static_cast<int>(error)) + " (" + text + ")",
                   "nvidia-smi should work here, too, and name the same driver");
  }
};

// NVML is asked for nothing but what a device is: it answers in 16 ms where starting the driver takes 190. Its prototypes, since its header
// is not always there; each call gives 0 when it went well.
struct Nvml {
  int (*init)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*get)(unsigned, void**) = nullptr;
  int (*name)(void*, char*, unsigned) = nullptr;
  int (*capability)(void*, int*, int*) = nullptr;
  int (*mig)(void*, unsigned*, unsigned*) = nullptr;
  int (*memory)(void*, unsigned long long*) = nullptr;  // total, free, used bytes

  bool open() {
    void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);  // stays, and so does its state
    return library != nullptr && look_up(library, "nvmlInit_v2", &init) && look_up(library, "nvmlDeviceGetCount_v2", &count) &&
           look_up(library, "nvmlDeviceGetHandleByIndex_v2", &get) && look_up(library, "nvmlDeviceGetName", &name) &&
           look_up(library, "nvmlDeviceGetCudaComputeCapability", &capability) && look_up(library, "nvmlDeviceGetMigMode", &mig) &&
           look_up(library, "nvmlDeviceGetMemoryInfo", &memory) && init() == 0;
  }
};

// None where NVML cannot tell which device CUDA would show: some are hidden, divided, or not all alike.
std::optional<DeviceFacts> facts_without_driver() {
  Nvml nvml;
  unsigned count = 0;
  if (std::getenv("CUDA_VISIBLE_DEVICES") != nullptr || !nvml.open() || nvml.count(&count) != 0) return std::nullopt;
  std::optional<DeviceFacts> all;
  for (unsigned i = 0; i < count; ++i) {
    void* device = nullptr;
    std::array<char, 256> name{};
    int major = 0, minor = 0;
    unsigned divided = 0, later = 0;
    std::array<unsigned long long, 3> bytes{};
    if (nvml.get(i, &device) != 0 || nvml.name(device, name.data(), static_cast<unsigned>(name.size()) - 1) != 0 ||
        nvml.capability(device, &major, &minor) != 0 || nvml.memory(device, bytes.data()) != 0 ||
        (nvml.mig(device, &divided, &later) == 0 && divided != 0))
      return std::nullopt;
    const DeviceFacts one{name.data(), major * 10 + minor, bytes[0]};
    if (all && (all->name != one.name || all->capability != one.capability || all->total_bytes != one.total_bytes)) return std::nullopt;
    all = one;
  }
  return all;
}

Result<DeviceFacts> not_older(DeviceFacts facts, int oldest) {
  const auto dots = [](int capability) { return std::to_string(capability / 10) + "." + std::to_string(capability % 10); };
  if (facts.capability >= oldest) return facts;
  const std::string own = std::to_string(facts.capability);
  return refused(facts.name + " has compute capability " + dots(facts.capability) + ", this build needs " + dots(oldest) + " or newer",
                 facts.capability >= 80 ? "build forebay with -DCMAKE_CUDA_ARCHITECTURES=" + own : "forebay's kernels need 8.0 or newer");
}

}  // namespace

Result<DeviceFacts> device_facts(int ordinal, int oldest) {
  Driver driver;
  FB_TRY(driver.find());
  int has = 0;
  if (const CUresult error = driver.version(&has); error != CUDA_SUCCESS) return driver.failed(error, "asking for its version");
  // A driver serves every runtime of its major version.
  if (has / 1000 < CUDART_VERSION / 1000) {
    return refused(
        "the NVIDIA driver supports CUDA " + dotted(has) + ", this build needs " + std::to_string(CUDART_VERSION / 1000) + ".0 or newer",
        "update the driver, or build forebay with a CUDA toolkit of the driver's major version");
  }
  int count = 0;
  if (driver.count(&count) == CUDA_ERROR_NOT_INITIALIZED) {
    if (std::optional<DeviceFacts> known = facts_without_driver()) return not_older(std::move(*known), oldest);
  }
  const CUresult started = driver.init(0);
  if (started != CUDA_SUCCESS && started != CUDA_ERROR_NO_DEVICE) return driver.failed(started, "starting it");
  if (started == CUDA_SUCCESS) {
    if (const CUresult error = driver.count(&count); error != CUDA_SUCCESS) return driver.failed(error, "counting devices");
  }
  if (count == 0) return refused("the CUDA driver shows no device", "nvidia-smi -L lists what is there; CUDA_VISIBLE_DEVICES may hide it");
  CUdevice device = 0;
  std::array<char, 256> name{};
  int major = 0, minor = 0;
  std::size_t bytes = 0;
  for (const CUresult error :
       {driver.get(&device, ordinal), driver.name(name.data(), static_cast<int>(name.size()) - 1, device),
        driver.attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
        driver.attribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device), driver.memory(&bytes, device)}) {
    if (error != CUDA_SUCCESS) return driver.failed(error, "asking what the device is");
  }
  return not_older({name.data(), major * 10 + minor, bytes}, oldest);
}

}  // namespace forebay::cuda
