// Sections to a plan file. The same plan gives the same bytes: sections in a fixed order, no time, no path, zero padding.
#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "plan/plan_format.h"
#include "plan/plan_io.h"
#include "plan/plan_sections.h"

namespace forebay::plan {
namespace {

Status check_compatible(const SerializeOptions& options) {
  const auto major = options.compatible_major, minor = options.compatible_minor;
  if (major == kFormatMajor && minor <= kFormatMinor) return {};
  const std::string ours = std::to_string(kFormatMajor) + "." + std::to_string(kFormatMinor);
  return Status(Code::invalid_argument, "no plan for readers of format " + std::to_string(major) + "." + std::to_string(minor) +
                                            " can be made; this build writes format " + ours)
      .with_hint("give --compatible-with a version from 1.0 to " + ours);
}

// The id covers what decides meaning and layout of the weights, not where they are stored nor which kernels run.
Sha256 plan_id(std::span<const SectionRecord> records) {
  Sha256Stream stream;
  stream.update(std::as_bytes(std::span(kPlanIdPrefix, std::strlen(kPlanIdPrefix))));
  for (const SectionRecord& record : records) {
    if ((record.flags & kFlagStructural) == 0) continue;
    stream.update(std::as_bytes(std::span(&record.id, 1)));
    stream.update(std::as_bytes(std::span(&record.bytes, 1)));
    stream.update(std::as_bytes(std::span(record.digest)));
  }
  return stream.finish();
}

std::vector<std::byte> assemble(const std::vector<Section>& sections, const SerializeOptions& options, std::uint64_t embedded_end,
                                Sha256& id) {
  std::vector<SectionRecord> records(sections.size());
  std::uint64_t offset = sizeof(PlanHeader) + sections.size() * sizeof(SectionRecord);
  for (std::size_t i = 0; i < sections.size(); ++i) {
    SectionRecord& record = records[i];
    record.id = sections[i].id;
    record.flags = sections[i].flags;
    record.offset = align_up(offset, kSectionAlign);
    record.bytes = sections[i].bytes.size();
    record.digest_algorithm = kDigestSha256;
    record.digest = sha256(std::as_bytes(std::span(sections[i].bytes)));
    std::memcpy(record.name.data(), sections[i].name.data(), sections[i].name.size());
    offset = record.offset + record.bytes;
  }
  id = plan_id(records);
  PlanHeader header{};
  header.magic = kPlanMagic;
  header.endian = kEndianMark;
  header.major = kFormatMajor;
  header.minor = kFormatMinor;
  header.min_reader_major = options.compatible_major;
  header.min_reader_minor = options.compatible_minor;
  header.section_count = static_cast<std::uint32_t>(sections.size());
  header.structure_bytes = offset;
  header.file_bytes = embedded_end == 0 ? offset : embedded_end;
  header.plan_id = id;
  Sha256Stream digest;
  digest.update(std::as_bytes(std::span(&header, 1)));
  digest.update(std::as_bytes(std::span(records)));
  header.digest = digest.finish();
  std::vector<std::byte> bytes(offset);
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), records.data(), records.size() * sizeof(SectionRecord));
  for (std::size_t i = 0; i < sections.size(); ++i) {
    if (!sections[i].bytes.empty()) std::memcpy(bytes.data() + records[i].offset, sections[i].bytes.data(), sections[i].bytes.size());
  }
  return bytes;
}

Result<std::vector<std::byte>> assemble_plan(Plan& plan, const SerializeOptions& options) {
  FB_TRY(check_compatible(options));
  FB_ASSIGN(const auto sections, encode_sections(plan));
  std::uint64_t total = 0;
  for (const Section& section : sections) total += section.bytes.size();
  constexpr std::uint64_t most = kMaxStructureBytes - (1u << 20);  // leaves place for header, table and padding
  if (total > most) {
    return Status(Code::resource_exhausted,
                  "the plan's structure takes " + std::to_string(total) + " bytes; at most " + std::to_string(most) + " are possible");
  }
  std::uint64_t end = 0;
  if (!plan.embedded.empty()) end = align_up(plan.embedded.back().offset + plan.embedded.back().stored_bytes, kBlockBytes);
  try {
    return assemble(sections, options, end, plan.id);
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "no memory to write the plan");
  }
}

class EmbeddedWriter final : public EmbeddedPlanWriter {
 public:
  EmbeddedWriter(std::unique_ptr<DurableFile> file, Plan plan, const SerializeOptions& options, std::uint64_t structure_bytes)
      : file_(std::move(file)), plan_(std::move(plan)), options_(options), structure_bytes_(structure_bytes) {}

  Status append_chunk(std::span<const std::byte> stored, std::uint8_t codec, std::uint8_t codec_version,
                      const Xxh128& raw_digest) override {
    const std::string what = "chunk " + std::to_string(next_);
    if (next_ == plan_.chunks.size())
      return Status(Code::failed_precondition, "all " + std::to_string(next_) + " chunks have been written");
    if (stored.size() > kMaxPlanChunkBytes || (codec == 0 && stored.size() != plan_.chunks[next_].raw_bytes)) {
      return Status(Code::invalid_argument, what + " has " + std::to_string(stored.size()) + " stored bytes for " +
                                                std::to_string(plan_.chunks[next_].raw_bytes) + " raw bytes");
    }
    FB_TRY(file_->pad_to(kBlockBytes));
    StoredChunk& record = plan_.embedded[next_];
    record.offset = file_->size();
    record.stored_bytes = stored.size();
    record.codec = codec;
    record.codec_version = codec_version;
    record.stored_digest = xxh128(stored);
    record.raw_digest = raw_digest;
    FB_TRY(file_->append(stored));
    ++next_;
    return {};
  }

  Status commit() override {
    if (next_ != plan_.chunks.size()) {
      return Status(Code::failed_precondition,
                    std::to_string(next_) + " of " + std::to_string(plan_.chunks.size()) + " chunks have been written");
    }
    if (next_ != 0) FB_TRY(file_->pad_to(kBlockBytes));
    FB_TRY(validate_plan(plan_));
    FB_ASSIGN(const auto structure, assemble_plan(plan_, options_));
    // The records are of fixed width, so the structure takes exactly the place that was kept for it.
    FB_CHECK(structure.size() == structure_bytes_);
    FB_TRY(file_->write_at(0, structure));
    return file_->commit();
  }

  std::uint64_t file_bytes() const override { return file_->size(); }

 private:
  std::unique_ptr<DurableFile> file_;
  Plan plan_;
  SerializeOptions options_;
  std::uint64_t structure_bytes_ = 0;
  std::size_t next_ = 0;
};

// Chunk records that stand in until the chunks are known: valid, of the right count and width.
void place_chunks(Plan& plan) {
  plan.embedded.assign(plan.chunks.size(), {});
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < plan.chunks.size(); ++i) {
    plan.embedded[i].offset = align_up(end, kBlockBytes);
    plan.embedded[i].stored_bytes = plan.chunks[i].raw_bytes;
    end = plan.embedded[i].offset + plan.embedded[i].stored_bytes;
  }
}

}  // namespace

Result<std::vector<std::byte>> serialize_plan(Plan& plan, const SerializeOptions& options) {
  FB_TRY(validate_plan(plan));
  return assemble_plan(plan, options);
}

Status write_stripped_plan(FileSystem& fs, const std::string& path, Plan& plan, const SerializeOptions& options) {
  // The weights stay out; the caller's plan keeps its records.
  std::vector<StoredChunk> embedded;
  embedded.swap(plan.embedded);
  const bool rehydrated = std::exchange(plan.embedded_rehydrated, false);
  auto bytes = serialize_plan(plan, options);
  plan.embedded.swap(embedded);
  plan.embedded_rehydrated = rehydrated;
  if (!bytes.ok()) return std::move(bytes).status();
  FB_ASSIGN(const auto file, DurableFile::create(fs, path, bytes->size()));
  FB_TRY(file->append(*bytes));
  return file->commit();
}

Result<std::unique_ptr<EmbeddedPlanWriter>> EmbeddedPlanWriter::create(FileSystem& fs, const std::string& path, Plan plan,
                                                                       const SerializeOptions& options) {
  const bool rehydrated = std::exchange(plan.embedded_rehydrated, false);
  plan.embedded.clear();
  FB_TRY(validate_plan(plan));
  place_chunks(plan);
  plan.embedded_rehydrated = rehydrated && !plan.embedded.empty();
  FB_ASSIGN(const auto structure, assemble_plan(plan, options));
  std::uint64_t weights = 0;
  for (const Chunk& chunk : plan.chunks) weights += align_up(chunk.raw_bytes, kBlockBytes);
  // An upper bound: compressed chunks take less, but nobody knows how much less.
  FB_ASSIGN(auto file, DurableFile::create(fs, path, align_up(structure.size(), kBlockBytes) + weights));
  FB_TRY(file->append(structure));
  return std::unique_ptr<EmbeddedPlanWriter>(std::make_unique<EmbeddedWriter>(std::move(file), std::move(plan), options, structure.size()));
}

}  // namespace forebay::plan
