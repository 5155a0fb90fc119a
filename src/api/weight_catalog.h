// Public weight sources to the refit layer's catalog and options.
#pragma once

#include <memory>

#include "forebay/refitter.h"
#include "refit/catalog.h"
#include "refit/refit.h"

namespace forebay::api {

struct OpenedSources {
  std::shared_ptr<const refit::Catalog> catalog;
  refit::Options options;  // map, strict, finite, allow_inexact
};
// Opens files, copies tensors in memory (so the caller's may go away). invalid_argument when both are given or none.
Result<OpenedSources> open_sources(const WeightSources& sources, Logger& logger);

void copy_report(const refit::Report& from, RefitReport* to);
int compute_threads(int asked);

}  // namespace forebay::api
