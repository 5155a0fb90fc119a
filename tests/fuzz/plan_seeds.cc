#include "base/checked.h"
#include "fuzz_seeds.h"
#include "plan/plan_io.h"
#include "plan/sample_plan.h"

namespace {

using namespace forebay;

std::string bytes_of(plan::Plan plan) {
  const auto bytes = plan::serialize_plan(plan, {});
  return bytes.ok() ? std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()) : std::string();
}

// The structure of a plan with embedded weights, without the weights. The records are of fixed width, so two rounds place them.
plan::Plan embedded(plan::Plan plan) {
  std::uint64_t structure = 0;
  for (int round = 0; round < 2; ++round) {
    std::uint64_t end = structure;
    plan.embedded.clear();
    for (const plan::Chunk& chunk : plan.chunks) {
      plan::StoredChunk stored;
      stored.offset = align_up(end, kBlockBytes);
      stored.stored_bytes = chunk.raw_bytes;
      stored.codec_version = 1;
      end = stored.offset + stored.stored_bytes;
      plan.embedded.push_back(stored);
    }
    structure = bytes_of(plan).size();
  }
  return plan;
}

}  // namespace

std::vector<std::string> forebay_fuzz_seeds() {
  std::vector<std::string> seeds = {bytes_of(test::sample_plan()), bytes_of(embedded(test::sample_plan()))};
  for (std::uint64_t seed = 1; seed <= 12; ++seed) seeds.push_back(bytes_of(test::random_plan(seed)));
  return seeds;
}
