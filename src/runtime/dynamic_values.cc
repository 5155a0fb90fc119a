// Values of a pass that settles its shapes as it goes: who holds which block, and what is known on the host.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/dynamic_pass.h"
#include "runtime/pass_runner.h"

namespace forebay {

using plan::kNone;
using plan::ValueId;

void DynamicPass::drop(ValueId value) {
  if (blocks_[value] != ActivationHeap::kNoBlock) heap_.give(blocks_[value]);
  blocks_[value] = ActivationHeap::kNoBlock;
  hosts_[value].reset();
  ValuePlace& place = pass_.places[value];
  place.host = nullptr;
  place.stored = false;
}

void DynamicPass::set(ValueId value, Held held) {
  drop(value);
  ValuePlace& place = pass_.places[value];
  place.dtype = held.dtype;
  place.shape = held.shape;
  place.root = value;
  place.host = held.host.get();
  place.stored = held.block != ActivationHeap::kNoBlock;
  place.offset = place.stored ? heap_.offset(held.block) : 0;
  hosts_[value] = std::move(held.host);
  blocks_[value] = held.block;
}

void DynamicPass::set_host(ValueId value, Tensor tensor) {
  const DType dtype = tensor->dtype();
  const Shape shape = tensor->shape();
  set(value, {dtype, shape, std::move(tensor), ActivationHeap::kNoBlock});
}

namespace {

constexpr std::uint64_t kMostEstimated = std::uint64_t{1} << 44;  // what a loop of 2^63 iterations might need is no bound

}  // namespace

Result<std::uint32_t> DynamicPass::take(std::uint64_t bytes) {
  if (dry() && bytes > kMostEstimated) return Status(Code::unsupported, "no useful bound");
  const std::uint32_t block = heap_.take(bytes);
  if (dry() || heap_.end(block) <= capacity_) return block;
  outgrown_ = heap_.peak();
  heap_.give(block);
  return Status(Code::resource_exhausted,
                "the shapes of this pass need more than the " + std::to_string(capacity_) + " bytes reserved for activations");
}

Status DynamicPass::store(ValueId value, DType dtype, const Shape& shape) {
  const auto bytes = checked_bytes(dtype, shape.dims());
  if (!bytes) return Status(Code::invalid_model, "'" + plan_.values[value].name + "' is too large");
  FB_ASSIGN(const std::uint32_t block, take(*bytes));
  set(value, {dtype, shape, nullptr, block});
  return {};
}

Status DynamicPass::ensure_stored(ValueId value) {
  if (value == kNone || blocks_[value] != ActivationHeap::kNoBlock || !hosts_[value]) return {};
  FB_ASSIGN(const std::uint32_t block, take(hosts_[value]->bytes()));
  blocks_[value] = block;
  pass_.places[value].stored = true;
  pass_.places[value].offset = heap_.offset(block);
  if (dry() || hosts_[value]->bytes() == 0) return {};
  uploading_.push_back(hosts_[value]);
  runner_->copy_in(heap_.offset(block), hosts_[value]->data(), hosts_[value]->bytes());
  return {};
}

Result<DynamicPass::Held> DynamicPass::hold(ValueId value) {
  const ValuePlace& place = pass_.places[value];
  if (place.dtype == DType::none || (!hosts_[value] && blocks_[value] == ActivationHeap::kNoBlock)) {
    return Status(Code::invalid_model, "'" + plan_.values[value].name + "' is read before it is computed");
  }
  Held held{place.dtype, place.shape, hosts_[value], blocks_[value]};
  if (held.block != ActivationHeap::kNoBlock) heap_.share(held.block);
  return held;
}

void DynamicPass::let_go(Held& held) {
  if (held.block != ActivationHeap::kNoBlock) heap_.give(held.block);
  held = {};
}

Status DynamicPass::fetch(ValueId value) {
  ValuePlace& place = pass_.places[value];
  if (place.host != nullptr) return {};
  if (place.dtype == DType::none) return Status(Code::invalid_model, "'" + plan_.values[value].name + "' is read before it is computed");
  if (dry() || blocks_[value] == ActivationHeap::kNoBlock) {
    return Status(Code::unsupported, "the contents of '" + plan_.values[value].name + "' must be known on the host, but are not");
  }
  auto tensor = std::make_shared<HostTensor>(place.dtype, place.shape);
  if (const HostTensor* given = runner_->given_input(value); given != nullptr) {
    std::copy_n(given->data(), given->bytes(), tensor->data());
  } else if (tensor->bytes() > 0) {
    FB_TRY(runner_->read_back(value, tensor->data(), tensor->bytes()));
  }
  place.host = tensor.get();
  hosts_[value] = std::move(tensor);
  return {};
}

void DynamicPass::collect_reads(std::uint32_t graph, std::vector<ValueId>& reads) const {
  for (const Step& step : compiled_->graphs[graph].steps) {
    if (step.node != nullptr) reads.insert(reads.end(), step.node->inputs.begin(), step.node->inputs.end());
    for (const std::uint32_t body : step.bodies) collect_reads(body, reads);
  }
  reads.insert(reads.end(), plan_.graphs[graph].outputs.begin(), plan_.graphs[graph].outputs.end());
}

// Where each value of a graph is read for the last time; the graph's outputs are kept for whoever runs it.
void DynamicPass::plan_releases() {
  for (std::uint32_t g = 0; g < plan_.graphs.size(); ++g) {
    const std::vector<Step>& steps = compiled_->graphs[g].steps;
    std::vector<std::uint32_t> last(plan_.values.size(), kNone);
    std::vector<ValueId>& owned = owned_[g];
    owned = plan_.graphs[g].inputs;
    for (std::uint32_t s = 0; s < steps.size(); ++s) {
      std::vector<ValueId> touched;
      if (steps[s].node != nullptr) {
        touched = steps[s].node->inputs;
        owned.insert(owned.end(), steps[s].node->outputs.begin(), steps[s].node->outputs.end());
        touched.insert(touched.end(), steps[s].node->outputs.begin(), steps[s].node->outputs.end());
      }
      if (steps[s].loaded != kNone) owned.push_back(steps[s].loaded);
      if (steps[s].loaded != kNone) touched.push_back(steps[s].loaded);
      for (const std::uint32_t body : steps[s].bodies) collect_reads(body, touched);
      for (const ValueId id : touched) {
        if (id != kNone) last[id] = s;
      }
    }
    owned.erase(std::remove(owned.begin(), owned.end(), kNone), owned.end());
    for (const ValueId id : plan_.graphs[g].outputs) last[id] = kNone;
    releases_[g].resize(steps.size());
    for (const ValueId id : owned) {
      if (last[id] != kNone) releases_[g][last[id]].push_back(id);
    }
  }
}

}  // namespace forebay
