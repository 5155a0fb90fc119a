// Rows of tables that lie in files: each group of 64 KiB is read once however many rows ask for it, groups that want one place follow each
// other, and what the disk does wrong is named.
#include "stream/row_reader.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <set>

#include "support/fault_fs.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay::stream::test {
namespace {

using forebay::test::Fault;
using forebay::test::FaultFs;
using forebay::test::FaultKind;
using forebay::test::FaultOp;
using forebay::test::Random;
using forebay::test::TempFolder;

constexpr std::uint64_t kGroup = plan::RowBinding::kGroupBytes;
constexpr std::uint64_t kOffset = 777;

// A table in a file, behind a file system that can fail.
struct Table {
  Table(std::uint64_t rows, std::uint64_t bytes_of_row, bool digests) : row_bytes(bytes_of_row) {
    auto made = std::make_shared<plan::Plan>();
    plan::Weight weight;
    weight.name = "table";
    weight.shape = Shape{static_cast<std::int64_t>(rows), static_cast<std::int64_t>(row_bytes)};
    weight.dtype = DType::u8;
    weight.bytes = rows * row_bytes;
    weight.part_count = 1;
    weight.gather_only = true;
    made->weights.push_back(weight);
    plan::Part part;
    part.weight = part.chunk = 0;
    part.row_count = rows;
    part.bytes = weight.bytes;
    made->parts.push_back(part);
    made->chunk_parts.push_back(0);
    made->chunks.push_back({0, 1, weight.bytes});
    file.resize(kOffset + weight.bytes);
    Random(rows).fill(file);
    path = folder / "table.bin";
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
    auto made_generation = std::make_shared<plan::Generation>();
    made_generation->number = 1;
    plan::BoundFile bound;
    bound.name = "table.bin";
    bound.buffered = fs.open_read(path, DirectIo::off).value();
    bound.identity = bound.buffered->identity().value();
    made_generation->binding.files.push_back(bound);
    plan::ChunkBinding chunk;
    chunk.offset = kOffset;
    chunk.stored_bytes = weight.bytes;
    made_generation->binding.chunks.push_back(chunk);
    plan::RowBinding binding;
    binding.available = true;
    binding.offset = kOffset;
    binding.row_bytes = row_bytes;
    for (std::uint64_t at = 0; digests && at < weight.bytes; at += kGroup) {
      const std::uint64_t bytes = std::min(kGroup, weight.bytes - at);
      binding.group_digests.push_back(xxh128(std::span<const std::byte>(file).subspan(kOffset + at, bytes)));
    }
    made_generation->binding.rows.push_back(binding);
    plan = std::move(made);
    generation = std::move(made_generation);
  }

  std::unique_ptr<RowReader> reader(IoChoice io) const {
    return std::make_unique<RowReader>(BoundGeneration::bind(plan, generation, false).value(), io);
  }
  // How many of the groups these rows lie in.
  std::uint64_t groups(const std::vector<std::int64_t>& rows) const {
    std::set<std::uint64_t> found;
    for (const std::int64_t row : rows) {
      const std::uint64_t begin = static_cast<std::uint64_t>(row) * row_bytes;
      for (std::uint64_t g = begin / kGroup; g <= (begin + row_bytes - 1) / kGroup; ++g) found.insert(g);
    }
    return found.size();
  }
  void expect_rows(RowReader& reader, const std::vector<std::int64_t>& rows) const {
    std::vector<std::byte> got(rows.size() * row_bytes);
    ASSERT_OK(reader.gather(0, rows, got.data()));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(std::memcmp(got.data() + i * row_bytes, file.data() + kOffset + static_cast<std::uint64_t>(rows[i]) * row_bytes, row_bytes),
                0)
          << "row " << rows[i];
    }
  }

  std::uint64_t row_bytes;
  TempFolder folder;
  FaultFs fs;
  std::string path;
  std::vector<std::byte> file;
  std::shared_ptr<const plan::Plan> plan;
  plan::GenerationPtr generation;
};

std::vector<std::int64_t> random_rows(std::size_t count, std::uint64_t below, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int64_t> rows;
  for (std::size_t i = 0; i < count; ++i) rows.push_back(static_cast<std::int64_t>(random.below(below)));
  return rows;
}

TEST(RowReader, ReadsEachGroupOfACallOnce) {
  for (const IoChoice io : {IoChoice::automatic, IoChoice::threads}) {
    const Table table(9000, 300, true);  // 42 groups, rows across their borders
    for (const std::size_t count : {1u, 3u, 20u, 500u}) {
      const auto reader = table.reader(io);
      const std::vector<std::int64_t> rows = random_rows(count, 9000, count);
      const std::uint64_t before = table.fs.count(FaultOp::read);
      table.expect_rows(*reader, rows);
      EXPECT_EQ(table.fs.count(FaultOp::read) - before, table.groups(rows)) << count << " rows";
      table.expect_rows(*reader, rows);
      EXPECT_EQ(table.fs.count(FaultOp::read) - before, table.groups(rows)) << "what was read stays";
    }
  }
}

// 1,040 groups for 1,024 places.
TEST(RowReader, GroupsStayAsLongAsThereArePlaces) {
  const Table table(1040, kGroup, false);
  const auto reader = table.reader(IoChoice::automatic);
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < 16; ++row) rows.insert(rows.end(), {row, row + 1024, row});
  const std::uint64_t before = table.fs.count(FaultOp::read);
  for (int time = 0; time < 3; ++time) {
    table.expect_rows(*reader, rows);
    EXPECT_EQ(table.fs.count(FaultOp::read) - before, 32u) << "32 groups, read once, however they are numbered";
  }
  table.expect_rows(*reader, random_rows(1200, 1040, 7));
  std::vector<std::int64_t> all(1040);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
  table.expect_rows(*reader, all);
  const std::uint64_t then = table.fs.count(FaultOp::read);
  table.expect_rows(*reader, {1039, 16});
  EXPECT_EQ(table.fs.count(FaultOp::read), then) << "the last used stay";
  table.expect_rows(*reader, {3});
  EXPECT_EQ(table.fs.count(FaultOp::read), then + 1) << "the one not used for longest has gone";
}

TEST(RowReader, ARowLargerThanAllPlacesIsReadGroupByGroup) {
  const Table table(1, 1030 * kGroup, false);
  table.expect_rows(*table.reader(IoChoice::automatic), {0});
}

TEST(RowReader, NamesWhatIsWrong) {
  Table table(9000, 300, true);
  const std::vector<std::int64_t> rows = random_rows(200, 9000, 1);
  std::vector<std::byte> got(rows.size() * 300);
  Fault fault;
  fault.op = FaultOp::read;
  for (const FaultKind kind : {FaultKind::error, FaultKind::flip}) {
    fault.kind = kind;
    fault.lasting = kind == FaultKind::error;
    fault.nth = 5;
    table.fs.arm(fault);
    const Status status = table.reader(IoChoice::automatic)->gather(0, rows, got.data());
    EXPECT_TRUE(table.fs.met());
    EXPECT_EQ(status.code(), kind == FaultKind::error ? Code::io_error : Code::corruption) << status.to_string();
    ASSERT_FALSE(status.problems().empty());
    EXPECT_EQ(status.problems()[0].tensor, "table");
    EXPECT_EQ(status.problems()[0].file, "table.bin");
    EXPECT_TRUE(status.problems()[0].offset.has_value());
    table.fs.disarm();
  }
  fault.kind = FaultKind::short_transfer;
  fault.lasting = true;
  fault.nth = 1;
  table.fs.arm(fault);
  table.expect_rows(*table.reader(IoChoice::automatic), rows);
  table.fs.disarm();
  // A row outside is refused before anything is read.
  const std::uint64_t before = table.fs.count(FaultOp::read);
  const std::vector<std::int64_t> beyond = {1, 2, 9000};
  EXPECT_EQ(table.reader(IoChoice::automatic)->gather(0, beyond, got.data()).code(), Code::invalid_argument);
  EXPECT_EQ(table.fs.count(FaultOp::read), before);
}

}  // namespace
}  // namespace forebay::stream::test
