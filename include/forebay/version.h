// Version of the headers (macros) and of the library (functions).
#pragma once

#include <string>

#include "forebay/status.h"

#define FOREBAY_VERSION_MAJOR 0
#define FOREBAY_VERSION_MINOR 1
#define FOREBAY_VERSION_PATCH 0
#define FOREBAY_VERSION (FOREBAY_VERSION_MAJOR * 1000000 + FOREBAY_VERSION_MINOR * 1000 + FOREBAY_VERSION_PATCH)

namespace forebay {

int version();                // of the library that runs
std::string version_string(); // "0.1.0"
// failed_precondition when the library's major or minor version differs from the headers the caller was compiled with.
Status check_version(int header_version = FOREBAY_VERSION);

}  // namespace forebay
