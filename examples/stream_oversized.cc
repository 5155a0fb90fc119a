// Runs a model under a budget that its weights do not fit into, then with everything resident, and compares the bits.
//   stream_oversized PLAN WEIGHTS
#include <forebay/forebay.h>

#include <cstring>
#include <iostream>
#include <string>
#include <vector>

namespace {

int report(const forebay::Status& status) {
  std::cout << status.to_string() << '\n';
  return forebay::exit_code(status);
}

forebay::Status run(const forebay::Plan& plan, const std::string& weights, const forebay::Budget& budget, std::vector<forebay::HostTensor>& outputs,
                    forebay::MemoryReport& memory) {
  forebay::EngineOptions options;
  options.budget = budget;
  forebay::WeightSources sources;
  sources.paths = {weights};
  auto engine = forebay::Engine::create(plan, sources, options);
  if (!engine.ok()) return engine.status();
  auto context = engine->create_context();
  if (!context.ok()) return context.status();
  for (const forebay::TensorInfo& info : plan.inputs()) {
    forebay::Shape shape;
    for (const std::int64_t dim : info.dims) shape.push_back(dim < 0 ? 1 : dim);
    if (forebay::Status set = context->set_input(info.name, forebay::HostTensor(info.dtype, shape)); !set.ok()) return set;
  }
  if (forebay::Status ran = context->execute(); !ran.ok()) return ran;
  for (const forebay::TensorInfo& info : plan.outputs()) {
    auto output = context->output(info.name);
    if (!output.ok()) return output.status();
    outputs.push_back(std::move(output).value());
  }
  memory = engine->memory();
  std::cout << "budget " << memory.budget << " of " << memory.full_budget << " bytes, peak " << memory.peak_committed << ", from disk "
            << context->profile().disk_bytes << '\n';
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cout << "usage: stream_oversized PLAN WEIGHTS\n";
    return 2;
  }
  auto plan = forebay::Plan::load(argv[1]);
  if (!plan.ok()) return report(plan.status());
  std::vector<forebay::HostTensor> resident, streamed;
  forebay::MemoryReport memory;
  if (const forebay::Status status = run(*plan, argv[2], forebay::Budget::unlimited(), resident, memory); !status.ok()) return report(status);
  const std::uint64_t small = memory.min_budget + (memory.full_budget - memory.min_budget) / 10;
  if (const forebay::Status status = run(*plan, argv[2], forebay::Budget::of_bytes(small), streamed, memory); !status.ok()) return report(status);
  for (std::size_t i = 0; i < resident.size(); ++i) {
    if (resident[i].bytes() != streamed[i].bytes() || std::memcmp(resident[i].data(), streamed[i].data(), resident[i].bytes()) != 0) {
      std::cout << "outputs differ\n";
      return 1;
    }
  }
  std::cout << "same bits\n";
  return 0;
}
