// forebay pack: weights to shards in execution order.
#include "base/check.h"
#include "json_out.h"
#include "refit_setup.h"
#include "verbs.h"

namespace forebay::tools {

Status run_pack(Session& session) {
  const std::string output = session.options.text("output");
  if (output.empty()) return Status(Code::invalid_argument, "pack needs -o DIR");
  FB_ASSIGN(Plan plan, Plan::load(session.operand()));
  const WeightSources sources = weight_sources(session);
  if (sources.empty() && plan.stripped()) {
    return Status(Code::invalid_argument, "the plan holds no weights: name them with --weights SRC...");
  }
  Refitter refitter(std::move(plan), refitter_options(session));
  auto packed = refitter.pack(sources, output, session.options.text("codec"));
  FB_TRY(packed.status());
  session.result["raw_bytes"] = packed->raw_bytes;
  session.result["stored_bytes"] = packed->stored_bytes;
  json::object codecs;
  for (const auto& [name, chunks] : packed->codecs) codecs[name] = chunks;
  session.result["codecs"] = std::move(codecs);
  add_refit_report(session.result, packed->refit);
  session.result["output"] = output;
  const double share = packed->raw_bytes == 0 ? 100 : 100.0 * static_cast<double>(packed->stored_bytes) / static_cast<double>(packed->raw_bytes);
  session.print("{} raw, {} stored ({:.1f} %)\n", format_size(packed->raw_bytes), format_size(packed->stored_bytes), share);
  for (const auto& [name, chunks] : packed->codecs) session.print("  {:<8} {} chunks\n", name, chunks);
  session.print("wrote {}\n", output);
  return {};
}

}  // namespace forebay::tools
