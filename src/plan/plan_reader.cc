// Reads plans that anybody may have written. Invariants: nothing is used before its digest is checked, except what says whether this build
// can read the file at all (magic, endianness, versions); caps come before allocations; every byte of the structure is either covered by a
// digest or must be zero; a plan of our own version has one spelling, so what is accepted writes back to the same bytes.
#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/checked.h"
#include "plan/plan_format.h"
#include "plan/plan_io.h"
#include "plan/plan_sections.h"

namespace forebay::plan {
namespace {

std::string version(std::uint16_t major, std::uint16_t minor) { return std::to_string(major) + "." + std::to_string(minor); }

Status problem(Code code, const char* word, std::string message, std::uint64_t offset, const char* hint = "") {
  Problem what;
  what.code = word;
  what.message = "plan: " + std::move(message);
  what.offset = offset;
  what.hint = hint;
  return Status(code, std::move(what));
}
Status malformed(std::string message, std::uint64_t offset) {
  return problem(Code::invalid_model, "plan_invalid", std::move(message), offset);
}
Status damaged(std::string message, std::uint64_t offset) {
  return problem(Code::corruption, "plan_damaged", std::move(message), offset, "copy or build the plan again");
}

Status truncated(std::uint64_t wanted, std::uint64_t real) {
  return damaged("cut: it wants " + std::to_string(wanted) + " bytes, the file has " + std::to_string(real), real);
}

template <typename T>
bool all_zero(const T& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](auto b) { return b == decltype(b){}; });
}

struct Container {
  PlanHeader header;
  std::vector<SectionRecord> records;
};

// Only what says whether this build can read on.
Status check_readable(std::span<const std::byte> bytes, std::uint64_t file_bytes, PlanHeader& header) {
  if (bytes.size() >= sizeof(header.magic) && std::memcmp(bytes.data(), kPlanMagic.data(), kPlanMagic.size()) != 0) {
    return problem(Code::invalid_model, "plan_magic", "this is no forebay plan (the first bytes differ)", 0,
                   "build makes plans from ONNX models");
  }
  if (bytes.size() < sizeof(PlanHeader)) return truncated(sizeof(PlanHeader), file_bytes);
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.endian == kSwappedEndianMark)
    return malformed("it was written big-endian; only little-endian plans are read", offsetof(PlanHeader, endian));
  if (header.endian != kEndianMark) return malformed("its endianness mark is damaged", offsetof(PlanHeader, endian));
  return {};
}

Status check_versions(const PlanHeader& header) {
  if (header.min_reader_major > kFormatMajor || (header.min_reader_major == kFormatMajor && header.min_reader_minor > kFormatMinor)) {
    return problem(Code::invalid_model, "plan_newer",
                   "format " + version(header.major, header.minor) + " needs a reader of format " +
                       version(header.min_reader_major, header.min_reader_minor) + " or newer; this one reads " +
                       version(kFormatMajor, kFormatMinor),
                   offsetof(PlanHeader, min_reader_major), "use a newer forebay, or build the plan with --compatible-with");
  }
  if (header.major == 0 || header.min_reader_major == 0) return malformed("format version 0 never was", offsetof(PlanHeader, major));
  if (header.required_features != 0) {
    return problem(Code::invalid_model, "plan_newer",
                   "it needs features that this build does not know (bits " + std::to_string(header.required_features) + ")",
                   offsetof(PlanHeader, required_features), "use a newer forebay");
  }
  return {};
}

std::string record_name(const SectionRecord& record) {
  return std::string(record.name.data(), strnlen(record.name.data(), record.name.size()));
}

// Header digest and table; no section is looked at. `bytes` holds at least header and table.
Status read_table(std::span<const std::byte> bytes, std::uint64_t file_bytes, Container& out) {
  const PlanHeader& header = out.header;
  if (header.section_count > kMaxSections)
    return malformed(std::to_string(header.section_count) + " sections", offsetof(PlanHeader, section_count));
  const std::uint64_t table_end = sizeof(PlanHeader) + std::uint64_t{header.section_count} * sizeof(SectionRecord);
  if (bytes.size() < table_end) return truncated(table_end, file_bytes);
  out.records.resize(header.section_count);
  if (!out.records.empty()) std::memcpy(out.records.data(), bytes.data() + sizeof(PlanHeader), table_end - sizeof(PlanHeader));
  PlanHeader unsigned_header = header;
  unsigned_header.digest = {};
  Sha256Stream digest;
  digest.update(std::as_bytes(std::span(&unsigned_header, 1)));
  digest.update(std::as_bytes(std::span(out.records)));
  if (digest.finish() != header.digest) return damaged("the digest of header and section table does not match", 0);
  return {};
}

Status check_section_record(const SectionRecord& record, std::uint64_t at, std::uint64_t& end, std::uint64_t structure_bytes) {
  const std::string name = record_name(record);
  const bool printable = std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f; });
  if (name.empty() || !printable || !all_zero(std::span(record.name).subspan(name.size())))
    return malformed("a section's name is damaged", at);
  if ((record.flags & ~kKnownFlags) != 0 || record.reserved != 0) return malformed("section '" + name + "' has unknown flags", at);
  if (record.offset != align_up(end, kSectionAlign) || !range_within(record.offset, record.bytes, structure_bytes)) {
    return malformed("section '" + name + "' lies at " + std::to_string(record.offset) + " with " + std::to_string(record.bytes) +
                         " bytes; expected at " + std::to_string(align_up(end, kSectionAlign)) + " within " +
                         std::to_string(structure_bytes),
                     at);
  }
  end = record.offset + record.bytes;
  const char* known = known_section_name(record.id);
  if (known == nullptr) {
    if ((record.flags & kFlagCritical) == 0) return {};
    return problem(
        Code::invalid_model, "plan_section",
        "section '" + name + "' (id " + std::to_string(record.id) + ") is needed to understand it and is not known to this build", at,
        "use a newer forebay");
  }
  if (record.digest_algorithm != kDigestSha256) return malformed("section '" + name + "' has an unknown digest", at);
  std::uint32_t flags = kFlagCritical | kFlagStructural;
  if (record.id == kSectionInfo || record.id == kSectionStoredChunks) flags = kFlagCritical;
  if (record.id == kSectionKernels) flags = 0;
  const bool named = record.id == kSectionKernels ? name.starts_with("kernels.") : name == known;
  if (record.flags != flags || !named) return malformed("section '" + name + "' has the wrong name or flags", at);
  return {};
}

Status check_container(const Container& container, std::uint64_t file_bytes) {
  const PlanHeader& header = container.header;
  if (!all_zero(header.reserved) || header.signature_algorithm != 0 || header.signature_bytes != 0 || header.signature_offset != 0) {
    return malformed("a reserved field of the header is not zero", offsetof(PlanHeader, signature_algorithm));
  }
  if (header.structure_bytes > kMaxStructureBytes || header.structure_bytes > header.file_bytes) {
    return malformed("it states a structure of " + std::to_string(header.structure_bytes) + " bytes",
                     offsetof(PlanHeader, structure_bytes));
  }
  if (file_bytes < header.file_bytes) return truncated(header.file_bytes, file_bytes);
  if (file_bytes > header.file_bytes)
    return damaged(std::to_string(file_bytes - header.file_bytes) + " bytes follow its end", header.file_bytes);
  std::uint64_t end = sizeof(PlanHeader) + container.records.size() * sizeof(SectionRecord);
  for (std::size_t i = 0; i < container.records.size(); ++i) {
    const SectionRecord& record = container.records[i];
    const std::uint64_t at = sizeof(PlanHeader) + i * sizeof(SectionRecord);
    FB_TRY(check_section_record(record, at, end, header.structure_bytes));
    if (i == 0) continue;
    const SectionRecord& before = container.records[i - 1];
    const bool same_id = record.id == before.id;
    if (record.id < before.id || (same_id && (record.id != kSectionKernels && known_section_name(record.id) != nullptr)) ||
        (same_id && record_name(record) <= record_name(before))) {
      return malformed("section '" + record_name(record) + "' is there twice or out of order", at);
    }
  }
  if (end != header.structure_bytes)
    return malformed("its sections end at " + std::to_string(end) + ", not at the end of the structure", end);
  return {};
}

Status check_digests(const Container& container, std::span<const std::byte> bytes) {
  std::uint64_t end = sizeof(PlanHeader) + container.records.size() * sizeof(SectionRecord);
  Sha256Stream id;
  id.update(std::as_bytes(std::span(kPlanIdPrefix, std::strlen(kPlanIdPrefix))));
  for (const SectionRecord& record : container.records) {
    if (!all_zero(bytes.subspan(end, record.offset - end)))
      return damaged("padding before section '" + record_name(record) + "' is not zero", end);
    end = record.offset + record.bytes;
    if (record.digest_algorithm == kDigestSha256 && sha256(bytes.subspan(record.offset, record.bytes)) != record.digest) {
      return damaged("the digest of section '" + record_name(record) + "' does not match", record.offset);
    }
    if ((record.flags & kFlagStructural) == 0) continue;
    id.update(std::as_bytes(std::span(&record.id, 1)));
    id.update(std::as_bytes(std::span(&record.bytes, 1)));
    id.update(std::as_bytes(std::span(record.digest)));
  }
  if (const Sha256 found = id.finish(); found != container.header.plan_id) {
    return damaged("it states the plan id " + to_hex(Sha256(container.header.plan_id)) + ", its sections give " + to_hex(found),
                   offsetof(PlanHeader, plan_id));
  }
  return {};
}

Status check_embedded_place(const Container& container, const Plan& plan) {
  const std::uint64_t structure = container.header.structure_bytes;
  if (plan.embedded.empty()) {
    return container.header.file_bytes == structure ? Status()
                                                    : malformed("bytes follow the structure and no section explains them", structure);
  }
  const StoredChunk& last = plan.embedded.back();
  const std::uint64_t end = align_up(last.offset + last.stored_bytes, kBlockBytes);
  if (plan.embedded.front().offset != align_up(structure, kBlockBytes) || end != container.header.file_bytes) {
    return malformed("its embedded weights lie from " + std::to_string(plan.embedded.front().offset) + " to " + std::to_string(end) +
                         "; the file has place from " + std::to_string(align_up(structure, kBlockBytes)) + " to " +
                         std::to_string(container.header.file_bytes),
                     structure);
  }
  return {};
}

// A message can be written in many ways that mean the same; ours are in one. Newer minor versions may add fields that we do not keep.
Status check_spelling(const Container& container, std::span<const std::byte> bytes, const Plan& plan) {
  if (container.header.major != kFormatMajor || container.header.minor > kFormatMinor) return {};
  FB_ASSIGN(const auto sections, encode_sections(plan));
  std::size_t next = 0;
  for (const SectionRecord& record : container.records) {
    if (known_section_name(record.id) == nullptr) continue;
    const auto stored = bytes.subspan(record.offset, record.bytes);
    if (next == sections.size() || sections[next].id != record.id || sections[next].bytes.size() != stored.size() ||
        (!stored.empty() && std::memcmp(sections[next].bytes.data(), stored.data(), stored.size()) != 0)) {
      return malformed("section '" + record_name(record) + "' is not in canonical form", record.offset);
    }
    ++next;
  }
  return next == sections.size() ? Status() : malformed("section '" + sections[next].name + "' is missing", 0);
}

Result<std::shared_ptr<const Plan>> parse_structure(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  Container container;
  FB_TRY(check_readable(bytes, file_bytes, container.header));
  FB_TRY(check_versions(container.header));
  FB_TRY(read_table(bytes, file_bytes, container));
  FB_TRY(check_container(container, file_bytes));
  if (bytes.size() < container.header.structure_bytes) return truncated(container.header.structure_bytes, bytes.size());
  bytes = bytes.first(container.header.structure_bytes);
  FB_TRY(check_digests(container, bytes));
  std::vector<SectionView> views;
  for (const SectionRecord& record : container.records) {
    if (known_section_name(record.id) == nullptr) continue;
    views.push_back({record.id, record_name(record), bytes.subspan(record.offset, record.bytes)});
  }
  auto plan = std::make_shared<Plan>();
  FB_TRY(decode_sections(views, *plan));
  FB_TRY(validate_plan(*plan));
  FB_TRY(check_embedded_place(container, *plan));
  FB_TRY(check_spelling(container, bytes, *plan));
  plan->id = container.header.plan_id;
  return std::shared_ptr<const Plan>(std::move(plan));
}

}  // namespace

Result<std::shared_ptr<const Plan>> parse_plan(std::span<const std::byte> bytes, std::uint64_t file_bytes, const std::string& name) {
  auto plan = parse_structure(bytes, file_bytes);
  if (!plan.ok()) return std::move(plan).status().with_file(name);
  return plan;
}

Result<std::shared_ptr<const Plan>> read_plan(FileSystem& fs, const std::string& path, std::shared_ptr<File>* file) {
  FB_ASSIGN(std::shared_ptr<File> handle, fs.open_read(path, DirectIo::off));
  FB_ASSIGN(const FileIdentity identity, handle->identity());
  std::vector<std::byte> bytes(std::min<std::uint64_t>(identity.bytes, sizeof(PlanHeader)));
  FB_TRY(handle->read_exactly(0, bytes));
  PlanHeader header;
  Status readable = check_readable(bytes, identity.bytes, header);
  if (readable.ok()) readable = check_versions(header);
  if (!readable.ok()) return std::move(readable).with_file(handle->name());
  // What the header states is not trusted yet: it only says how much to read, below the cap and the file's size.
  if (header.structure_bytes > kMaxStructureBytes) {
    return malformed("it states a structure of " + std::to_string(header.structure_bytes) + " bytes", offsetof(PlanHeader, structure_bytes))
        .with_file(handle->name());
  }
  if (header.structure_bytes > identity.bytes) return truncated(header.structure_bytes, identity.bytes).with_file(handle->name());
  try {
    bytes.resize(std::max<std::uint64_t>(header.structure_bytes, sizeof(PlanHeader)));
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "no memory for a plan structure of " + std::to_string(header.structure_bytes) + " bytes")
        .with_file(handle->name());
  }
  FB_TRY(handle->read_exactly(0, bytes));
  FB_ASSIGN(auto plan, parse_plan(bytes, identity.bytes, handle->name()));
  if (file != nullptr) *file = std::move(handle);
  return plan;
}

Result<PlanHeaderInfo> read_plan_header(FileSystem& fs, const std::string& path) {
  FB_ASSIGN(const auto handle, fs.open_read(path, DirectIo::off));
  FB_ASSIGN(const FileIdentity identity, handle->identity());
  std::vector<std::byte> bytes(std::min<std::uint64_t>(identity.bytes, sizeof(PlanHeader) + kMaxSections * sizeof(SectionRecord)));
  FB_TRY(handle->read_exactly(0, bytes));
  Container container;
  Status status = check_readable(bytes, identity.bytes, container.header);
  if (status.ok()) status = read_table(bytes, identity.bytes, container);
  if (!status.ok()) return std::move(status).with_file(handle->name());
  const PlanHeader& header = container.header;
  PlanHeaderInfo info{header.major,   header.minor, header.min_reader_major, header.min_reader_minor, header.required_features,
                      header.plan_id, {},           header.file_bytes};
  for (const SectionRecord& record : container.records) {
    info.sections.push_back({record.id, record_name(record), (record.flags & kFlagCritical) != 0, record.offset, record.bytes});
  }
  return info;
}

}  // namespace forebay::plan
