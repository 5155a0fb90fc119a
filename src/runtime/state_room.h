// What a state takes of the arena: one rule for contexts, Engine::sizes_for_shapes and `forebay estimate`.
#pragma once

#include <vector>

#include "base/checked.h"
#include "runtime/prepared_pass.h"

namespace forebay {

struct StateRoom {
  std::uint64_t capacity = 0;
  bool paired = false;  // two places: one is read while the other is written
  std::uint64_t bytes() const { return align_up(capacity, 64) * (paired ? 2 : 1); }
};

// The pairs that the plan knows, as bindings of a context.
std::vector<StateBinding> planned_states(const plan::Plan& plan);
// Room for state `index` of `bindings`, with which the pass was prepared: the largest of its value before and after the pass, or what the
// declared ranges of its dimensions allow.
StateRoom state_room(const plan::Plan& plan, const PreparedPass& prepared, const std::vector<StateBinding>& bindings, std::size_t index);

}  // namespace forebay
