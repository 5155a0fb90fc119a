// forebay synth llama: a decoder of any size with honest weight statistics.
#include "base/check.h"
#include "session.h"
#include "synth/synth_llama.h"
#include "verbs.h"

namespace forebay::tools {

Status run_synth(Session& session) {
  if (session.operand() != "llama") {
    Problem problem;
    problem.code = "usage";
    problem.message = fmt::format("synth knows no model \"{}\"", session.operand());
    problem.hint = "forebay synth llama";
    return Status(Code::invalid_argument, std::move(problem));
  }
  const std::string folder = session.options.text("output");
  if (folder.empty()) return Status(Code::invalid_argument, "forebay synth needs -o DIR");
  SynthOptions options;
  options.params = session.options.text("params");
  options.dtype = *dtype_from_name(session.options.text("dtype"));
  options.seed = static_cast<std::uint64_t>(session.options.integer("seed"));
  options.all_logits = session.options.flag("all-logits");
  options.max_shard_bytes = session.options.size("shard-size").value_or(options.max_shard_bytes);
  options.threads = static_cast<int>(session.options.integer("jobs"));
  options.progress = session.console.progress();
  FB_ASSIGN(const SynthReport report, synth_llama(posix_file_system(), folder, options));
  const double gbps = report.seconds > 0 ? static_cast<double>(report.tensor_bytes) / report.seconds / 1e9 : 0;
  session.result["output"] = folder;
  session.result["parameters"] = report.shape.parameters();
  session.result["tensor_bytes"] = report.tensor_bytes;
  session.result["tensors"] = report.tensors;
  session.result["seconds"] = report.seconds;
  session.result["gbps"] = gbps;
  session.result["shape"] = json::object{{"hidden", report.shape.hidden}, {"layers", report.shape.layers}, {"heads", report.shape.heads},
                                         {"kv_heads", report.shape.kv_heads}, {"head_dim", report.shape.head_dim},
                                         {"ffn", report.shape.ffn}, {"vocab", report.shape.vocab}};
  json::array files;
  for (const std::string& file : report.files) files.push_back(json::value(file));
  session.result["files"] = std::move(files);
  session.print("{:.1f}M parameters, {} layers, {} in {} files at {:.2f} GB/s\nwrote {}\n", static_cast<double>(report.shape.parameters()) / 1e6,
                report.shape.layers, format_size(report.tensor_bytes), report.files.size(), gbps, folder);
  return {};
}

}  // namespace forebay::tools
