// Between a Plan and the bytes of its sections; internal to the reader and the writer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "forebay/status.h"
#include "plan/plan_data.h"

namespace forebay::plan {

struct Section {
  std::uint32_t id = 0, flags = 0;
  std::string name;
  std::string bytes;
};
// In table order. The plan must be valid.
Result<std::vector<Section>> encode_sections(const Plan& plan);
// "graph" for kSectionGraph, ...; null for an id this build does not know.
const char* known_section_name(std::uint32_t id);

struct SectionView {
  std::uint32_t id = 0;
  std::string name;
  std::span<const std::byte> bytes;
};
// Known sections, digests already checked. Ranges of enums and counts are checked here, everything else by validate_plan.
Status decode_sections(std::span<const SectionView> sections, Plan& plan);

// Parts of validate_plan.
Status validate_graphs(const Plan& plan);
Status validate_weights(const Plan& plan);
Status validate_attribute(const Plan& plan, const Attribute& attribute, bool allow_body, const std::string& where);
// Rank, dimensions, dtype; gives the bytes.
Result<std::uint64_t> tensor_bytes(DType dtype, const Shape& shape, const std::string& what);
Status invalid_plan(std::string message);

}  // namespace forebay::plan
