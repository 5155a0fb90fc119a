#include "runtime/state_room.h"

#include <algorithm>

namespace forebay {
namespace {

// 0 where a dimension has no declared range.
std::uint64_t declared_bytes(const plan::Plan& plan, const plan::Value& value) {
  std::vector<std::int64_t> dims;
  for (const plan::Dim& dim : value.dims) {
    std::int64_t size = dim.size;
    for (const plan::DimRange& range : plan.dim_ranges) {
      if (size < 0 && !dim.name.empty() && range.name == dim.name) size = range.max;
    }
    dims.push_back(size);
  }
  return checked_bytes(value.dtype, dims).value_or(0);
}

}  // namespace

std::vector<StateBinding> planned_states(const plan::Plan& plan) {
  const auto place = [](const std::vector<plan::ValueId>& list, plan::ValueId id) {
    return static_cast<std::uint32_t>(std::find(list.begin(), list.end(), id) - list.begin());
  };
  std::vector<StateBinding> bindings;
  for (const plan::StatePair& pair : plan.state_pairs)
    bindings.push_back({place(plan.graphs[0].outputs, pair.output), place(plan.graphs[0].inputs, pair.input)});
  return bindings;
}

StateRoom state_room(const plan::Plan& plan, const PreparedPass& prepared, const std::vector<StateBinding>& bindings, std::size_t index) {
  const plan::ValueId in = plan.graphs[0].inputs[bindings[index].input], out = plan.graphs[0].outputs[bindings[index].output];
  std::uint64_t bytes = declared_bytes(plan, plan.values[in]);
  for (const plan::ValueId id : {in, out}) {
    const ValuePlace& place = prepared.places[id];
    bytes = std::max(bytes, dtype_bytes(place.dtype, place.shape.elements()).value_or(0));
  }
  return {bytes, prepared.states[index] != StateResult::appended};
}

}  // namespace forebay
