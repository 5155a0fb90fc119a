#include "runtime/cuda/hardware_queues.h"

#include <cuda.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

namespace forebay::cuda {
namespace {

constexpr const char* kVariable = "CUDA_DEVICE_MAX_CONNECTIONS";
constexpr int kMost = 32, kUnasked = 8;

bool driver_started() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (library == nullptr) return false;
  const auto count = reinterpret_cast<decltype(&cuDeviceGetCount)>(dlsym(library, "cuDeviceGetCount"));
  int devices = 0;
  const bool started = count != nullptr && count(&devices) != CUDA_ERROR_NOT_INITIALIZED;
  dlclose(library);
  return started;
}

}  // namespace

void ask_for_hardware_queues() {
  setenv(kVariable, driver_started() ? "8" : "32", 0);
}

int hardware_queues() {
  const char* const asked = std::getenv(kVariable);
  return asked == nullptr ? kUnasked : std::clamp(std::atoi(asked), 1, kMost);
}

}  // namespace forebay::cuda
