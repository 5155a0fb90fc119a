// Plans from anybody: no crash, and what is accepted writes back to the same bytes. Each input is tried as it is and with its digests
// repaired, so that the checks behind them are reached.
#include <cstring>

#include "base/check.h"
#include "plan/plan_io.h"
#include "plan/plan_surgery.h"

namespace {

using namespace forebay;

bool has_unknown_section(const test::OpenPlan& plan) {
  for (const auto& section : plan.sections) {
    if (section.record.id == 0 || section.record.id > plan::kSectionKernels) return true;
  }
  return false;
}

void try_plan(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  const auto parsed = plan::parse_plan(bytes, file_bytes, "fuzz.plan");
  if (!parsed.ok()) {
    FB_CHECK(!parsed.status().message().empty() && parsed.status().code() != Code::internal);
    return;
  }
  FB_CHECK(plan::validate_plan(**parsed).ok());
  for (const plan::Weight& weight : (*parsed)->weights) FB_CHECK(weight.recipe.describe().size() < (1u << 24));
  const auto open = test::open_plan(bytes);
  FB_CHECK(open.has_value());
  if (open->header.major != plan::kFormatMajor || open->header.minor > plan::kFormatMinor || has_unknown_section(*open)) return;
  plan::Plan copy = **parsed;
  const auto again = plan::serialize_plan(copy, {});
  FB_CHECK(again.ok() && copy.id == (*parsed)->id);
  FB_CHECK(again->size() <= bytes.size() && std::memcmp(again->data(), bytes.data(), again->size()) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try_plan(bytes, size);
  if (auto open = test::open_plan(bytes); open.has_value()) {
    const bool embedded = open->find(plan::kSectionStoredChunks) != nullptr;
    const auto repaired = test::close_plan(std::move(*open), embedded);
    plan::PlanHeader header;
    std::memcpy(&header, repaired.data(), sizeof(header));
    try_plan(repaired, header.file_bytes);
  }
  return 0;
}
