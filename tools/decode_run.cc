#include "decode_run.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "base/check.h"
#include "base/half.h"
#include "context_runs.h"

namespace forebay::tools {
namespace {

using Clock = std::chrono::steady_clock;
double since_ms(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

Status no_decoder(const std::string& why) {
  Problem problem;
  problem.code = "no_decoder";
  problem.message = "--prompt and --decode need a decoder with state pairs: " + why;
  problem.hint = "without them, bench measures passes over the inputs of --shapes";
  return Status(Code::invalid_argument, std::move(problem));
}

bool is_token_dtype(DType dtype) {
  return dtype == DType::i64 || dtype == DType::i32;
}

// The first of the largest; NaNs are never chosen.
template <typename RealAt>
std::int64_t likeliest_of(std::int64_t count, const RealAt& real_at) {
  std::int64_t best = 0;
  float most = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = real_at(static_cast<std::size_t>(i));
    if (value > most) {
      most = value;
      best = i;
    }
  }
  return best;
}

std::int64_t likeliest(const HostTensor& logits, std::int64_t begin, std::int64_t count) {
  const auto from = static_cast<std::size_t>(begin);
  switch (logits.dtype()) {
    case DType::f32:
      return likeliest_of(count, [x = logits.as<float>().subspan(from)](std::size_t i) { return x[i]; });
    case DType::f16:
      return likeliest_of(count, [x = logits.as<std::uint16_t>().subspan(from)](std::size_t i) { return f16_to_f32(x[i]); });
    case DType::bf16:
      return likeliest_of(count, [x = logits.as<std::uint16_t>().subspan(from)](std::size_t i) { return bf16_to_f32(x[i]); });
    default:
      return 0;
  }
}

// One pass: its inputs, its time and its bytes.
Status measure_pass(ExecutionContext& context, const std::vector<NamedTensor>& inputs, PhaseOutcome& outcome) {
  FB_TRY(check_interrupted());
  const auto start = Clock::now();
  for (const NamedTensor& input : inputs) FB_TRY(context.set_input(input.name, input.tensor));
  FB_TRY(context.execute());
  outcome.pass_ms.push_back(since_ms(start));
  outcome.disk_bytes += context.profile().disk_bytes;
  outcome.link_bytes += context.profile().link_bytes;
  return {};
}

}  // namespace

double PhaseOutcome::total_ms() const {
  return std::accumulate(pass_ms.begin(), pass_ms.end(), 0.0);
}

Result<DecodeInputs> DecodeInputs::of(std::vector<TensorInfo> inputs, const std::vector<TensorInfo>& outputs,
                                      const std::vector<std::pair<std::string, std::string>>& state_pairs) {
  DecodeInputs out;
  std::set<std::string> state_inputs, state_outputs;
  for (const auto& [output, input] : state_pairs) {
    state_outputs.insert(output);
    state_inputs.insert(input);
  }
  if (state_inputs.empty()) return no_decoder("the plan has none");
  std::set<std::string> before;  // dimensions of the states as they come in
  bool found = false;
  for (TensorInfo& info : inputs) {
    if (state_inputs.contains(info.name)) {
      before.insert(info.dim_names.begin(), info.dim_names.end());
      continue;
    }
    const bool tokens = is_token_dtype(info.dtype) && info.dims.size() == 2 && info.dims[1] < 0;
    if (tokens && (!found || info.name == "input_ids")) {
      found = true;
      out.tokens_ = out.infos_.size();
      out.sequence_ = info.dim_names[1];
    }
    out.infos_.push_back(std::move(info));
  }
  if (!found) return no_decoder("no integer input has two dimensions, the second of them free");
  for (const TensorInfo& info : outputs) {
    if (!state_outputs.contains(info.name)) {
      if (out.logits_.empty() && dtype_is_float(info.dtype) && info.dims.size() == 3) out.logits_ = info.name;
      continue;
    }
    for (std::size_t i = 0; i < info.dims.size(); ++i) {
      if (info.dims[i] < 0 && !info.dim_names[i].empty() && !before.contains(info.dim_names[i])) out.total_ = info.dim_names[i];
    }
  }
  return out;
}

std::vector<NamedTensor> DecodeInputs::make(std::span<const std::int64_t> tokens, std::int64_t batch, std::int64_t past,
                                            std::uint64_t seed) const {
  const std::int64_t count = static_cast<std::int64_t>(tokens.size()) / batch;
  std::vector<NamedTensor> made;
  for (std::size_t t = 0; t < infos_.size(); ++t) {
    const TensorInfo& info = infos_[t];
    Shape shape;
    bool positions = false, mask = false;
    for (std::size_t i = 0; i < info.dims.size(); ++i) {
      const std::string& name = info.dim_names[i];
      const bool sequence = info.dims[i] < 0 && i > 0 && name == sequence_ && (!name.empty() || t == tokens_);
      // A mask over all positions: named as the cache that comes out, or by a sum ("past_sequence_length + 1").
      const bool total = info.dims[i] < 0 && i > 0 && !name.empty() && (name == total_ || name.find('+') != std::string::npos);
      positions = positions || sequence;
      mask = mask || total;
      shape.push_back(info.dims[i] >= 0 ? info.dims[i] : sequence ? count : total ? past + count : i == 0 ? batch : 1);
    }
    NamedTensor one{info.name, HostTensor(info.dtype, shape)};
    const std::int64_t elements = shape.elements();
    const auto put = [&](std::int64_t i, std::int64_t value) {
      if (info.dtype == DType::i64)
        one.tensor.as<std::int64_t>()[static_cast<std::size_t>(i)] = value;
      else
        one.tensor.as<std::int32_t>()[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(value);
    };
    if (!is_token_dtype(info.dtype)) {
      fill_from_seed(one.tensor, seed, info.name);
    } else {
      for (std::int64_t i = 0; i < elements; ++i) {
        put(i, t == tokens_ ? tokens[static_cast<std::size_t>(i)] : mask ? 1 : positions && count > 0 ? past + i % count : 0);
      }
    }
    made.push_back(std::move(one));
  }
  return made;
}

Result<std::vector<std::int64_t>> DecodeInputs::choose(const ExecutionContext& context) const {
  std::vector<std::int64_t> chosen;
  if (logits_.empty()) return chosen;
  FB_ASSIGN(const HostTensor logits, context.output(logits_));
  if (logits.shape().rank() != 3 || logits.shape().elements() == 0) return chosen;
  const std::int64_t rows = logits.shape()[1], width = logits.shape()[2];
  for (std::int64_t b = 0; b < logits.shape()[0]; ++b) chosen.push_back(likeliest(logits, (b * rows + rows - 1) * width, width));
  return chosen;
}

Result<DecodeOutcome> run_decode(Engine& engine, const DecodeInputs& inputs, const DecodeRequest& request) {
  FB_ASSIGN(ExecutionContext context, engine.create_context());
  for (const auto& [output, input] : engine.plan().state_pairs()) FB_TRY(context.bind_state(output, input));
  HostTensor prompt(DType::i64, Shape{request.batch, request.prompt});
  fill_from_seed(prompt, request.seed, inputs.token_input());
  DecodeOutcome outcome;
  const auto generate = [&]() -> Status {
    outcome.tokens.clear();
    FB_TRY(context.reset_state());
    const auto begin = Clock::now();
    FB_TRY(measure_pass(context, inputs.make(prompt.as<std::int64_t>(), request.batch, 0, request.seed), outcome.prefill));
    FB_ASSIGN(std::vector<std::int64_t> tokens, inputs.choose(context));
    outcome.first_token_ms.push_back(since_ms(begin));
    for (std::int64_t t = 0; t < request.tokens; ++t) {
      // Without logits the tokens stay those of the seed.
      if (static_cast<std::int64_t>(tokens.size()) != request.batch) tokens.assign(static_cast<std::size_t>(request.batch), 0);
      outcome.tokens.push_back(tokens.front());
      FB_TRY(measure_pass(context, inputs.make(tokens, request.batch, request.prompt + t, request.seed), outcome.decode));
      FB_ASSIGN(tokens, inputs.choose(context));
    }
    if (!tokens.empty()) outcome.tokens.push_back(tokens.front());
    return {};
  };
  for (int i = 0; i < request.warm_up; ++i) FB_TRY(generate());
  if (request.warm_up > 0) FB_TRY(fill_host_cache(engine, generate));
  outcome = {};
  for (int i = 0; i < request.iterations; ++i) FB_TRY(generate());
  outcome.memory = engine.memory();
  return outcome;
}

}  // namespace forebay::tools
