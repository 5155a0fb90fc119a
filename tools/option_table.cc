#include "option_table.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "verbs.h"

namespace forebay::tools {
namespace {

using K = Kind;
constexpr OptionSpec kOptions[] = {
    // name, letter, kind, many, value, choices, default, help, minimum
    {"json", 0, K::optional_path, false, "[=FILE]", "", "", "print one JSON object instead of text (or write it to FILE)"},
    {"verbose", 'v', K::flag, true, "", "", "", "log more to stderr; -vv logs everything"},
    {"help", 'h', K::flag, false, "", "", "", "show this help"},
    {"output", 'o', K::path, false, "PATH", "", "", "where the result is written"},
    {"strip", 0, K::flag, false, "", "", "", "leave the weights out of the plan"},
    {"refit", 0, K::choice, false, "MODE", "all|identical|none", "all",
     "which weights the plan takes later: any of the same shapes, the model's own only (proved by SHA-256), or none"},
    {"device", 0, K::text, false, "DEVICE", "cpu|cuda", "cpu", "device to build for or run on"},
    {"build-budget", 0, K::size, false, "SIZE", "", "1GiB", "device memory that timing kernels may use", 1 << 20},
    {"timing-cache", 0, K::path, false, "FILE", "", "", "kernel times, read and added to: a text file, a line a kernel"},
    {"exclude-kernels", 0, K::text, true, "NAMES", "", "",
     "kernels of the device that are never used: an id, or its last word (cublaslt, cudnn)"},
    {"kernels", 0, K::choice, false, "WHICH", "auto|own", "auto",
     "own: no library's kernels on the device, so that bits outlive its upgrades"},
    {"retime", 0, K::flag, false, "", "", "", "choose the device's kernels again by timing them, in at most 10 s"},
    {"slab", 0, K::size, false, "SIZE", "auto", "auto", "unit of residency and of kernel calls"},
    {"min-shapes", 0, K::text, true, "NAME=1x3x..", "", "", "smallest shape of an input"},
    {"opt-shapes", 0, K::text, true, "NAME=1x3x..", "", "", "usual shape of an input"},
    {"max-shapes", 0, K::text, true, "NAME=1x3x..", "", "", "largest shape of an input: memory is reserved for it"},
    {"bound", 0, K::text, true, "NAME=N|NAME=1x3x..", "", "", "largest shape of a tensor whose shape depends on data"},
    {"inputs", 0, K::text, true, "NAMES", "", "", "cut the graph: these values become its inputs"},
    {"outputs", 0, K::text, true, "NAMES", "", "", "cut the graph: these values become its outputs"},
    {"no-fuse", 0, K::flag, false, "", "", "", "keep one kernel per node of the model"},
    {"compatible-with", 0, K::text, false, "VERSION", "", "", "write a plan that readers of this format version open"},
    {"threads", 0, K::integer, false, "N", "", "0", "compute threads; 0: all. Part of numerics_id", 0},
    {"weights", 'w', K::path, true, "SRC...", "", "",
     "MODEL.onnx, *.safetensors, model.safetensors.index.json, a shard folder, or a folder holding one of them"},
    {"codec", 0, K::choice, false, "CODEC", "auto|raw|zstd|huffman", "auto",
     "how chunks are stored; auto: zstd only where it halves a chunk"},
    {"map", 0, K::path, false, "FILE", "", "", "renames: lines \"plan_name = source_name [transpose]\""},
    {"strict", 0, K::flag, false, "", "", "", "refuse tensors that the plan does not use"},
    {"finite", 0, K::flag, false, "", "", "", "refuse weights that are not finite"},
    {"allow-inexact", 0, K::text, true, "NAMES", "", "", "weights whose casts may overflow or flush to zero"},
    {"dry-run", 0, K::flag, false, "", "", "", "check everything, write nothing"},
    {"budget", 'b', K::text, true, "BUDGET", "auto|unlimited", "auto",
     "device bytes for everything: 25% (of full), 6GiB, auto, unlimited; bench takes a list"},
    {"host-cache", 0, K::size, false, "SIZE", "auto", "auto", "host memory for weights; auto: what recipes need and no more"},
    {"input", 'i', K::text, true, "NAME=FILE.npy", "", "", "an input; the others are made from the seed"},
    {"shapes", 0, K::text, true, "NAME=1x3x..", "", "", "shape of an input made from the seed; unknown dimensions are 1 otherwise"},
    {"seed", 0, K::integer, false, "N", "", "0", "of generated inputs or weights", 0},
    {"iterations", 'n', K::integer, false, "N", "", "1", "passes per context (bench: 10)", 1},
    {"contexts", 0, K::integer, false, "N", "", "1", "execution contexts, each on its own thread", 1},
    {"stateful", 0, K::flag, false, "", "", "", "carry state pairs (past/present) from pass to pass"},
    {"io", 0, K::choice, false, "ENGINE", "auto|uring|threads", "auto", "how files are read"},
    {"direct", 0, K::choice, false, "MODE", "auto|on|off", "auto", "O_DIRECT: past the page cache; auto takes what that holds"},
    {"output-dir", 0, K::path, false, "DIR", "", "", "write the outputs there as NAME.npy"},
    {"profile", 0, K::path, false, "FILE", "", "", "write times per node as JSON"},
    {"sweep", 0, K::integer, false, "N", "", "0", "then at N budgets from the minimum to full, changed while the engine lives: the bits must be the same", 0},
    {"trace", 0, K::path, false, "FILE", "", "", "write a Chrome trace (chrome://tracing, Perfetto) of the last pass: disk, decode, link and compute on one clock"},
    {"debug-sync", 0, K::flag, false, "", "", "", "wait for the device after every kernel: a failure names its node, shapes and kernel"},
    {"debug-tensors", 0, K::text, true, "NAMES", "", "", "write these values to --output-dir at every write, Loop iterations too; \"all\": every value"},
    {"warm-up", 0, K::integer, false, "N", "", "1", "passes (with --prompt generations) before measuring; if any, more until the host cache is full", 0},
    {"reference", 0, K::path, false, "DIR", "", "", "folder of NAME.npy to compare the outputs with"},
    {"against", 0, K::choice, false, "DEVICE", "cpu", "",
     "compare with this device, fully resident and without fusion where a model is given"},
    {"atol", 0, K::real, false, "A", "", "1e-5", "absolute tolerance"},
    {"rtol", 0, K::real, false, "R", "", "1e-3", "relative tolerance"},
    {"layers", 0, K::flag, false, "", "", "", "compare every value and name the first node that diverges"},
    {"filter", 0, K::text, true, "TEXT", "", "", "only cases whose name holds TEXT"},
    {"jobs", 'j', K::integer, false, "N", "", "0", "worker threads; 0: all", 0},
    {"params", 0, K::text, false, "COUNT", "", "1B", "parameters: 1M, 10M, 100M, 1B, 2B, 4B, 8B, 24B, 32B or any count near"},
    {"dtype", 0, K::choice, false, "DTYPE", "bf16|f16|f32", "bf16", "element type of the weights"},
    {"all-logits", 0, K::flag, false, "", "", "", "the head computes every position, not only the last"},
    {"shard-size", 0, K::size, false, "SIZE", "", "4GiB", "largest safetensors shard", 1 << 20},
    {"path", 0, K::path, true, "DIR", "", ".", "folders to test for O_DIRECT and speed"},
    {"prompt", 0, K::integer, false, "N", "", "1", "measure generations of a stateful decoder: a prompt of N tokens in one pass", 1},
    {"decode", 0, K::integer, false, "T", "", "0", "then T tokens, a pass each; the cache stays on the device, inside the budget", 0},
    {"quick", 0, K::flag, false, "", "", "", "skip the measurements of rates"},
    {"keep", 0, K::path, false, "DIR", "", "", "work in DIR and keep the files"},
};

#define FB_ENGINE_OPTIONS                                                                                                                  \
  "weights map strict finite allow-inexact budget host-cache device retime timing-cache input shapes seed iterations contexts threads io " \
  "direct stateful debug-sync"
constexpr VerbSpec kVerbs[] = {
#ifndef FOREBAY_RUNTIME_ONLY
    {"build", "MODEL.onnx", 1, 1, "make a plan from an ONNX model",
     "forebay build model.onnx -o model.plan --strip\n"
     "forebay build model.onnx -o model.plan --max-shapes input=8x3x224x224",
     "output strip refit device build-budget timing-cache exclude-kernels kernels slab min-shapes opt-shapes max-shapes bound inputs "
     "outputs no-fuse compatible-with threads",
     run_build},
#endif
    {"pack", "PLAN", 1, 1, "write weights as shards in execution order, compressed where it pays",
     "forebay pack model.plan --weights model.onnx -o shards/\n"
     "forebay pack model.plan --weights model.safetensors.index.json -o shards/ --codec zstd",
     "weights output codec map strict finite allow-inexact threads", run_pack},
    {"refit", "PLAN", 1, 1, "put weights into a plan",
     "forebay refit model.plan --weights finetuned.safetensors -o model2.plan\n"
     "forebay refit model.plan --weights hf/ --map names.txt --dry-run",
     "weights output map strict finite allow-inexact dry-run threads", run_refit},
    {"run", "PLAN", 1, 1, "run a plan under a budget",
     "forebay run model.plan --weights model.onnx --budget 8GiB --output-dir out/\n"
     "forebay run model.plan --weights shards/ --input image=photo.npy --json",
     FB_ENGINE_OPTIONS " output-dir profile trace debug-tensors sweep", run_run},
    {"bench", "PLAN", 1, 1, "measure passes over a grid of budgets, beside the machine's own limits",
     "forebay bench model.plan --weights model.onnx --budget 5%,10%,25%,50%,100%\n"
     "forebay bench model.plan --weights shards/ --prompt 512 --decode 64 --budget 25%,100% --json",
     FB_ENGINE_OPTIONS " warm-up quick prompt decode", run_bench},
#ifndef FOREBAY_RUNTIME_ONLY
    {"compare", "PLAN", 1, 1, "compare the outputs with a reference",
     "forebay compare model.plan --weights model.onnx --input x=x.npy --reference expected/\n"
     "forebay compare model.plan --weights model.onnx --budget 10% --against cpu --layers",
     FB_ENGINE_OPTIONS " reference against atol rtol layers", run_compare},
    {"conformance", "DIR...", 1, -1, "run ONNX backend test folders and count",
     "forebay conformance /usr/lib/python3/dist-packages/onnx/backend/test/data/node\n"
     "forebay conformance data/node data/light --json=result.json",
     "device filter threads", run_conformance},
#endif
    {"verify", "PLAN", 1, 1, "check every digest of a plan and of its weights",
     "forebay verify model.plan\n"
     "forebay verify model.plan --weights shards/",
     "weights map strict finite allow-inexact threads", run_verify},
    {"inspect", "FILE", 1, 1, "show what a plan, a shard folder, a model or a safetensors file holds",
     "forebay inspect model.plan\n"
     "forebay inspect shards/ --json",
     "", run_inspect},
    {"estimate", "PLAN|MODEL.onnx", 1, 1, "budgets and predicted pass times, from headers only",
     "forebay estimate model.plan\n"
     "forebay estimate model.onnx --shapes input_ids=1x128 --json",
     "weights shapes budget device threads quick path stateful", run_estimate},
#ifndef FOREBAY_RUNTIME_ONLY
    {"check", "MODEL.onnx", 1, 1, "list every node that cannot be built",
     "forebay check model.onnx\n"
     "forebay check model.onnx --json",
     "", run_check},
    {"synth", "llama", 1, 1, "write a decoder model with honest weight statistics",
     "forebay synth llama --params 1B --dtype bf16 --seed 1 -o llama1b/\n"
     "forebay synth llama --params 8B -o /data/llama8b --all-logits",
     "params dtype seed output all-logits shard-size jobs", run_synth},
#endif
    {"doctor", "", 0, 0, "look at this machine and say what to fix",
     "forebay doctor\n"
     "forebay doctor --path /data --json",
     "path quick", run_doctor},
#ifndef FOREBAY_RUNTIME_ONLY
    {"demo", "", 0, 0, "build, strip, pack, refit and run a small model at several budgets; prove the bits equal",
     "forebay demo\n"
     "forebay demo --keep /tmp/demo --json",
     "params seed threads keep", run_demo},
#endif
};

// Only spellings whose meaning is the same. --weightStreamingBudget (magic numbers, weights only) and --refit (a flag there) are not.
constexpr AliasSpec kAliases[] = {
    {"onnx", "build check estimate", "@"},
    {"loadEngine", "run bench compare inspect refit verify estimate", "@"},
    {"saveEngine", "build refit", "--output="},
    {"minShapes", "build", "--min-shapes="},
    {"optShapes", "build", "--opt-shapes="},
    {"maxShapes", "build", "--max-shapes="},
    {"stripAllWeights", "build", "--strip --refit=all"},
    {"stripWeights", "build", "--strip --refit=identical"},
    {"refitFromOnnx", "refit run bench", "--weights="},
    {"dryRun", "refit", "--dry-run"},
    {"exportProfile", "run", "--profile="},
    {"timingCacheFile", "build", "--timing-cache="},
};

}  // namespace

std::span<const OptionSpec> option_specs() { return kOptions; }
std::span<const VerbSpec> verb_specs() { return kVerbs; }
std::span<const AliasSpec> alias_specs() { return kAliases; }

const OptionSpec* find_option(std::string_view name) {
  for (const OptionSpec& option : kOptions) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

const VerbSpec* find_verb(std::string_view name) {
  for (const VerbSpec& verb : kVerbs) {
    if (verb.name == name) return &verb;
  }
  return nullptr;
}

bool in_list(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(' '), list.size());
    if (list.substr(0, end) == word) return true;
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return false;
}

std::string environment_name(std::string_view option) {
  std::string name = "FOREBAY_";
  for (const char c : option) name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

namespace {
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0u : 1u)});
      diagonal = above;
    }
  }
  return row[b.size()];
}
}  // namespace

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    std::size_t distance = edit_distance(word, candidate);
    if (word.size() >= 3 && candidate.starts_with(word)) distance = std::min<std::size_t>(distance, 1);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace forebay::tools
