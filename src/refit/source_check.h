// Which source tensor serves which source of a plan, and whether it fits. Shared by check, bind, pack and embed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "refit/catalog.h"
#include "refit/refit.h"
#include "refit/source_view.h"

namespace forebay::refit {

struct ResolvedSource {
  const SourceTensor* tensor = nullptr;            // borrowed from the catalog, or `by_default`
  std::shared_ptr<const SourceTensor> by_default;  // the value that the plan keeps for what no source names
  std::string name;                      // in the catalog: the plan's, or what the map says
  bool transpose = false;
  bool fits = false;                     // there, with the dtype and shape of the plan
  bool for_weight = false, for_constant = false;  // who uses it
  SourceView view() const { return SourceView(*tensor, transpose); }
};

// One per Plan::sources.
std::vector<ResolvedSource> resolve_sources(const plan::Plan& plan, const Catalog& catalog, const NameMap& map);

// All problems at once into `report`; those that refuse make the Status. `digest[i]`: the SHA-256 of source i is computed and compared now.
Status check_sources(const plan::Plan& plan, const Catalog& catalog, const Options& options, const std::vector<ResolvedSource>& sources,
                     const std::vector<bool>& digest, Report* report);

// One Status for a list of problems: the first 20 and the count in the message, all of them in the list.
Status weights_refused(std::vector<Problem> problems);

}  // namespace forebay::refit
