// Plans for the tests of plan, shards and fuzzing: small, valid, with one of everything.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/plan_data.h"

namespace forebay::test {

// Two slabs of a matrix, a gather-only table, a pack of small weights (sub-byte, empty, scalar), bodies, all kinds of attributes.
plan::Plan sample_plan();
// One weight of 200 bytes in one chunk, so that every bit of its shard can be tried.
plan::Plan tiny_plan();
// A valid plan of random size and content.
plan::Plan random_plan(std::uint64_t seed);
// The raw bytes of chunk `chunk`, from the seed; padding between parts is zero.
std::vector<std::byte> sample_chunk(const plan::Plan& plan, plan::ChunkId chunk, std::uint64_t seed);

}  // namespace forebay::test
