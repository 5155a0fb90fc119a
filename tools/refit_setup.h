// Options shared by the verbs that take weights.
#pragma once

#include "forebay/refitter.h"
#include "refit/refit.h"
#include "session.h"

namespace forebay::tools {

WeightSources weight_sources(const Session& session);  // --weights, --map, --strict, --finite, --allow-inexact
Refitter::Options refitter_options(Session& session);
Result<refit::Options> refit_options(const Session& session);  // the internal form, for verify and estimate
// Warnings and, in a failure's stead, lists of a refit as text.
void print_refit_report(Session& session, const RefitReport& report);

}  // namespace forebay::tools
