// Invariants: parts cover every weight in order, are aligned and do not overlap; chunks are numbered by first use; no slab is above the
// slab size unless one row (or byte-aligned group) is.
#include "builder/slab_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace forebay::builder {
namespace {

SlabWeight weight_of(DType dtype, Shape shape, bool cut = true, std::uint32_t graph = 0) { return {dtype, shape, cut, graph}; }

TEST(AutoSlab, FollowsTheRule) {
  EXPECT_EQ(auto_slab_bytes(0), 64u << 10);
  EXPECT_EQ(auto_slab_bytes(5'000'000), 64u << 10);
  EXPECT_EQ(auto_slab_bytes(2'000'000'000), 8u << 20);
  EXPECT_EQ(auto_slab_bytes(60'000'000'000), 8u << 20);
  EXPECT_EQ(auto_slab_bytes(256ull << 20), 1u << 20);
  for (std::uint64_t bytes = 1; bytes < (1ull << 40); bytes = bytes * 3 + 1) {
    const std::uint64_t slab = auto_slab_bytes(bytes);
    EXPECT_EQ(slab & (slab - 1), 0u);
    EXPECT_LE(slab, kMaxAutoSlabBytes);
    EXPECT_GE(slab, kMinAutoSlabBytes);
  }
}

TEST(SlabRows, RoundsToBlocksOfSixteen) {
  const SlabWeight matrix = weight_of(DType::bf16, Shape{4096, 4096});
  EXPECT_EQ(slab_rows(matrix, 8 << 20), 1024u);
  EXPECT_EQ(slab_rows(matrix, 1 << 20), 128u);
  EXPECT_EQ(slab_rows(weight_of(DType::f16, Shape{3072, 768}), 1 << 20), 640u);  // many: blocks of 64
  EXPECT_EQ(slab_rows(weight_of(DType::f16, Shape{768, 4224}), 1 << 20), 112u);
  EXPECT_EQ(slab_rows(weight_of(DType::f32, Shape{1000, 1000}), 64 << 10), 16u);
  EXPECT_EQ(slab_rows(weight_of(DType::f32, Shape{10, 100'000}), 64 << 10), 1u);  // a row is larger than a slab
  EXPECT_EQ(slab_rows(weight_of(DType::f32, Shape{1000, 1000}, false), 64 << 10), 1000u);
}

TEST(SlabRows, EvensOutTheSlabs) {
  // 9/8 of a slab: two slabs of about half, not one full and a rest.
  const std::uint64_t rows = slab_rows(weight_of(DType::u8, Shape{1152, 1024}), 1 << 20);
  EXPECT_EQ(rows, 576u);
}

// 288 rows, 15 slabs, would put most tiles of 256 across two slabs.
TEST(SlabRows, HoldWholeTilesWhereThatCostsFewSlabs) {
  EXPECT_EQ(slab_rows(weight_of(DType::bf16, Shape{4096, 14336}), 8 << 20), 256u);
  EXPECT_EQ(slab_rows(weight_of(DType::bf16, Shape{32768, 5120}), 8 << 20), 768u);
  EXPECT_EQ(slab_rows(weight_of(DType::bf16, Shape{3072, 6144}), 8 << 20), 640u);  // five slabs would be six
}

TEST(SlabRows, KeepsSubByteRowsWhole) {
  // 3 elements of 4 bits: two rows make whole bytes.
  const std::uint64_t rows = slab_rows(weight_of(DType::i4, Shape{100'000, 3}), 4096);
  EXPECT_EQ(rows * 12 % 8, 0u);
  const std::uint64_t wide = slab_rows(weight_of(DType::i4, Shape{64, 5001}), 4096);
  EXPECT_EQ(wide * 5001 * 4 % 8, 0u);
}

void check_layout(const std::vector<SlabWeight>& weights, std::uint64_t slab_bytes, const SlabLayout& layout) {
  ASSERT_EQ(layout.first_part.size(), weights.size() + 1);
  ASSERT_EQ(layout.first_part.back(), layout.parts.size());
  ASSERT_EQ(layout.chunk_parts.size(), layout.parts.size());
  std::uint32_t newest_chunk = 0;
  std::set<std::uint32_t> seen;
  for (std::size_t w = 0; w < weights.size(); ++w) {
    std::uint64_t row = 0, offset = 0;
    for (std::uint32_t p = layout.first_part[w]; p < layout.first_part[w + 1]; ++p) {
      const plan::Part& part = layout.parts[p];
      EXPECT_EQ(part.weight, w);
      EXPECT_EQ(part.row_begin, row);
      EXPECT_EQ(part.offset_in_weight, offset);
      EXPECT_EQ(part.offset_in_chunk % 64, 0u);
      EXPECT_LE(part.offset_in_chunk + part.bytes, layout.chunks[part.chunk].raw_bytes);
      row += part.row_count;
      offset += part.bytes;
      // A chunk's number is given at the first use of what it holds.
      if (seen.insert(part.chunk).second) {
        EXPECT_EQ(part.chunk, newest_chunk);
        ++newest_chunk;
      }
    }
    EXPECT_EQ(row, weights[w].shape.rank() == 0 ? 1u : static_cast<std::uint64_t>(weights[w].shape[0]));
    EXPECT_EQ(offset, dtype_bytes(weights[w].dtype, weights[w].shape.elements()));
    if (!weights[w].cut) {
      EXPECT_EQ(layout.first_part[w + 1] - layout.first_part[w], 1u);
    }
  }
  std::vector<bool> placed(layout.parts.size(), false);
  for (const plan::Chunk& chunk : layout.chunks) {
    std::uint64_t end = 0;
    std::set<std::uint32_t> graphs;
    ASSERT_GT(chunk.part_count, 0u);
    for (std::uint32_t i = chunk.first_part; i < chunk.first_part + chunk.part_count; ++i) {
      const plan::Part& part = layout.parts[layout.chunk_parts[i]];
      EXPECT_GE(part.offset_in_chunk, end);
      end = part.offset_in_chunk + part.bytes;
      EXPECT_FALSE(placed[layout.chunk_parts[i]]);
      placed[layout.chunk_parts[i]] = true;
      graphs.insert(weights[part.weight].graph);
    }
    EXPECT_EQ(graphs.size(), 1u);
    EXPECT_EQ(chunk.raw_bytes, end);
    if (chunk.part_count > 1) {
      EXPECT_LE(chunk.raw_bytes, slab_bytes);
    }
  }
  EXPECT_EQ(std::count(placed.begin(), placed.end(), false), 0);
}

TEST(SlabLayout, HoldsItsInvariantsOnRandomModels) {
  constexpr std::uint32_t kSeed = 20261;
  std::mt19937 random(kSeed);
  const auto upto = [&](std::int64_t n) { return 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n)); };
  const DType dtypes[] = {DType::f32, DType::bf16, DType::u8, DType::i4, DType::u2, DType::f64};
  for (int round = 0; round < 300; ++round) {
    std::vector<SlabWeight> weights;
    for (std::int64_t i = upto(30); i > 0; --i) {
      Shape shape;
      for (auto rank = random() % 4; rank > 0; --rank) shape.push_back(upto(rank == 1 ? 300 : 60));
      weights.push_back(weight_of(dtypes[random() % 6], shape, random() % 4 != 0, static_cast<std::uint32_t>(random() % 3)));
    }
    const std::uint64_t slab = 4096ull << (random() % 8);
    const Result<SlabLayout> layout = lay_out_slabs(weights, slab);
    ASSERT_TRUE(layout.ok()) << layout.status().to_string();
    check_layout(weights, slab, *layout);
    if (HasFailure()) FAIL() << "seed " << kSeed << " round " << round;
  }
}

TEST(SlabLayout, PacksSmallWeightsInOrder) {
  std::vector<SlabWeight> weights;
  for (int i = 0; i < 10; ++i) weights.push_back(weight_of(DType::f32, Shape{256}));
  weights.push_back(weight_of(DType::f32, Shape{4096, 256}));
  weights.push_back(weight_of(DType::f32, Shape{256}));
  const Result<SlabLayout> layout = lay_out_slabs(weights, 1 << 20);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->chunks[0].part_count, 11u);  // the last one joins the open pack
  EXPECT_EQ(layout->first_part[11] - layout->first_part[10], 4u);
}

TEST(SlabLayout, RefusesWhatNoPlanCanHold) {
  const std::vector<SlabWeight> weights{weight_of(DType::f32, Shape{1'200'000'000, 1}, false)};
  const Result<SlabLayout> layout = lay_out_slabs(weights, 8 << 20);
  ASSERT_FALSE(layout.ok());
  EXPECT_EQ(layout.status().code(), Code::unsupported);
}

}  // namespace
}  // namespace forebay::builder
