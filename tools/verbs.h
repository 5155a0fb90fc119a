// Every verb of the command, one file each: verb_NAME.cc. A verb fills Session::result (the JSON object), prints text when the user did not
// ask for JSON, and returns the Status that the exit code comes from.
#pragma once

#include "forebay/status.h"

namespace forebay::tools {

class Session;

Status run_build(Session& session);
Status run_pack(Session& session);
Status run_refit(Session& session);
Status run_run(Session& session);
Status run_bench(Session& session);
Status run_compare(Session& session);
Status run_conformance(Session& session);
Status run_verify(Session& session);
Status run_inspect(Session& session);
Status run_estimate(Session& session);
Status run_check(Session& session);
Status run_synth(Session& session);
Status run_doctor(Session& session);
Status run_demo(Session& session);

}  // namespace forebay::tools
