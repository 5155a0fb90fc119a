// Devices that live in a library of their own, loaded when asked for: the program starts and runs
// without driver, GPU or library.
#pragma once

#include <memory>
#include <string>

#include "runtime/device.h"

namespace forebay {

// The library and the program pass C++ objects to each other: both must be of one build.
struct DeviceLibraryCall {
  const char* build = nullptr;  // of the program
  std::unique_ptr<Device> device;
  Status status;
};
using DeviceLibraryEntry = void (*)(DeviceLibraryCall* call);

// invalid_argument for a name that is no device's.
Status check_device(const std::string& kind);

// Loads libforebay_<kind>.so: from FOREBAY_<KIND>_LIBRARY, beside the program, from its library
// folder, or from where the loader looks. unavailable, with the reason of each, when there is none,
// or when it finds no device it can use. A library once loaded stays.
Result<std::unique_ptr<Device>> load_device(const std::string& kind);
std::string device_library_build();  // what both sides compare

}  // namespace forebay
