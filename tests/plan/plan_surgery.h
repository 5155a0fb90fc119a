// Takes a plan file apart and puts it together with right digests, so that tests and fuzzers get past them.
#pragma once

#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/checked.h"
#include "base/digest.h"
#include "plan/plan_format.h"

namespace forebay::test {

struct OpenPlan {
  plan::PlanHeader header{};
  struct Section {
    plan::SectionRecord record{};
    std::vector<std::byte> bytes;
  };
  std::vector<Section> sections;

  Section* find(std::uint32_t id) {
    for (Section& section : sections) {
      if (section.record.id == id) return &section;
    }
    return nullptr;
  }
  void add(std::uint32_t id, std::uint32_t flags, const std::string& name, std::size_t bytes) {
    Section section;
    section.record.id = id;
    section.record.flags = flags;
    section.record.digest_algorithm = plan::kDigestSha256;
    std::memcpy(section.record.name.data(), name.data(), name.size());
    section.bytes.assign(bytes, std::byte{7});
    sections.push_back(std::move(section));
  }
};

// Empty when the container itself makes no sense.
inline std::optional<OpenPlan> open_plan(std::span<const std::byte> bytes) {
  OpenPlan out;
  if (bytes.size() < sizeof(out.header)) return std::nullopt;
  std::memcpy(&out.header, bytes.data(), sizeof(out.header));
  if (out.header.section_count > 64) return std::nullopt;
  const std::uint64_t table_end = sizeof(out.header) + out.header.section_count * sizeof(plan::SectionRecord);
  if (bytes.size() < table_end) return std::nullopt;
  for (std::uint32_t i = 0; i < out.header.section_count; ++i) {
    OpenPlan::Section section;
    std::memcpy(&section.record, bytes.data() + sizeof(out.header) + i * sizeof(section.record), sizeof(section.record));
    if (!range_within(section.record.offset, section.record.bytes, bytes.size())) return std::nullopt;
    const auto data = bytes.subspan(section.record.offset, section.record.bytes);
    section.bytes.assign(data.begin(), data.end());
    out.sections.push_back(std::move(section));
  }
  return out;
}

// Lays the sections out anew and computes every digest and the plan id. `keep_file_bytes`: weights follow the structure.
inline std::vector<std::byte> close_plan(OpenPlan plan, bool keep_file_bytes = false) {
  std::uint64_t end = sizeof(plan.header) + plan.sections.size() * sizeof(plan::SectionRecord);
  Sha256Stream id, digest;
  id.update(std::as_bytes(std::span(plan::kPlanIdPrefix, std::strlen(plan::kPlanIdPrefix))));
  for (OpenPlan::Section& section : plan.sections) {
    section.record.offset = align_up(end, plan::kSectionAlign);
    section.record.bytes = section.bytes.size();
    section.record.digest = sha256(section.bytes);
    end = section.record.offset + section.record.bytes;
    if ((section.record.flags & plan::kFlagStructural) == 0) continue;
    id.update(std::as_bytes(std::span(&section.record.id, 1)));
    id.update(std::as_bytes(std::span(&section.record.bytes, 1)));
    id.update(std::as_bytes(std::span(section.record.digest)));
  }
  plan.header.section_count = static_cast<std::uint32_t>(plan.sections.size());
  plan.header.structure_bytes = end;
  if (!keep_file_bytes) plan.header.file_bytes = end;
  plan.header.plan_id = id.finish();
  plan.header.digest = {};
  digest.update(std::as_bytes(std::span(&plan.header, 1)));
  for (const OpenPlan::Section& section : plan.sections) digest.update(std::as_bytes(std::span(&section.record, 1)));
  plan.header.digest = digest.finish();
  std::vector<std::byte> out(end);
  std::memcpy(out.data(), &plan.header, sizeof(plan.header));
  std::size_t at = sizeof(plan.header);
  for (const OpenPlan::Section& section : plan.sections) {
    std::memcpy(out.data() + at, &section.record, sizeof(section.record));
    at += sizeof(section.record);
    if (!section.bytes.empty()) std::memcpy(out.data() + section.record.offset, section.bytes.data(), section.bytes.size());
  }
  return out;
}

}  // namespace forebay::test
