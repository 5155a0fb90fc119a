#include "context_runs.h"

#include <sys/resource.h>

#include <barrier>
#include <cctype>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/check.h"

namespace forebay::tools {
namespace {

using Clock = std::chrono::steady_clock;

double process_cpu_ms() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  const auto ms = [](const timeval& time) { return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3; };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

Result<std::vector<NamedTensor>> outputs_of(const Engine& engine, const ExecutionContext& context) {
  std::vector<NamedTensor> outputs;
  for (const TensorInfo& info : engine.plan().outputs()) {
    FB_ASSIGN(HostTensor tensor, context.output(info.name));
    outputs.push_back({info.name, std::move(tensor)});
  }
  return outputs;
}

Status prepare(Engine& engine, ExecutionContext& context, const std::vector<NamedTensor>& inputs, const RunRequest& request, bool first) {
  if (request.stateful) {
    for (const auto& [output, input] : engine.plan().state_pairs()) FB_TRY(context.bind_state(output, input));
  }
  for (const NamedTensor& input : inputs) FB_TRY(context.set_input(input.name, input.tensor));
  if (first && request.debug) FB_TRY(context.set_debug(request.debug, request.debug_names));
  context.set_profiling(first && request.profile);
  return {};
}

Status measure_beside(const RunRequest& request, Moment moment, ExecutionContext& context, RunOutcome& outcome) {
  if (!request.beside) return {};
  const auto start = Clock::now();
  const double cpu = process_cpu_ms();
  Status status = request.beside(moment, context.profile());
  outcome.wall_ms -= std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  outcome.cpu_ms -= process_cpu_ms() - cpu;
  return status;
}

Status warm_up(Engine& engine, ExecutionContext& context, const RunRequest& request, bool first, RunOutcome& outcome) {
  for (int i = 0; i < request.warm_up; ++i) {
    FB_TRY(check_interrupted());
    if (first && i == 0) FB_TRY(measure_beside(request, Moment::first, context, outcome));
    const auto begin = Clock::now();
    FB_TRY(context.execute());
    if (i > 0) continue;
    outcome.first_pass_ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    outcome.first_disk_bytes = context.profile().disk_bytes;
    if (first) FB_TRY(measure_beside(request, Moment::warm, context, outcome));
  }
  return first && request.fill_host_cache ? fill_host_cache(engine, [&context] { return context.execute(); }) : Status();
}

Status measure(ExecutionContext& context, const RunRequest& request, RunOutcome& outcome) {
  for (int i = 0; i < request.iterations; ++i) {
    FB_TRY(check_interrupted());
    if (i > 0 && request.contexts <= 1) FB_TRY(measure_beside(request, Moment::between, context, outcome));
    const auto start = Clock::now();
    FB_TRY(context.execute());
    outcome.pass_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    const PassProfile& profile = context.profile();
    outcome.disk_bytes += profile.disk_bytes;
    outcome.link_bytes += profile.link_bytes;
    outcome.gathered_bytes += profile.gathered_bytes;
    outcome.stalls += profile.stalls;
  }
  outcome.last = context.profile();
  return {};
}

}  // namespace

bool same_bytes(const HostTensor& a, const HostTensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && (a.bytes() == 0 || std::memcmp(a.data(), b.data(), a.bytes()) == 0);
}

// It grows in the background, so a pass may add nothing: three in a row mean that it stays so.
Status fill_host_cache(const Engine& engine, const std::function<Status()>& once) {
  constexpr int kPasses = 100;  // at most; a slow disk fills a large cache in few
  std::uint64_t held = engine.io().host_cache_bytes;
  for (int i = 0, still = 0; i < kPasses && still < 3; ++i) {
    if (held >= engine.io().host_cache_wanted) return {};
    FB_TRY(check_interrupted());
    FB_TRY(once());
    const std::uint64_t now = engine.io().host_cache_bytes;
    still = now > held ? 0 : still + 1;
    held = now;
  }
  return {};
}

std::string value_file_name(const std::string& name) {
  std::string out;
  for (const char c : name) out += std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == '_' ? c : '_';
  if (out.empty() || out.front() == '.') out.insert(out.begin(), '_');
  return out;
}

Result<RunOutcome> run_passes(Engine& engine, const std::vector<NamedTensor>& inputs, const RunRequest& request) {
  const std::size_t count = static_cast<std::size_t>(std::max(1, request.contexts));
  std::vector<ExecutionContext> contexts;
  for (std::size_t c = 0; c < count; ++c) {
    FB_ASSIGN(auto context, engine.create_context());
    contexts.push_back(std::move(context));
    FB_TRY(prepare(engine, contexts.back(), inputs, request, c == 0));
  }
  std::vector<RunOutcome> outcomes(count);
  std::vector<Status> failures(count);
  std::barrier ready(static_cast<std::ptrdiff_t>(count));
  Clock::time_point start;
  double cpu = 0;
  const auto work = [&](std::size_t c) {
    failures[c] = warm_up(engine, contexts[c], request, c == 0, outcomes[c]);
    ready.arrive_and_wait();
    if (c == 0) {
      if (failures[0].ok()) failures[0] = measure_beside(request, Moment::measured, contexts[0], outcomes[0]);
      outcomes[0].wall_ms = outcomes[0].cpu_ms = 0;
      start = Clock::now();
      cpu = process_cpu_ms();
    }
    ready.arrive_and_wait();
    if (failures[c].ok()) failures[c] = measure(contexts[c], request, outcomes[c]);
  };
  std::vector<std::thread> threads;
  for (std::size_t c = 1; c < count; ++c) threads.emplace_back(work, c);
  work(0);
  for (std::thread& thread : threads) thread.join();
  outcomes[0].wall_ms += std::chrono::duration<double, std::milli>(Clock::now() - start).count();  // less what was measured beside
  outcomes[0].cpu_ms += process_cpu_ms() - cpu;
  for (Status& failure : failures) FB_TRY(std::move(failure));
  RunOutcome outcome = std::move(outcomes[0]);
  if (request.beside) FB_TRY(request.beside(Moment::end, contexts[0].profile()));
  outcome.memory = engine.memory();
  FB_ASSIGN(outcome.outputs, outputs_of(engine, contexts[0]));
  for (std::size_t c = 1; c < count; ++c) {
    outcome.pass_ms.insert(outcome.pass_ms.end(), outcomes[c].pass_ms.begin(), outcomes[c].pass_ms.end());
    outcome.disk_bytes += outcomes[c].disk_bytes;
    outcome.link_bytes += outcomes[c].link_bytes;
    outcome.gathered_bytes += outcomes[c].gathered_bytes;
    outcome.stalls += outcomes[c].stalls;
    FB_ASSIGN(const auto others, outputs_of(engine, contexts[c]));
    for (std::size_t o = 0; o < others.size(); ++o) {
      if (!same_bytes(others[o].tensor, outcome.outputs[o].tensor)) {
        return Status(Code::internal, fmt::format("contexts 0 and {} gave different bits for output \"{}\"", c, others[o].name));
      }
    }
  }
  return outcome;
}

}  // namespace forebay::tools
