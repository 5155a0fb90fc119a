#include "budget_sweep.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "context_runs.h"
#include "json_out.h"

namespace forebay::tools {
namespace {

Result<std::vector<HostTensor>> run_twice(Engine& engine, ExecutionContext& context, std::uint64_t* streamed) {
  for (int pass = 0; pass < 2; ++pass) FB_TRY(context.execute());
  *streamed = context.profile().disk_bytes + context.profile().link_bytes;
  std::vector<HostTensor> outputs;
  for (const TensorInfo& info : engine.plan().outputs()) {
    FB_ASSIGN(HostTensor tensor, context.output(info.name));
    outputs.push_back(std::move(tensor));
  }
  return outputs;
}

}  // namespace

Status sweep_budgets(Session& session, Engine& engine, const std::vector<NamedTensor>& inputs, int count) {
  FB_ASSIGN(ExecutionContext context, engine.create_context());
  for (const NamedTensor& input : inputs) FB_TRY(context.set_input(input.name, input.tensor));
  FB_ASSIGN(const BudgetChange full, engine.set_budget(Budget::of_percent(100)));
  FB_TRY(full.wait());
  std::uint64_t streamed = 0;
  FB_ASSIGN(const std::vector<HostTensor> want, run_twice(engine, context, &streamed));
  const MemoryReport sizes = engine.memory();
  const auto steps = static_cast<std::uint64_t>(count);
  // Any number that shares no factor with the count visits them all; a large one makes far jumps, up and down.
  std::uint64_t stride = steps * 5 / 8 + 1;
  while (std::gcd(stride, steps) != 1) ++stride;
  int streaming = 0;
  for (std::uint64_t i = 0; i < steps; ++i) {
    FB_TRY(check_interrupted());
    const std::uint64_t step = (i + 1) * stride % steps;
    const std::uint64_t bytes = sizes.min_budget + (sizes.full_budget - sizes.min_budget) * step / std::max<std::uint64_t>(1, steps - 1);
    FB_ASSIGN(const BudgetChange change, engine.set_budget(Budget::of_bytes(bytes)));
    FB_TRY(change.wait());
    FB_ASSIGN(const std::vector<HostTensor> got, run_twice(engine, context, &streamed));
    streaming += streamed > 0 ? 1 : 0;
    const std::uint64_t held = engine.memory().committed;
    if (held > bytes) return Status(Code::gate_failed, fmt::format("a budget of {} bytes was exceeded: {} are committed", bytes, held));
    for (std::size_t o = 0; o < got.size(); ++o) {
      if (!same_bytes(got[o], want[o])) {
        return Status(Code::gate_failed, fmt::format("output \"{}\" has other bits with a budget of {} bytes than fully resident",
                                                     engine.plan().outputs()[o].name, bytes));
      }
    }
  }
  session.result["sweep"] = boost::json::object{{"budgets", count}, {"streaming", streaming}};
  session.print("the same bits at {} budgets from {} to {}; weights streamed at {}\n", count, format_size(sizes.min_budget),
                format_size(sizes.full_budget), streaming);
  return {};
}

}  // namespace forebay::tools
