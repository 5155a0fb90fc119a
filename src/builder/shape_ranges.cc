#include "builder/shape_ranges.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "base/check.h"
#include "base/name_match.h"
#include "runtime/shape_bounds.h"

namespace forebay::builder {
namespace {

using Sizes = std::array<std::int64_t, 3>;  // min, opt, max

struct NamedRange {
  Sizes sizes{};
  std::string from;  // what stated it, for messages
};

Status refused(const std::string& message, std::string hint = {}) {
  Problem problem;
  problem.code = "bad_shape_range";
  problem.message = message;
  problem.hint = std::move(hint);
  return Status(Code::invalid_argument, std::move(problem));
}

std::string text(const Sizes& sizes) {
  return std::to_string(sizes[0]) + ", " + std::to_string(sizes[1]) + ", " + std::to_string(sizes[2]);
}

std::vector<std::string> names_of(const Ir& ir, const std::vector<ValueId>& values) {
  std::vector<std::string> names;
  for (const ValueId id : values) names.push_back(ir.values[id].name);
  return names;
}

std::optional<ValueId> find_named(const Ir& ir, const std::vector<ValueId>& values, const std::string& name) {
  for (const ValueId id : values)
    if (ir.values[id].name == name) return id;
  return std::nullopt;
}

class Ranges {
 public:
  Status add(const std::string& name, const Sizes& sizes, const std::string& from) {
    if (sizes[0] < 0 || sizes[0] > sizes[1] || sizes[1] > sizes[2])
      return refused("dimension '" + name + "' of " + from + ": min, opt and max are " + text(sizes) + ", they must not decrease");
    const auto [at, added] = ranges_.emplace(name, NamedRange{sizes, from});
    if (added || at->second.sizes == sizes) return {};
    return refused("dimension '" + name + "' is " + text(at->second.sizes) + " (min, opt, max) by " + at->second.from + " and " +
                   text(sizes) + " by " + from);
  }

  std::vector<plan::DimRange> list() const {
    std::vector<plan::DimRange> ranges;
    for (const auto& [name, range] : ranges_) ranges.push_back({name, range.sizes[0], range.sizes[1], range.sizes[2]});
    return ranges;
  }

 private:
  std::map<std::string, NamedRange> ranges_;
};

// Fills what was not given from its nearest neighbour: min from opt, max from opt, opt from max.
Result<std::array<std::vector<std::int64_t>, 3>> complete(const std::string& input, const std::vector<std::vector<std::int64_t>>& given) {
  std::array<std::vector<std::int64_t>, 3> shapes;
  for (std::size_t i = 0; i < 3 && i < given.size(); ++i) shapes[i] = given[i];
  static constexpr std::array<std::array<std::size_t, 2>, 3> kNearest{{{1, 2}, {2, 0}, {1, 0}}};
  std::array<std::vector<std::int64_t>, 3> filled = shapes;
  for (std::size_t i = 0; i < 3; ++i) {
    for (const std::size_t other : kNearest[i])
      if (filled[i].empty()) filled[i] = shapes[other];
    if (filled[i].size() != filled[0].size()) return refused("the shapes given for input '" + input + "' differ in rank");
  }
  return filled;
}

Status add_input(Ir& ir, Ranges& ranges, const std::string& name, const std::vector<std::vector<std::int64_t>>& given) {
  const auto id = find_named(ir, ir.graphs[0].inputs, name);
  if (!id)
    return refused("a shape is given for '" + name + "', which is no input of the model",
                   did_you_mean(name, names_of(ir, ir.graphs[0].inputs)));
  IrValue& value = ir.values[*id];
  FB_ASSIGN(const auto shapes, complete(name, given));
  if (!value.type.has_rank) {
    value.type.has_rank = true;
    value.type.dims.assign(shapes[0].size(), -1);
  }
  if (shapes[0].size() != value.type.dims.size())
    return refused("input '" + name + "' has rank " + std::to_string(value.type.dims.size()) + ", the shape given has " +
                   std::to_string(shapes[0].size()));
  value.dim_names.resize(value.type.dims.size());
  for (std::size_t axis = 0; axis < value.type.dims.size(); ++axis) {
    const Sizes sizes{shapes[0][axis], shapes[1][axis], shapes[2][axis]};
    const std::int64_t fixed = value.type.dims[axis];
    if (fixed >= 0) {
      if (sizes != Sizes{fixed, fixed, fixed})
        return refused("axis " + std::to_string(axis) + " of input '" + name + "' is " + std::to_string(fixed) + " in the model, and " +
                       text(sizes) + " were given");
      continue;
    }
    if (value.dim_names[axis].empty()) value.dim_names[axis] = name + "." + std::to_string(axis);
    FB_TRY(ranges.add(value.dim_names[axis], sizes, "input '" + name + "'"));
  }
  return {};
}

// The dims that are not known get names of their own, whose ranges say the bound.
Status add_bound(Ir& ir, Ranges& ranges, const std::string& name, const std::vector<std::int64_t>& most) {
  IrValue* value = nullptr;
  std::vector<std::string> known;
  for (IrValue& candidate : ir.values) {
    if (candidate.producer == nullptr && candidate.origin != Origin::input) continue;
    if (!candidate.type.known()) known.push_back(candidate.name);
    if (candidate.name == name) value = &candidate;
  }
  if (value == nullptr) return refused("a bound is given for '" + name + "', which the plan does not compute", did_you_mean(name, known));
  if (!value->type.has_rank) {
    value->type.has_rank = true;
    value->type.dims.assign(most.size(), -1);
  }
  const std::size_t rank = value->type.dims.size();
  if (most.size() != rank && most.size() != 1)
    return refused("'" + name + "' has rank " + std::to_string(rank) + ", the bound given has " + std::to_string(most.size()));
  if (value->type.known()) return refused("a bound is given for '" + name + "', whose shape is known without", "leave it out");
  value->dim_names.resize(rank);
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const std::int64_t size = most[most.size() == rank ? axis : 0];
    if (value->type.dims[axis] >= 0) continue;
    value->dim_names[axis] = bound_name(name, axis);
    FB_TRY(ranges.add(value->dim_names[axis], {0, size, size}, "the bound of '" + name + "'"));
  }
  return {};
}

// The part of a state's name after its prefix; empty when it has none of them.
std::string state_of(const std::string& name, std::initializer_list<std::string_view> prefixes) {
  for (const std::string_view prefix : prefixes)
    if (name.size() > prefix.size() && name.compare(0, prefix.size(), prefix) == 0) return name.substr(prefix.size());
  return {};
}

std::vector<StateNames> pairs_by_name(const Ir& ir) {
  std::map<std::string, ValueId> inputs;
  for (const ValueId id : ir.graphs[0].inputs) {
    const std::string state = state_of(ir.values[id].name, {"past_key_values.", "past_key_values_", "past.", "past_"});
    if (!state.empty()) inputs.emplace(state, id);
  }
  std::vector<StateNames> pairs;
  std::set<ValueId> used;
  for (const ValueId id : ir.graphs[0].outputs) {
    const auto at = inputs.find(state_of(ir.values[id].name, {"present_key_values.", "present_key_values_", "present.", "present_"}));
    if (at == inputs.end() || ir.values[at->second].type.dtype != ir.values[id].type.dtype || !used.insert(at->second).second) continue;
    pairs.push_back({id, at->second});
  }
  return pairs;
}

}  // namespace

Result<std::vector<plan::DimRange>> shape_ranges(Ir& ir, const Options& options) {
  Ranges ranges;
  std::vector<std::string> known;
  for (const auto& [name, shapes] : options.input_shapes) FB_TRY(add_input(ir, ranges, name, shapes));
  for (const ValueId id : ir.graphs[0].inputs)
    for (const std::string& name : ir.values[id].dim_names)
      if (!name.empty()) known.push_back(name);
  for (const plan::DimRange& range : options.ranges) {
    if (std::find(known.begin(), known.end(), range.name) == known.end())
      return refused("a range is given for dimension '" + range.name + "', which no input has", did_you_mean(range.name, known));
    FB_TRY(ranges.add(range.name, {range.min, range.opt, range.max}, "the options"));
  }
  for (const auto& [name, most] : options.bounds) FB_TRY(add_bound(ir, ranges, name, most));
  return ranges.list();
}

Result<std::vector<StateNames>> find_state_pairs(const Ir& ir, const Options& options) {
  if (options.state_pairs.empty()) return pairs_by_name(ir);
  std::vector<StateNames> pairs;
  std::set<ValueId> used;
  for (const auto& [output, input] : options.state_pairs) {
    const auto out = find_named(ir, ir.graphs[0].outputs, output), in = find_named(ir, ir.graphs[0].inputs, input);
    if (!out)
      return refused("the state pair names output '" + output + "', which the model has not",
                     did_you_mean(output, names_of(ir, ir.graphs[0].outputs)));
    if (!in)
      return refused("the state pair names input '" + input + "', which the model has not",
                     did_you_mean(input, names_of(ir, ir.graphs[0].inputs)));
    if (ir.values[*out].type.dtype != ir.values[*in].type.dtype)
      return refused("state pair '" + output + "', '" + input + "': the element types differ");
    if (!used.insert(*in).second || !used.insert(*out).second)
      return refused("state pair '" + output + "', '" + input + "': one of them is in another pair too");
    pairs.push_back({*out, *in});
  }
  return pairs;
}

}  // namespace forebay::builder
