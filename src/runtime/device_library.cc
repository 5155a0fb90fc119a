#include "runtime/device_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/check.h"

namespace forebay {
namespace {

constexpr const char* kVersion = FOREBAY_VERSION_TEXT;

std::string program_folder() {
  std::array<char, 4096> path{};
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  if (length <= 0) return {};
  const std::string text(path.data(), static_cast<std::size_t>(length));
  return text.substr(0, text.rfind('/'));
}

std::vector<std::string> places(const std::string& kind) {
  std::string variable = "FOREBAY_" + kind + "_LIBRARY";
  for (char& c : variable) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (const char* given = std::getenv(variable.c_str()); given != nullptr && *given != '\0')
    return {given};
  const std::string name = "libforebay_" + kind + ".so", folder = program_folder();
  std::vector<std::string> found;
  if (!folder.empty()) {
    found.push_back(folder + "/" + name);
    found.push_back(folder + "/../lib/forebay-" + std::string(kVersion) + "/" + name);
    found.push_back(folder + "/../src/runtime/cuda/" + name);  // the build tree
  }
  found.push_back(name);
  return found;
}

constexpr const char* kCpuWorks = "the CPU device works everywhere (--device cpu)";

Status refused_library(std::string why) {
  return std::move(Status(Code::unavailable, std::move(why))
                       .with_hint("build it with a CUDA toolkit (cmake --build build/release --target forebay_cuda), or name it in "
                                  "FOREBAY_CUDA_LIBRARY; " +
                                  std::string(kCpuWorks)));
}

}  // namespace

std::string device_library_build() {
  return std::string(kVersion) + " " FOREBAY_DEVICE_ABI;
}

Status check_device(const std::string& kind) {
  if (kind == "cpu" || kind == "cuda") return {};
  Status refused(Code::invalid_argument, "there is no device '" + kind + "': it is cpu or cuda");
  if (!kind.starts_with("cuda")) return refused;
  return std::move(refused).with_hint("CUDA_VISIBLE_DEVICES chooses among several GPUs: cuda is the first that it shows");
}

Result<std::unique_ptr<Device>> load_device(const std::string& kind) {
  FB_TRY(check_device(kind));
  std::string absent;
  for (const std::string& place : places(kind)) {
    void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* text = dlerror();
      const std::string why = text != nullptr ? text : "no reason given";
      if (why != place + ": cannot open shared object file: No such file or directory")
        return refused_library(place + " cannot be loaded: " + why);
      absent += (absent.empty() ? "" : ", ") + (place.find('/') == std::string::npos ? "the system's library paths" : place);
      continue;
    }
    const auto entry = reinterpret_cast<DeviceLibraryEntry>(dlsym(library, "forebay_open_device"));
    if (entry == nullptr) return refused_library(place + " is not a device library of forebay");
    const std::string build = device_library_build();
    DeviceLibraryCall call;
    call.build = build.c_str();
    entry(&call);
    if (!call.status.ok()) return std::move(call.status).with_hint(kCpuWorks);
    return std::move(call.device);
  }
  return refused_library("the device '" + kind + "' needs libforebay_" + kind + ".so, which is not there: looked for " + absent);
}

}  // namespace forebay
