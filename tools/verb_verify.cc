// forebay verify: every digest of a plan and of the weights it would run with.
#include "base/check.h"
#include "forebay/plan.h"
#include "json_out.h"
#include "plan/plan_io.h"
#include "refit/shard_reader.h"
#include "refit_setup.h"
#include "verbs.h"

namespace forebay::tools {

Status run_verify(Session& session) {
  FileSystem& fs = posix_file_system();
  FB_ASSIGN(const auto plan, plan::read_plan(fs, session.operand(), nullptr));
  session.result["plan"] = session.operand();
  session.result["plan_id"] = to_hex(plan->id);
  session.print("{}: structure and section digests hold, plan id {}\n", session.operand(), to_hex(plan->id));
  const std::vector<std::string> sources = session.options.list("weights");
  FB_ASSIGN(refit::Options options, refit_options(session));
  options.progress = session.console.progress();
  std::uint64_t bytes = 0;
  if (!plan->stripped() && !plan->chunks.empty()) {
    FB_ASSIGN(const auto generation, refit::bind_embedded(fs, plan, session.operand(), DirectIo::off, 1));
    FB_TRY(refit::verify(fs, *generation, options, &bytes));
    session.result["embedded_bytes"] = bytes;
    session.print("embedded weights: {} verified\n", format_size(bytes));
  } else if (sources.empty()) {
    session.print("the plan holds no weights; --weights SRC... verifies those too\n");
  }
  if (!sources.empty()) {
    ThreadPool pool(static_cast<int>(std::max<std::int64_t>(1, session.options.integer("threads"))));
    FB_ASSIGN(const auto catalog, refit::Catalog::open(fs, sources, session.console));
    refit::Report report;
    FB_TRY(refit::check(*plan, *catalog, options, true, &report));
    FB_ASSIGN(const auto generation, refit::bind(fs, plan, catalog, options, 1, pool, session.console, &report));
    FB_TRY(refit::verify(fs, *generation, options, &bytes));
    if (catalog->shards() != nullptr) FB_TRY(catalog->shards()->check_padding());
    session.result["weights_bytes"] = bytes;
    session.result["integrity"] = generation->binding.integrity;
    session.print("weights: {} read and verified ({})\n", format_size(bytes), generation->binding.integrity);
  }
  return {};
}

}  // namespace forebay::tools
