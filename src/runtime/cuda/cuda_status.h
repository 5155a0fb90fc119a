// CUDA's errors as statuses, in one place. A sticky error means the device is lost to this process:
// it is remembered, and every later call says so.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "forebay/status.h"

namespace forebay::cuda {

class ErrorKeeper {  // thread-safe; one a device
 public:
  Status check(cudaError_t error, std::string_view doing);
  Status check(CUresult error, std::string_view doing);
  bool lost() const { return lost_.load(std::memory_order_acquire); }

 private:
  Status make(Code code, std::string text, std::string_view doing);

  std::atomic<bool> lost_{false};
  std::mutex mutex_;  // guards first_
  Status first_;
};

// Driver calls that the runtime library has no twin of. Looked up in the driver itself: nothing
// links against it.
struct DriverCalls {
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free_addresses = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuStreamWaitValue32) wait_value = nullptr;  // these are null in a driver without them
  decltype(&cuStreamWriteValue32) write_value = nullptr;
};
Status find_driver_calls(DriverCalls* calls);
void* driver_call(const char* name);  // null in a driver without it
template <typename F>
bool find_driver_call(const char* name, F* function) {
  *function = reinterpret_cast<F>(driver_call(name));
  return *function != nullptr;
}

struct LtLists;

// Shared by everything of a device: arenas and queues may outlive it by a moment of teardown.
struct CudaState {
  // Opened, a device is known; started, which takes a third of a second, it has a context. Called wherever something is first wanted of it:
  // a build whose times are all known never does. The calling thread's device is this one afterwards.
  Status start();
  bool started() const { return started_.load(std::memory_order_acquire); }

  int ordinal = 0;
  int capability = 0;  // compute capability, ten times
  DriverCalls driver;
  ErrorKeeper errors;
  std::shared_ptr<LtLists> lists;  // lt_product.h

 private:
  std::mutex start_mutex_;
  std::atomic<bool> started_{false};
};

}  // namespace forebay::cuda
