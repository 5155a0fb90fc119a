#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/check.h"
#include "fuzz_seeds.h"
#include "plan/plan_io.h"
#include "plan/sample_plan.h"
#include "refit/shard_writer.h"

namespace {

using namespace forebay;

std::string index_of(plan::Plan plan, std::uint64_t max_shard) {
  std::string folder = (std::filesystem::temp_directory_path() / "forebay-seeds-XXXXXX").string();
  FB_CHECK(::mkdtemp(folder.data()) != nullptr);
  FB_CHECK(plan::serialize_plan(plan, {}).ok());
  refit::ShardWriterOptions options;
  options.max_shard_bytes = max_shard;
  auto writer = refit::ShardWriter::create(posix_file_system(), folder, plan, options);
  FB_CHECK(writer.ok());
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    const auto raw = test::sample_chunk(plan, c, 1);
    FB_CHECK((*writer)->append(raw, 0, 1, xxh128(raw)).ok());
  }
  FB_CHECK((*writer)->commit().ok());
  std::ifstream in(folder + "/forebay.index", std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return bytes;
}

}  // namespace

std::vector<std::string> forebay_fuzz_seeds() {
  std::vector<std::string> seeds = {index_of(test::sample_plan(), 1u << 30), index_of(test::sample_plan(), 1)};
  for (std::uint64_t seed = 1; seed <= 6; ++seed) seeds.push_back(index_of(test::random_plan(seed), 4096 * seed));
  return seeds;
}
