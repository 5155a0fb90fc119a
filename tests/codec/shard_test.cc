// Shard sets: written and read back; every damage found (F9, F14, F15, F19, F20, F31, F34); one complete set at any time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/checked.h"
#include "codec/chunk_codec.h"
#include "codec/shard_surgery.h"
#include "plan/plan_io.h"
#include "plan/sample_plan.h"
#include "plan/scratch.h"
#include "refit/shard_reader.h"
#include "refit/shard_writer.h"

namespace forebay::test {
namespace {

using refit::ShardSet;
using refit::ShardWriter;

FileSystem& fs() { return posix_file_system(); }

plan::Plan plan_with_id() {
  plan::Plan plan = sample_plan();
  EXPECT_TRUE(plan::serialize_plan(plan, {}).ok());
  return plan;
}

Status pack(const std::string& folder, const plan::Plan& plan, std::uint64_t seed, std::uint8_t codec_id,
            std::uint64_t max_shard = 120'000) {
  refit::ShardWriterOptions options;
  options.max_shard_bytes = max_shard;
  auto writer = ShardWriter::create(fs(), folder, plan, options);
  if (!writer.ok()) return writer.status();
  codec::ChunkCodec codec;
  std::vector<std::byte> stored;
  for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) {
    const auto raw = sample_chunk(plan, c, seed);
    if (Status status = codec.encode(codec_id, raw, 3, stored); !status.ok()) return status;
    if (Status status = (*writer)->append(stored, codec_id, codec::codec_version(codec_id), xxh128(raw)); !status.ok()) return status;
  }
  return (*writer)->commit();
}

Result<std::shared_ptr<const ShardSet>> open(const Scratch& folder) { return ShardSet::open(fs(), folder.path(), DirectIo::prefer); }

std::vector<std::byte> raw_chunk(const ShardSet& set, std::uint32_t chunk) {
  std::vector<std::byte> stored;
  const Status read = set.read_stored(chunk, stored);
  EXPECT_TRUE(read.ok()) << read.to_string();
  const auto& record = set.index().chunks[chunk];
  std::vector<std::byte> raw(record.raw_bytes);
  codec::ChunkCodec codec;
  const Status decoded = codec.decode(record.codec, record.codec_version, stored, raw);
  EXPECT_TRUE(decoded.ok()) << decoded.to_string();
  EXPECT_EQ(xxh128(raw), record.raw_digest);
  return raw;
}

TEST(Shard, WrittenSetsAreReadBack) {
  const plan::Plan plan = plan_with_id();
  for (const std::uint8_t id : {codec::kRaw, codec::kZstd}) {
    const Scratch folder;
    const Status packed = pack(folder.path(), plan, 5, id);
    ASSERT_TRUE(packed.ok()) << packed.to_string();
    const auto set = open(folder);
    ASSERT_TRUE(set.ok()) << set.status().to_string();
    EXPECT_TRUE((*set)->check_plan(plan).ok());
    EXPECT_TRUE((*set)->check_padding().ok());
    EXPECT_EQ((*set)->index().plan_id, plan.id);
    for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) EXPECT_EQ(raw_chunk(**set, c), sample_chunk(plan, c, 5));
    for (const refit::ShardChunk& chunk : (*set)->index().chunks) EXPECT_EQ(chunk.offset % kBlockBytes, 0u);
  }
}

TEST(Shard, SizeLimitSplitsInExecutionOrder) {
  const plan::Plan plan = plan_with_id();
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw, 120'000).ok());
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"forebay-00001.shard", "forebay-00002.shard", "forebay.index"}));
  const auto set = open(folder);
  ASSERT_TRUE(set.ok());
  EXPECT_EQ((*set)->index().files.size(), 2u);
  EXPECT_LE((*set)->index().files[0].bytes, 120'000u);
  // A limit below any chunk: a shard for each.
  const Scratch tiny;
  ASSERT_TRUE(pack(tiny.path(), plan, 5, codec::kRaw, 1).ok());
  EXPECT_EQ(open(tiny).value()->index().files.size(), plan.chunks.size());
}

TEST(Shard, SameWeightsHaveTheSameIdInAnyForm) {
  const plan::Plan plan = plan_with_id();
  const Scratch raw, coded, again, other;
  ASSERT_TRUE(pack(raw.path(), plan, 5, codec::kRaw).ok());
  ASSERT_TRUE(pack(coded.path(), plan, 5, codec::kZstd, 1 << 30).ok());
  ASSERT_TRUE(pack(again.path(), plan, 5, codec::kRaw).ok());
  ASSERT_TRUE(pack(other.path(), plan, 6, codec::kRaw).ok());
  const auto id = [](const Scratch& folder) { return open(folder).value()->index().weight_set_id; };
  EXPECT_EQ(id(raw), id(coded));
  EXPECT_NE(id(raw), id(other));
  for (const std::string& name : raw.names()) EXPECT_EQ(slurp(raw / name), slurp(again / name)) << name;
}

TEST(Shard, RowsOfGatherOnlyWeightsCanBeReadOneByOne) {
  const plan::Plan plan = plan_with_id();
  const Scratch folder, coded, split;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw, 1 << 30).ok());
  const auto set = open(folder).value();
  const auto binding = set->bind(plan);
  ASSERT_TRUE(binding.ok()) << binding.status().to_string();
  ASSERT_EQ(binding->chunks.size(), plan.chunks.size());
  EXPECT_EQ(binding->integrity, "digests");
  const plan::RowBinding& rows = binding->rows[1];
  ASSERT_TRUE(rows.available);
  EXPECT_FALSE(binding->rows[0].available);
  EXPECT_EQ(rows.row_bytes, 1024u);
  ASSERT_EQ(rows.group_digests.size(), 2u);
  std::vector<std::byte> whole(100 * 1024);
  ASSERT_TRUE(binding->files[rows.file].buffered->read_exactly(rows.offset, whole).ok());
  EXPECT_EQ(xxh128(std::span(whole).first(65'536)), rows.group_digests[0]);
  EXPECT_EQ(xxh128(std::span(whole).subspan(65'536)), rows.group_digests[1]);
  const auto first = sample_chunk(plan, plan.parts[plan.weights[1].first_part].chunk, 5);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), whole.begin()));
  // Not where it is coded, nor where a shard ends within it.
  ASSERT_TRUE(pack(coded.path(), plan, 5, codec::kZstd).ok());
  EXPECT_FALSE(open(coded).value()->bind(plan)->rows[1].available);
  ASSERT_TRUE(pack(split.path(), plan, 5, codec::kRaw, 1).ok());
  EXPECT_FALSE(open(split).value()->bind(plan)->rows[1].available);
}

TEST(Shard, AnotherPlanIsRefusedWithBothIds) {  // F31, F34
  const plan::Plan plan = plan_with_id();
  plan::Plan other = sample_plan();
  other.weights[0].name = "another";
  ASSERT_TRUE(plan::serialize_plan(other, {}).ok());
  ASSERT_NE(other.id, plan.id);
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw).ok());
  const Status status = open(folder).value()->check_plan(other);
  EXPECT_EQ(status.code(), Code::weight_mismatch);
  EXPECT_NE(status.message().find(to_hex(plan.id)), std::string::npos);
  EXPECT_NE(status.message().find(to_hex(other.id)), std::string::npos);
  // Even if an id were equal by mistake, the tables are compared.
  other.id = plan.id;
  EXPECT_NE(open(folder).value()->check_plan(other).message().find("'another'"), std::string::npos);
  EXPECT_FALSE(open(folder).value()->bind(other).ok());
}

TEST(Shard, AShardOfAnotherSetIsRefused) {  // F16, F34
  const plan::Plan plan = plan_with_id();
  const Scratch one, two, coded;
  ASSERT_TRUE(pack(one.path(), plan, 5, codec::kRaw).ok());
  ASSERT_TRUE(pack(two.path(), plan, 6, codec::kRaw).ok());
  spill(one / "forebay-00002.shard", slurp(two / "forebay-00002.shard"));
  const auto set = open(one);
  ASSERT_FALSE(set.ok());
  EXPECT_EQ(set.status().code(), Code::corruption);
  EXPECT_NE(set.status().message().find("weights"), std::string::npos) << set.status().to_string();
  EXPECT_EQ(set.status().problems()[0].file, "forebay-00002.shard");
  // The same weights packed otherwise: the records differ.
  ASSERT_TRUE(pack(coded.path(), plan, 6, codec::kZstd, 80'000).ok());
  spill(two / "forebay-00001.shard", slurp(coded / "forebay-00001.shard"));
  EXPECT_EQ(open(two).status().code(), Code::corruption);
}

TEST(Shard, TruncationIsRefusedWithWantedAndRealSize) {  // F9
  const plan::Plan plan = plan_with_id();
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw).ok());
  const auto index = open(folder).value()->index();
  for (std::uint32_t f = 0; f < index.files.size(); ++f) {
    const std::string name = index.files[f].name;
    const auto bytes = slurp(folder / name);
    std::vector<std::uint64_t> edges = {0, 4096, bytes.size() - 64, bytes.size()};
    for (const refit::ShardChunk& chunk : index.chunks) {
      if (chunk.file != f) continue;
      edges.push_back(chunk.offset);
      edges.push_back(chunk.offset + chunk.stored_bytes);
    }
    for (const std::uint64_t edge : edges) {
      for (const std::uint64_t size : {edge - 1, edge, edge + 1}) {
        if (size == bytes.size() || size > bytes.size() + 1) continue;
        auto edited = bytes;
        edited.resize(size);
        spill(folder / name, edited);
        const auto set = open(folder);
        ASSERT_FALSE(set.ok()) << size;
        EXPECT_EQ(set.status().code(), Code::corruption);
        EXPECT_NE(set.status().message().find(std::to_string(bytes.size()) + " bytes are wanted, the file has " + std::to_string(size)),
                  std::string::npos)
            << set.status().to_string();
        EXPECT_EQ(set.status().problems()[0].file, name);
      }
    }
    spill(folder / name, bytes);
  }
  EXPECT_TRUE(open(folder).ok());
  std::filesystem::remove(folder / index.files[1].name);
  EXPECT_EQ(open(folder).status().code(), Code::not_found);  // F13
}

void poke(const std::string& path, std::size_t at, std::byte value) {
  std::FILE* file = std::fopen(path.c_str(), "r+b");
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(std::fseek(file, static_cast<long>(at), SEEK_SET), 0);
  ASSERT_EQ(std::fputc(static_cast<int>(value), file), static_cast<int>(value));
  ASSERT_EQ(std::fclose(file), 0);
}

TEST(Shard, EveryFlippedBitIsFound) {  // F14; the index has its own test below
  plan::Plan plan = tiny_plan();
  ASSERT_TRUE(plan::serialize_plan(plan, {}).ok());
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw).ok());
  const auto wanted = sample_chunk(plan, 0, 5);
  const std::string path = folder / "forebay-00001.shard";
  const auto bytes = slurp(path);
  int at_load = 0, at_use = 0, in_padding = 0;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const std::size_t at = bit / 8;
    // Within the two long runs of padding only every 61st bit, to save time; elsewhere all.
    if (((at > 200 && at < 4096) || (at > 4096 + 200 && at < 8192)) && bit % 61 != 0) continue;
    poke(path, at, bytes[at] ^ static_cast<std::byte>(1 << (bit % 8)));
    const auto set = ShardSet::open(fs(), folder.path(), DirectIo::off);
    std::vector<std::byte> stored;
    if (!set.ok()) {
      EXPECT_EQ(set.status().code(), Code::corruption);
      ++at_load;
    } else if (const Status read = (*set)->read_stored(0, stored); !read.ok()) {
      EXPECT_EQ(read.code(), Code::corruption);
      ++at_use;
    } else {
      // Only bytes that no weight has; verify finds those.
      EXPECT_EQ(stored, wanted);
      EXPECT_FALSE((*set)->check_padding().ok()) << "bit " << bit;
      ++in_padding;
    }
    poke(path, at, bytes[at]);
  }
  EXPECT_GE(at_load, (144 + 64) * 8);
  EXPECT_EQ(at_use, 200 * 8);
  EXPECT_GT(in_padding, 0);
  EXPECT_TRUE(open(folder).ok());
}

TEST(Shard, SwappedChunksAreFound) {  // F15
  const plan::Plan plan = plan_with_id();
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw, 1 << 30).ok());
  const auto index = open(folder).value()->index();
  // Chunks 0 and 2 have 64 KiB each.
  ASSERT_EQ(index.chunks[0].stored_bytes, index.chunks[2].stored_bytes);
  auto bytes = slurp(folder / "forebay-00001.shard");
  std::swap_ranges(bytes.begin() + static_cast<std::ptrdiff_t>(index.chunks[0].offset),
                   bytes.begin() + static_cast<std::ptrdiff_t>(index.chunks[0].offset + index.chunks[0].stored_bytes),
                   bytes.begin() + static_cast<std::ptrdiff_t>(index.chunks[2].offset));
  spill(folder / "forebay-00001.shard", bytes);
  const auto set = open(folder);
  ASSERT_TRUE(set.ok());
  std::vector<std::byte> stored;
  for (const std::uint32_t c : {0u, 2u}) {
    const Status status = (*set)->read_stored(c, stored);
    EXPECT_EQ(status.code(), Code::corruption);
    EXPECT_EQ(status.problems()[0].offset, index.chunks[c].offset);
  }
  EXPECT_TRUE((*set)->read_stored(1, stored).ok());
}

class IndexEdit : public testing::Test {
 protected:
  void SetUp() override {
    plan_ = plan_with_id();
    ASSERT_TRUE(pack(folder_.path(), plan_, 5, codec::kRaw).ok());
    bytes_ = slurp(folder_ / "forebay.index");
    ASSERT_TRUE(refit::parse_shard_index(bytes_, "forebay.index").ok());
    std::memcpy(&header_, bytes_.data(), sizeof(header_));
    chunks_ = sizeof(header_) + header_.file_count * sizeof(codec::FileRecord);
    parts_ = chunks_ + header_.chunk_count * sizeof(codec::ChunkRecord);
    weights_ = parts_ + header_.part_count * sizeof(codec::PartRecord);
  }
  template <typename Record>
  void edit(std::uint64_t at, const std::function<void(Record&)>& change) {
    Record record;
    std::memcpy(&record, bytes_.data() + at, sizeof(record));
    change(record);
    std::memcpy(bytes_.data() + at, &record, sizeof(record));
    repair_index(bytes_);
  }
  void expect_refused(const std::string& text, Code code = Code::corruption) {
    const auto index = refit::parse_shard_index(bytes_, "forebay.index");
    ASSERT_FALSE(index.ok()) << "wanted: " << text;
    EXPECT_EQ(index.status().code(), code);
    EXPECT_NE(index.status().message().find(text), std::string::npos) << index.status().to_string();
    EXPECT_EQ(index.status().problems()[0].file, "forebay.index");
  }
  std::uint64_t chunk(std::uint32_t id) const { return chunks_ + id * sizeof(codec::ChunkRecord); }
  std::uint64_t part(std::uint32_t id) const { return parts_ + id * sizeof(codec::PartRecord); }
  std::uint64_t weight(std::uint32_t id) const { return weights_ + id * sizeof(codec::WeightRecord); }

  Scratch folder_;
  plan::Plan plan_;
  std::vector<std::byte> bytes_;
  codec::IndexHeader header_{};
  std::uint64_t chunks_ = 0, parts_ = 0, weights_ = 0;
};

TEST_F(IndexEdit, RepairAloneChangesNothing) {
  const auto before = bytes_;
  repair_index(bytes_);
  EXPECT_EQ(bytes_, before);
}

TEST_F(IndexEdit, EveryByteFlippedOrSetIsRefused) {  // F19
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    const std::byte old = bytes_[i];
    std::vector<std::byte> values = {std::byte{0}, std::byte{0xff}, std::byte{0xfe}};
    for (int bit = 0; bit < 8; ++bit) values.push_back(old ^ static_cast<std::byte>(1 << bit));
    for (const std::byte value : values) {
      if (value == old) continue;
      bytes_[i] = value;
      ASSERT_FALSE(refit::parse_shard_index(bytes_, "x").ok()) << i;
    }
    bytes_[i] = old;
  }
}

TEST_F(IndexEdit, EveryTruncationIsRefused) {
  for (std::size_t size = 0; size < bytes_.size(); ++size) {
    ASSERT_FALSE(refit::parse_shard_index(std::span(bytes_).first(size), "x").ok()) << size;
  }
}

// Every 32-bit word at 0, max and max - 1 with digests repaired. What cannot be told by tables alone are the digests of chunk bytes and of
// row groups and the plan id, which are compared with bytes and plan when those are there.
TEST_F(IndexEdit, EveryFieldAtItsEdgesBehindRightDigests) {  // F19
  const auto good = bytes_;
  const std::uint64_t groups = weights_ + header_.weight_count * sizeof(codec::WeightRecord);
  const std::uint64_t strings = groups + header_.group_count * sizeof(codec::GroupRecord);
  int accepted_digests = 0;
  for (std::uint64_t at = 0; at + 4 <= good.size() - 32; at += 4) {
    for (const std::uint32_t value : {0u, 0xffffffffu, 0xfffffffeu}) {
      bytes_ = good;
      std::uint32_t old = 0;
      std::memcpy(&old, good.data() + at, 4);
      std::memcpy(bytes_.data() + at, &value, 4);
      repair_index(bytes_);
      if (old == value || bytes_ == good) continue;  // repaired away: sizes and digests of the index itself
      const auto index = refit::parse_shard_index(bytes_, "x");
      if (!index.ok()) continue;
      const bool stored_digest = at >= chunks_ && at < parts_ && (at - chunks_) % sizeof(codec::ChunkRecord) >= 40 &&
                                 (at - chunks_) % sizeof(codec::ChunkRecord) < 56;
      const bool group_digest = at >= groups && at < strings;
      const bool version = at >= offsetof(codec::IndexHeader, major) && at < offsetof(codec::IndexHeader, reserved0);
      const bool place_of_nothing = at == part(6) + offsetof(codec::PartRecord, offset_in_chunk);  // of the weight without bytes
      EXPECT_TRUE(stored_digest || group_digest || version || place_of_nothing) << "at " << at << " value " << value;
      ++accepted_digests;
    }
  }
  EXPECT_GT(accepted_digests, 0);
}

TEST_F(IndexEdit, VersionsAndEndianness) {
  const auto good = bytes_;
  edit<codec::IndexHeader>(0, [](auto& h) {
    h.min_reader_minor = 4;
    h.minor = 5;
  });
  expect_refused("needs a reader of format 1.4; this one reads 1.0", Code::unsupported);
  bytes_ = good;
  edit<codec::IndexHeader>(0, [](auto& h) { h.minor = 5; });
  EXPECT_TRUE(refit::parse_shard_index(bytes_, "x").ok());
  edit<codec::IndexHeader>(0, [](auto& h) { h.required_features = 1; });
  expect_refused("features", Code::unsupported);
  bytes_ = good;
  edit<codec::IndexHeader>(0, [](auto& h) { h.endian = codec::kSwappedEndianMark; });
  expect_refused("big-endian");
}

TEST_F(IndexEdit, OverlapsGapsAndRepeatsNameBothTensors) {  // F20
  const auto good = bytes_;
  const auto both = [&](const char* word, const char* first, const char* second) {
    const auto index = refit::parse_shard_index(bytes_, "x");
    ASSERT_FALSE(index.ok());
    for (const char* text : {word, first, second}) {
      EXPECT_NE(index.status().message().find(text), std::string::npos) << text << " in " << index.status().to_string();
    }
  };
  // Chunk 3 holds the rest of the table, chunk 4 the pack that starts with bias; both are in shard 2.
  edit<codec::ChunkRecord>(chunk(4), [](auto& r) { r.offset -= 4096; });
  both("overlaps", "'bias'", "'table'");
  bytes_ = good;
  edit<codec::ChunkRecord>(chunk(4), [](auto& r) { r.offset += 4096; });
  both("a gap after", "'bias'", "'table'");
  bytes_ = good;
  const auto third = [&] {
    codec::ChunkRecord r;
    std::memcpy(&r, bytes_.data() + chunk(3), sizeof(r));
    return r.offset;
  }();
  edit<codec::ChunkRecord>(chunk(4), [&](auto& r) { r.offset = third; });
  both("repeats", "'bias'", "'table'");
  bytes_ = good;
  edit<codec::PartRecord>(part(5), [](auto& r) { r.offset_in_chunk = 0; });
  both("overlap in chunk 4", "'bias'", "'nibbles'");
  bytes_ = good;
  edit<codec::PartRecord>(part(1), [](auto& r) { r.row_begin = 10; });
  expect_refused("weight 'matrix', slab 1 does not follow");
}

TEST_F(IndexEdit, FilesOutsideOfTheFolderCannotBeNamed) {
  for (const std::string name : {"../forebay-1.shard", "/forebay-1.shard", "forebay-/1.shard", "forebay-1", "", "forebay-\x01.shard"}) {
    edit<codec::FileRecord>(sizeof(header_), [&](auto& r) {
      r.name = {};
      std::memcpy(r.name.data(), name.data(), name.size());
    });
    expect_refused("not one that is written");
  }
  edit<codec::FileRecord>(sizeof(header_), [&](auto& r) { std::memcpy(r.name.data(), "forebay-00002.shard", 20); });
  expect_refused("there twice");
}

TEST_F(IndexEdit, HugeCountsAreRefusedBeforeAllocation) {
  const auto good = bytes_;
  const std::function<void(codec::IndexHeader&)> changes[] = {
      [](auto& h) { h.file_count = 0xffffffff; },   [](auto& h) { h.chunk_count = 0xffffffff; }, [](auto& h) { h.part_count = 0xffffffff; },
      [](auto& h) { h.weight_count = 0xffffffff; }, [](auto& h) { h.group_count = ~0ull; },      [](auto& h) { h.string_bytes = ~0ull; },
      [](auto& h) { h.group_count = 1ull << 60; }};
  for (const auto& change : changes) {
    bytes_ = good;
    codec::IndexHeader header = header_;
    change(header);
    std::memcpy(bytes_.data(), &header, sizeof(header));
    const Sha256 digest = sha256(std::span(bytes_).first(bytes_.size() - 32));
    std::memcpy(bytes_.data() + bytes_.size() - 32, digest.data(), 32);
    expect_refused("a count is above its limit");
  }
}

TEST_F(IndexEdit, UnknownCodecIsNamed) {
  edit<codec::ChunkRecord>(chunk(1), [](auto& r) { r.codec = codec::kHuffman; });
  expect_refused("codec 2 (huffman) version 1", Code::unsupported);
}

// A set of the released format, kept for ever.
TEST(ShardGolden, Format10IsRead) {
  plan::Plan plan = tiny_plan();
  ASSERT_TRUE(plan::serialize_plan(plan, {}).ok());
  const auto set = ShardSet::open(fs(), FOREBAY_SOURCE_DIR "/tests/golden/shards_1_0", DirectIo::off);
  ASSERT_TRUE(set.ok()) << set.status().to_string();
  EXPECT_TRUE((*set)->check_plan(plan).ok()) << (*set)->check_plan(plan).to_string();
  EXPECT_TRUE((*set)->check_padding().ok());
  EXPECT_EQ(raw_chunk(**set, 0), sample_chunk(plan, 0, 5));
  EXPECT_EQ(to_hex((*set)->index().weight_set_id), "deda9fa3c559a5ab50115d4fba819445c59b186ce9238a96978ff04fc8856d16");
  // And what is written today has the same bytes.
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw).ok());
  for (const std::string& name : folder.names())
    EXPECT_EQ(slurp(folder / name), slurp(FOREBAY_SOURCE_DIR "/tests/golden/shards_1_0/" + name)) << name;
}

TEST(ShardWriting, ASecondSetReplacesTheFirst) {
  const plan::Plan plan = plan_with_id();
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw).ok());
  const auto old = open(folder).value();
  ASSERT_TRUE(pack(folder.path(), plan, 6, codec::kZstd).ok());
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"forebay-s2-00001.shard", "forebay.index"}));
  EXPECT_EQ(raw_chunk(*open(folder).value(), 1), sample_chunk(plan, 1, 6));
  EXPECT_EQ(raw_chunk(*old, 1), sample_chunk(plan, 1, 5));  // what was open goes on
  ASSERT_TRUE(pack(folder.path(), plan, 7, codec::kRaw).ok());
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"forebay-00001.shard", "forebay-00002.shard", "forebay.index"}));
}

TEST(ShardWriting, AnUnfinishedSetLeavesTheOldOne) {
  const plan::Plan plan = plan_with_id();
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw).ok());
  const auto before = folder.names();
  {
    auto writer = ShardWriter::create(fs(), folder.path(), plan, {});
    ASSERT_TRUE(writer.ok());
    const auto raw = sample_chunk(plan, 0, 6);
    ASSERT_TRUE((*writer)->append(raw, codec::kRaw, 1, xxh128(raw)).ok());
    EXPECT_EQ((*writer)->commit().code(), Code::failed_precondition);
  }
  EXPECT_EQ(folder.names(), before);
  EXPECT_EQ(raw_chunk(*open(folder).value(), 1), sample_chunk(plan, 1, 5));
}

TEST(ShardWriting, StraysOfKilledWritersAreRemoved) {
  const plan::Plan plan = plan_with_id();
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw).ok());
  // Left behind: complete shards that no index names, and temporaries of a process that is gone.
  spill(folder / "forebay-s2-00001.shard", std::vector<std::byte>(10));
  spill(folder / "forebay-s7-00003.shard", std::vector<std::byte>(10));
  spill(folder / ".forebay-s2-00009.shard.999999999-0.tmp", std::vector<std::byte>(10));
  spill(folder / "forebay-notes.shard", std::vector<std::byte>(10));  // not ours
  ASSERT_TRUE(pack(folder.path(), plan, 6, codec::kRaw).ok());
  EXPECT_EQ(folder.names(),
            (std::vector<std::string>{"forebay-notes.shard", "forebay-s2-00001.shard", "forebay-s2-00002.shard", "forebay.index"}));
}

TEST(ShardWriting, ADamagedIndexHoldsNobodyUp) {
  const plan::Plan plan = plan_with_id();
  const Scratch folder;
  ASSERT_TRUE(pack(folder.path(), plan, 5, codec::kRaw).ok());
  auto bytes = slurp(folder / "forebay.index");
  bytes[300] ^= std::byte{1};
  spill(folder / "forebay.index", bytes);
  EXPECT_FALSE(open(folder).ok());
  ASSERT_TRUE(pack(folder.path(), plan, 6, codec::kRaw).ok());
  EXPECT_EQ(raw_chunk(*open(folder).value(), 0), sample_chunk(plan, 0, 6));
}

TEST(ShardWriting, WrongChunksAreRefused) {
  const plan::Plan plan = plan_with_id();
  const Scratch folder;
  auto writer = ShardWriter::create(fs(), folder.path(), plan, {});
  ASSERT_TRUE(writer.ok());
  const std::vector<std::byte> wrong(12);
  EXPECT_EQ((*writer)->append(wrong, codec::kRaw, 1, xxh128(wrong)).code(), Code::invalid_argument);
  EXPECT_EQ((*writer)->append(wrong, codec::kHuffman, 1, xxh128(wrong)).code(), Code::invalid_argument);
  plan::Plan no_id = sample_plan();
  EXPECT_EQ(ShardWriter::create(fs(), folder.path(), no_id, {}).status().code(), Code::failed_precondition);
}

TEST(ShardWriting, RandomPlansPackAndRead) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    plan::Plan plan = random_plan(seed);
    ASSERT_TRUE(plan::serialize_plan(plan, {}).ok());
    const Scratch folder;
    const Status packed = pack(folder.path(), plan, seed, seed % 2 == 0 ? codec::kZstd : codec::kRaw, 1 + seed * 1000);
    ASSERT_TRUE(packed.ok()) << seed << " " << packed.to_string();
    const auto set = open(folder);
    ASSERT_TRUE(set.ok()) << seed << " " << set.status().to_string();
    ASSERT_TRUE((*set)->bind(plan).ok());
    for (plan::ChunkId c = 0; c < plan.chunks.size(); ++c) ASSERT_EQ(raw_chunk(**set, c), sample_chunk(plan, c, seed)) << seed;
  }
}

}  // namespace
}  // namespace forebay::test
