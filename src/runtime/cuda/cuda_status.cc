#include "runtime/cuda/cuda_status.h"

#include <utility>

#include "runtime/cuda/kernel_loading.h"

namespace forebay::cuda {
namespace {

// After these nothing runs in this process any more.
bool sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
      return true;
    default:
      return false;
  }
}

Code code_of(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return Code::out_of_memory;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorSystemNotReady:
    case cudaErrorDevicesUnavailable:  // another process has it for itself
      return Code::unavailable;
    default:
      return sticky(error) ? Code::device_lost : Code::internal;
  }
}

const char* next_step(Code code) {
  switch (code) {
    case Code::out_of_memory:
      return "other processes may hold the device's memory (nvidia-smi lists them); a smaller budget needs less";
    case Code::device_lost:
      return "nothing runs on the device in this process any more: start it again, with --debug-sync for the name of the node and its kernel";
    case Code::unavailable:
      return "forebay doctor says what device, driver and build there are; the CPU device works everywhere (--device cpu)";
    default:
      return "";
  }
}

}  // namespace

Status ErrorKeeper::make(Code code, std::string text, std::string_view doing) {
  Status status = Status(code, std::string(doing) + ": " + text);
  status = std::move(status).with_hint(next_step(code));
  if (code != Code::device_lost) return status;
  const std::lock_guard lock(mutex_);
  if (first_.ok()) first_ = status;
  lost_.store(true, std::memory_order_release);
  return first_;
}

Status ErrorKeeper::check(cudaError_t error, std::string_view doing) {
  if (error == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());
  return make(code_of(error),
              std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error), doing);
}

// Only memory calls go through the driver: what they refuse for is memory, or a lost device.
Status ErrorKeeper::check(CUresult error, std::string_view doing) {
  if (error == CUDA_SUCCESS) return {};
  if (error == CUDA_ERROR_OUT_OF_MEMORY) {
    std::size_t free = 0, total = 0;
    const bool known = cudaMemGetInfo(&free, &total) == cudaSuccess;
    return make(Code::out_of_memory, known ? "the device has " + std::to_string(free) + " bytes free" : "the device has no more memory", doing);
  }
  const bool gone = error == CUDA_ERROR_ILLEGAL_ADDRESS || error == CUDA_ERROR_LAUNCH_FAILED ||
                    error == CUDA_ERROR_ECC_UNCORRECTABLE;
  return make(gone ? Code::device_lost : Code::internal,
              "driver error " + std::to_string(static_cast<int>(error)), doing);
}

Status CudaState::start() {
  const std::lock_guard lock(start_mutex_);
  Status chosen = errors.check(cudaSetDevice(ordinal), "choosing the device");
  if (!chosen.ok() || started()) return chosen;
  Status made = errors.check(cudaFree(nullptr), "starting the device");  // makes the context
  if (made.ok()) {
    const cudaError_t loaded = load_all_kernels();
    made = errors.check(loaded, loaded == cudaErrorNoKernelImageForDevice ? "libforebay_cuda.so was built for other GPUs (CMAKE_CUDA_ARCHITECTURES)"
                                                                          : "loading kernels");
  }
  if (made.ok()) made = find_driver_calls(&driver);
  started_.store(made.ok(), std::memory_order_release);
  return made;
}

void* driver_call(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
  return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? found : nullptr;
}

Status find_driver_calls(DriverCalls* calls) {
  const char* missing = nullptr;
  const auto find = [&](const char* name, auto* function) {
    if (!find_driver_call(name, function)) missing = name;
  };
  find("cuMemAddressReserve", &calls->reserve);
  find("cuMemAddressFree", &calls->free_addresses);
  find("cuMemCreate", &calls->create);
  find("cuMemRelease", &calls->release);
  find("cuMemMap", &calls->map);
  find("cuMemUnmap", &calls->unmap);
  find("cuMemSetAccess", &calls->set_access);
  find("cuMemGetAllocationGranularity", &calls->granularity);
  if (missing != nullptr) return Status(Code::unavailable, "the CUDA driver has no " + std::string(missing));
  find_driver_call("cuStreamWaitValue32", &calls->wait_value);
  find_driver_call("cuStreamWriteValue32", &calls->write_value);
  return {};
}

}  // namespace forebay::cuda
