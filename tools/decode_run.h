// A stateful decoder as it is used: a prompt in one pass, then a pass a token, each token the likeliest of the last logits, the cache on
// the device.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "forebay/engine.h"
#include "input_maker.h"

namespace forebay::tools {

struct DecodeRequest {
  std::int64_t prompt = 0, tokens = 0, batch = 1;
  int iterations = 1;  // whole generations that are measured
  int warm_up = 1;     // before them, and then as many as fill the host cache; the first takes the memory of the largest state
  std::uint64_t seed = 0;
};
// One kind of pass: a prompt (all tokens at once) or a token.
struct PhaseOutcome {
  std::vector<double> pass_ms;
  std::uint64_t disk_bytes = 0, link_bytes = 0;
  double total_ms() const;
};
struct DecodeOutcome {
  std::vector<double> first_token_ms;  // the prompt's pass and the choice of the token
  PhaseOutcome prefill, decode;
  std::vector<std::int64_t> tokens;  // chosen by the last generation, of the first row of the batch
  MemoryReport memory;               // with the cache at its largest
};

// Which inputs are tokens, mask and positions, by name and shape. invalid_argument, with the reason, for a plan that is no decoder with
// state pairs.
class DecodeInputs {
 public:
  static Result<DecodeInputs> of(std::vector<TensorInfo> inputs, const std::vector<TensorInfo>& outputs,
                                 const std::vector<std::pair<std::string, std::string>>& state_pairs);
  const std::string& token_input() const { return infos_[tokens_].name; }
  // The inputs of a pass over `tokens` (batch x count, row by row) behind `past` positions.
  std::vector<NamedTensor> make(std::span<const std::int64_t> tokens, std::int64_t batch, std::int64_t past, std::uint64_t seed) const;
  // The likeliest token of the last position, a row of the batch each; empty without an output that looks like logits.
  Result<std::vector<std::int64_t>> choose(const ExecutionContext& context) const;

 private:
  std::vector<TensorInfo> infos_;  // inputs that are no state
  std::size_t tokens_ = 0;
  std::string sequence_, total_;  // names of dimensions
  std::string logits_;
};

// cancelled on SIGINT, between passes.
Result<DecodeOutcome> run_decode(Engine& engine, const DecodeInputs& inputs, const DecodeRequest& request);

}  // namespace forebay::tools
