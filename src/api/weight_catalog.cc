#include "api/weight_catalog.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "base/checked.h"

namespace forebay::api {

Result<OpenedSources> open_sources(const WeightSources& sources, Logger& logger) {
  OpenedSources opened;
  opened.options.strict = sources.strict;
  opened.options.finite = sources.finite;
  opened.options.allow_inexact = sources.allow_inexact;
  if (!sources.map_file.empty()) {
    FB_ASSIGN(opened.options.map, refit::NameMap::read(posix_file_system(), sources.map_file));
  }
  if (!sources.paths.empty() && !sources.tensors.empty()) return Status(Code::invalid_argument, "give weights as files or as tensors in memory, not both");
  if (sources.empty()) return Status(Code::invalid_argument, "no weight sources were given");
  if (!sources.paths.empty()) {
    FB_ASSIGN(opened.catalog, refit::Catalog::open(posix_file_system(), sources.paths, logger));
    return opened;
  }
  std::vector<SourceTensor> tensors;
  for (const MemoryWeight& weight : sources.tensors) {
    const auto bytes = checked_bytes(weight.tensor.dtype, weight.tensor.shape.dims());
    if (!bytes || (*bytes > 0 && weight.tensor.data == nullptr)) {
      return Status(Code::invalid_argument, "the tensor '" + weight.name + "' has no data or an impossible shape");
    }
    auto copy = std::make_shared<HostTensor>(weight.tensor.dtype, weight.tensor.shape);
    if (*bytes > 0) std::memcpy(copy->data(), weight.tensor.data, *bytes);
    SourceTensor tensor;
    tensor.name = weight.name;
    tensor.dtype = weight.tensor.dtype;
    tensor.shape = weight.tensor.shape;
    tensor.stored_bytes = *bytes;
    tensor.memory = std::move(copy);
    tensors.push_back(std::move(tensor));
  }
  opened.catalog = refit::Catalog::from_memory(std::move(tensors));
  return opened;
}

void copy_report(const refit::Report& from, RefitReport* to) {
  if (to == nullptr) return;
  to->missing = from.missing;
  to->extra = from.extra;
  to->mismatched = from.mismatched;
  to->warnings = from.warnings;
}

int compute_threads(int asked) {
  if (asked > 0) return asked;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace forebay::api
