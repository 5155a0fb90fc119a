// The option table names the verbs' functions; its own tests do not run them.
#include "verbs.h"

namespace forebay::tools {

Status run_build(Session&) { return {}; }
Status run_pack(Session&) { return {}; }
Status run_refit(Session&) { return {}; }
Status run_run(Session&) { return {}; }
Status run_bench(Session&) { return {}; }
Status run_compare(Session&) { return {}; }
Status run_conformance(Session&) { return {}; }
Status run_verify(Session&) { return {}; }
Status run_inspect(Session&) { return {}; }
Status run_estimate(Session&) { return {}; }
Status run_check(Session&) { return {}; }
Status run_synth(Session&) { return {}; }
Status run_doctor(Session&) { return {}; }
Status run_demo(Session&) { return {}; }

}  // namespace forebay::tools
