#include "forebay/version.h"

namespace forebay {

int version() { return FOREBAY_VERSION; }

std::string version_string() {
  return std::to_string(FOREBAY_VERSION_MAJOR) + "." + std::to_string(FOREBAY_VERSION_MINOR) + "." + std::to_string(FOREBAY_VERSION_PATCH);
}

Status check_version(int header_version) {
  if (header_version / 1000 == FOREBAY_VERSION / 1000) return {};
  return Status(Code::failed_precondition, "the headers are of forebay " + std::to_string(header_version / 1000000) + "." +
                                               std::to_string(header_version / 1000 % 1000) + ", the library that runs is " + version_string() +
                                               "; compile and link against one version");
}

}  // namespace forebay
