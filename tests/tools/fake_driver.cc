// A libcuda.so.1 that answers questions about itself and one device as FOREBAY_FAKE_DRIVER says, "VERSION INIT COUNT MAJOR MINOR", and can
// do nothing else: cuInit gives INIT.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

struct Said {
  int version = 0, init = 0, count = 0, major = 0, minor = 0;
  Said() {
    const char* const text = std::getenv("FOREBAY_FAKE_DRIVER");
    if (text != nullptr) static_cast<void>(std::sscanf(text, "%d %d %d %d %d", &version, &init, &count, &major, &minor));
  }
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {
int cuDriverGetVersion(int* version) {
  *version = Said().version;
  return 0;
}
int cuInit(unsigned) {
  return Said().init;
}
int cuDeviceGetCount(int* count) {
  *count = Said().count;
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int bytes, int) {
  std::snprintf(name, static_cast<std::size_t>(bytes), "Fake 9000");
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? Said().major : attribute == 76 ? Said().minor : 0;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
  return 0;
}
int cuGetErrorString(int error, const char** text) {
  *text = error == 803 ? "system has unsupported display driver / cuda driver combination" : nullptr;
  return *text == nullptr ? 1 : 0;
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int) {
  *bytes = std::size_t{1} << 34;
  return 0;
}
}
