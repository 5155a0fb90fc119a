#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/printable.h"
#include "refit/chunk_read.h"
#include "refit/refit.h"

namespace forebay::refit {
namespace {

constexpr std::size_t kMaxProblems = 1000;  // a file of noise is told well enough by these

Status check_groups(const plan::Generation& generation, plan::WeightId id, std::vector<Problem>& problems) {
  const plan::RowBinding& rows = generation.binding.rows[id];
  if (!rows.available || rows.group_digests.empty()) return {};
  const plan::Weight& weight = generation.plan->weights[id];
  const plan::BoundFile& file = generation.binding.files[rows.file];
  std::vector<std::byte> group;
  for (std::size_t g = 0; g < rows.group_digests.size(); ++g) {
    const std::uint64_t begin = g * plan::RowBinding::kGroupBytes;
    group.resize(static_cast<std::size_t>(
        std::min<std::uint64_t>(plan::RowBinding::kGroupBytes, weight.bytes - std::min(weight.bytes, begin))));
    FB_TRY(file.buffered->read_exactly(rows.offset + begin, group));
    if (xxh128(group) == rows.group_digests[g]) continue;
    Problem problem;
    problem.code = "digest_mismatch";
    problem.message = "the digest of the rows at byte " + std::to_string(begin) + " of the weight differs";
    problem.file = file.name;
    problem.tensor = weight.name;
    problem.offset = rows.offset + begin;
    problems.push_back(std::move(problem));
    if (problems.size() >= kMaxProblems) break;
  }
  return {};
}

}  // namespace

Status verify(FileSystem&, const plan::Generation& generation, const Options& options, std::uint64_t* bytes) {
  const plan::Plan& plan = *generation.plan;
  std::vector<Problem> problems;
  codec::ChunkCodec codec;
  std::vector<std::byte> stored, raw;
  std::uint64_t done = 0, total = 0;
  for (const plan::Chunk& chunk : plan.chunks) total += chunk.raw_bytes;
  for (plan::ChunkId c = 0; c < plan.chunks.size() && problems.size() < kMaxProblems; ++c) {
    raw.resize(static_cast<std::size_t>(plan.chunks[c].raw_bytes));
    const Status status = read_bound_chunk(generation, c, codec, stored, raw);
    if (!status.ok() && status.code() != Code::corruption) return status;
    for (const Problem& problem : status.problems())
      if (!status.ok()) problems.push_back(problem);
    const plan::ChunkBinding& from = generation.binding.chunks[c];
    const bool embedded = from.has_digest && !plan.embedded.empty() && from.where == plan::ChunkBinding::Where::file &&
                          generation.binding.files.size() == 1 && from.offset == plan.embedded[c].offset &&
                          from.stored_digest == plan.embedded[c].stored_digest;
    if (status.ok() && embedded && xxh128(raw) != plan.embedded[c].raw_digest) {
      Problem problem;
      problem.code = "digest_mismatch";
      problem.message = "the digest of the decoded bytes of chunk " + std::to_string(c) + " differs";
      problem.file = generation.binding.files[from.file].name;
      problem.offset = from.offset;
      problems.push_back(std::move(problem));
    }
    done += raw.size();
    if (options.progress && !options.progress("verify", done, total)) return Status(Code::cancelled, "stopped while verifying");
  }
  for (plan::WeightId w = 0; w < generation.binding.rows.size() && problems.size() < kMaxProblems; ++w)
    FB_TRY(check_groups(generation, w, problems));
  if (bytes != nullptr) *bytes = done;
  if (problems.empty()) return {};
  std::string message = problems.size() == 1
                            ? problems.front().message
                            : std::to_string(problems.size()) + " digests differ, the first: " + problems.front().message;
  return Status(Code::corruption, std::move(message), std::move(problems));
}

}  // namespace forebay::refit
