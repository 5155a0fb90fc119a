// Plan files: structure to bytes and back. docs/plan_format.md has every byte; plan_format.h the constants and on-disk structs.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "plan/plan_data.h"

namespace forebay::plan {

// Current version and the oldest reader that can open what this build writes.
inline constexpr std::uint16_t kFormatMajor = 1, kFormatMinor = 0;

struct SerializeOptions {
  std::uint16_t compatible_major = kFormatMajor, compatible_minor = kFormatMinor;  // build --compatible-with
};
// Header, section table and sections without embedded weights; sets plan.id. Deterministic: same plan, same bytes.
Result<std::vector<std::byte>> serialize_plan(Plan& plan, const SerializeOptions& options);

// Writes a plan with embedded weights: reserve() computes where chunk i starts for the given stored sizes, so that the structure (which
// holds the stored-chunk table) can be written last. Usage: create, append_chunk for each chunk in order, commit.
class EmbeddedPlanWriter {
 public:
  static Result<std::unique_ptr<EmbeddedPlanWriter>> create(FileSystem& fs, const std::string& path, Plan plan,
                                                            const SerializeOptions& options);
  virtual ~EmbeddedPlanWriter() = default;
  // The next chunk in order, as stored. Sets its record; digests are computed here.
  virtual Status append_chunk(std::span<const std::byte> stored, std::uint8_t codec, std::uint8_t codec_version, const Xxh128& raw_digest) = 0;
  virtual Status commit() = 0;
  virtual std::uint64_t file_bytes() const = 0;
};
// A stripped plan, durably.
Status write_stripped_plan(FileSystem& fs, const std::string& path, Plan& plan, const SerializeOptions& options);

// Reads and validates everything structural: header, digests of all sections before use, every index, range, size and graph reference; the
// operators are not looked up here. Embedded chunks are checked for ranges only. invalid_model (wrong magic, newer, malformed), corruption
// (digest, truncation) with file and offset. `file` gets the open handle when not null.
Result<std::shared_ptr<const Plan>> read_plan(FileSystem& fs, const std::string& path, std::shared_ptr<File>* file);
// The same from bytes, for the fuzzer.
Result<std::shared_ptr<const Plan>> parse_plan(std::span<const std::byte> bytes, std::uint64_t file_bytes, const std::string& name);
// Internal consistency of a Plan built in memory: the same checks as the reader makes.
Status validate_plan(const Plan& plan);

struct PlanHeaderInfo {
  std::uint16_t major = 0, minor = 0, min_reader_major = 0, min_reader_minor = 0;
  std::uint64_t required_features = 0;
  Sha256 id{};
  struct Section {
    std::uint32_t id = 0;
    std::string name;
    bool critical = false;
    std::uint64_t offset = 0, bytes = 0;
  };
  std::vector<Section> sections;
  std::uint64_t file_bytes = 0;
};
// Header and section table only: works on plans that are too new, for inspect.
Result<PlanHeaderInfo> read_plan_header(FileSystem& fs, const std::string& path);

}  // namespace forebay::plan
