// The schedule and the residency order, judged by a simulation that knows nothing of how they were made: it plays loads and steps under
// every delay that the gates allow and watches each ring byte.
#include "stream/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "stream/residency.h"

namespace forebay::stream {
namespace {

constexpr std::uint64_t kBlock = 4096;

struct Case {
  PassProgram program;
  std::vector<ChunkShape> shapes;
  std::vector<Place> places;
};

std::uint64_t load_bytes(const Case& c, const Load& load) {
  const ChunkShape& s = c.shapes[load.chunk];
  return load.fill ? s.fill_slot : s.raw_slot + s.stored_slot;
}
std::uint64_t load_begin(const Load& load) { return load.fill ? load.stored_offset : load.raw_offset; }

// What a step must find, statically: every use served by a load of the right chunk that comes first there or earlier.
void check_uses(const Case& c, const Schedule& schedule, std::uint64_t ring) {
  ASSERT_EQ(schedule.segments.size(), c.program.segments.size());
  for (std::size_t s = 0; s < schedule.segments.size(); ++s) {
    const SegmentSchedule& segment = schedule.segments[s];
    ASSERT_EQ(segment.first_step, c.program.segments[s].first_substep);
    ASSERT_EQ(segment.step_count, c.program.segments[s].substep_count);
    for (std::uint32_t step = 0; step < segment.step_count; ++step) {
      const auto& substep = c.program.substeps[segment.first_step + step];
      std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
      for (std::uint32_t u = 0; u < substep.use_count; ++u) {
        const plan::ChunkId chunk = c.program.uses[substep.first_use + u];
        const std::uint32_t index = segment.use_load[substep.first_use + u - segment.first_use];
        if (c.places[chunk] == Place::resident) {
          ASSERT_EQ(index, kResidentUse);
          continue;
        }
        ASSERT_LT(index, segment.loads.size());
        const Load& load = segment.loads[index];
        ASSERT_EQ(load.chunk, chunk);
        ASSERT_LE(load.first_step, step);
        ASSERT_EQ(load.fill, c.places[chunk] == Place::fill);
        if (!load.fill) {
          ASSERT_LE(step, load.last_step);
        }
        if (load.fill && load.first_step != step) continue;  // it is in its resident place by now
        if (load_bytes(c, load) == 0) continue;
        ASSERT_LE(load_begin(load) + load_bytes(c, load), ring);
        ranges.emplace_back(load_begin(load), load_begin(load) + load_bytes(c, load));
      }
      std::sort(ranges.begin(), ranges.end());
      for (std::size_t i = 1; i < ranges.size(); ++i) ASSERT_LE(ranges[i - 1].second, ranges[i].first) << "chunks of one step meet";
    }
  }
}

// Plays the segments in `runs` (each a segment number), loads as early as gates allow (eager) or as late as steps need (lazy), or by dice.
// Every load writes its number over its bytes when it starts; every step must find the numbers of its loads whole.
void play(const Case& c, const Schedule& schedule, std::uint64_t ring, const std::vector<std::uint32_t>& runs, int eagerness,
          std::mt19937& random) {
  std::vector<std::int64_t> owner(ring / kBlock, -1);
  struct Pending {
    const Load* load;
    std::int64_t gate, number;
  };
  std::vector<Pending> loads;
  struct Step {
    std::size_t run;
    std::uint32_t step;
    std::size_t loads_before;  // that must have started: all up to the last it uses
    std::vector<std::pair<const Load*, std::int64_t>> uses;
  };
  std::vector<Step> steps;
  std::int64_t step_base = 0;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const SegmentSchedule& segment = schedule.segments[runs[r]];
    const std::size_t base = loads.size();
    for (const Load& load : segment.loads) {
      loads.push_back({&load, step_base + load.gate, static_cast<std::int64_t>(loads.size())});
    }
    for (std::uint32_t s = 0; s < segment.step_count; ++s) {
      Step step{r, s, base, {}};
      const auto& substep = c.program.substeps[segment.first_step + s];
      for (std::uint32_t u = 0; u < substep.use_count; ++u) {
        const std::uint32_t index = segment.use_load[substep.first_use + u - segment.first_use];
        if (index == kResidentUse) continue;
        step.loads_before = std::max(step.loads_before, base + index + 1);
        const Load& load = segment.loads[index];
        if (!load.fill || load.first_step == s) step.uses.emplace_back(&load, static_cast<std::int64_t>(base + index));
      }
      steps.push_back(std::move(step));
    }
    step_base += segment.step_count;
  }
  std::size_t next_load = 0, next_step = 0;
  while (next_step < steps.size()) {
    const bool load_may = next_load < loads.size() && loads[next_load].gate <= static_cast<std::int64_t>(next_step);
    const bool step_may = steps[next_step].loads_before <= next_load;
    ASSERT_TRUE(load_may || step_may) << "deadlock at step " << next_step;
    bool take_load = load_may;
    if (load_may && step_may) take_load = eagerness == 0 ? false : eagerness == 1 ? true : random() % 2 == 0;
    if (take_load) {
      const Load& load = *loads[next_load].load;
      const std::uint64_t bytes = load_bytes(c, load);
      if (bytes > 0) {
        ASSERT_EQ(load_begin(load) % kBlock, 0u);
        for (std::uint64_t b = load_begin(load) / kBlock; b < (load_begin(load) + bytes) / kBlock; ++b) {
          ASSERT_LT(b, owner.size()) << "beyond the ring";
          owner[b] = loads[next_load].number;
        }
      }
      ++next_load;
    } else {
      for (const auto& [load, number] : steps[next_step].uses) {
        const std::uint64_t bytes = load_bytes(c, *load);
        if (bytes == 0) continue;
        for (std::uint64_t b = load_begin(*load) / kBlock; b < (load_begin(*load) + bytes) / kBlock; ++b) {
          ASSERT_EQ(owner[b], number) << "step " << next_step << " finds other bytes";
        }
      }
      ++next_step;
    }
  }
}

void check(const Case& c, std::uint64_t ring, std::mt19937& random) {
  auto schedule = build_schedule(c.program, c.shapes, c.places, ring);
  ASSERT_TRUE(schedule.ok()) << schedule.status().to_string();
  ASSERT_LE(schedule->ring_peak, ring);
  check_uses(c, *schedule, ring);
  std::vector<std::uint32_t> runs;
  if (c.program.segments.size() == 1) {
    runs.assign(schedule->wraps ? 4 : 1, 0);
  } else {
    for (int i = 0; i < 8; ++i) runs.push_back(static_cast<std::uint32_t>(random() % c.program.segments.size()));
  }
  for (int eagerness = 0; eagerness < 3; ++eagerness) {
    play(c, *schedule, ring, runs, eagerness, random);
    if (testing::Test::HasFatalFailure()) return;
  }
}

Case one_segment(const std::vector<std::vector<plan::ChunkId>>& steps, std::vector<ChunkShape> shapes, std::vector<Place> places) {
  Case c;
  for (const auto& step : steps) {
    PassProgram::Substep substep;
    substep.first_use = static_cast<std::uint32_t>(c.program.uses.size());
    substep.use_count = static_cast<std::uint32_t>(step.size());
    c.program.uses.insert(c.program.uses.end(), step.begin(), step.end());
    c.program.substeps.push_back(substep);
  }
  c.program.segments.push_back({0, static_cast<std::uint32_t>(steps.size()), false});
  c.shapes = std::move(shapes);
  c.places = std::move(places);
  return c;
}

// All programs of up to 4 steps of one or two of 3 chunks, all places, all rings from the minimum to everything plus two blocks.
TEST(Schedule, ExhaustiveSmallCases) {
  std::mt19937 random(1);
  const std::vector<ChunkShape> shapes = {{kBlock, 0, 0}, {2 * kBlock, kBlock, kBlock}, {3 * kBlock, 0, 4 * kBlock}};
  const std::vector<std::vector<plan::ChunkId>> choices = {{0}, {1}, {2}, {0, 1}, {1, 2}, {2, 0}};
  std::size_t cases = 0;
  for (std::size_t length = 1; length <= 4; ++length) {
    std::size_t combinations = 1;
    for (std::size_t i = 0; i < length; ++i) combinations *= choices.size();
    for (std::size_t code = 0; code < combinations; ++code) {
      std::vector<std::vector<plan::ChunkId>> steps;
      for (std::size_t i = 0, rest = code; i < length; ++i, rest /= choices.size()) steps.push_back(choices[rest % choices.size()]);
      for (int places = 0; places < 27; ++places) {
        if (length == 4 && places % 5 != static_cast<int>(code % 5)) continue;  // a fifth of the longest
        const std::vector<Place> where = {static_cast<Place>(places % 3), static_cast<Place>(places / 3 % 3),
                                          static_cast<Place>(places / 9)};
        const Case c = one_segment(steps, shapes, where);
        const std::uint64_t least = min_ring_bytes(c.program, c.shapes);
        for (std::uint64_t ring = least; ring <= least + 6 * kBlock; ring += kBlock) {
          check(c, ring, random);
          ++cases;
          if (HasFatalFailure()) FAIL() << "length " << length << " code " << code << " places " << places << " ring " << ring;
        }
      }
    }
  }
  EXPECT_GT(cases, 50000u);
}

TEST(Schedule, RandomPrograms) {
  for (std::uint32_t seed = 0; seed < 1500; ++seed) {
    std::mt19937 random(seed);
    Case c;
    const std::size_t chunks = 1 + random() % 24;
    for (std::size_t i = 0; i < chunks; ++i) {
      ChunkShape shape;
      shape.raw_slot = (random() % 9) * kBlock;  // also none
      if (random() % 3 == 0) shape.stored_slot = shape.fill_slot = (1 + random() % 6) * kBlock;
      if (shape.stored_slot == 0 && random() % 3 == 0) shape.fill_slot = shape.raw_slot;
      c.shapes.push_back(shape);
      c.places.push_back(static_cast<Place>(random() % 3));
    }
    if (seed % 3 == 0) {  // steady: nothing to fill, so that it wraps
      for (Place& place : c.places) place = place == Place::fill ? Place::streamed : place;
    }
    const std::size_t segments = seed % 4 == 0 ? 1 + random() % 4 : 1;
    for (std::size_t s = 0; s < segments; ++s) {
      PassProgram::Segment segment;
      segment.first_substep = static_cast<std::uint32_t>(c.program.substeps.size());
      segment.substep_count = 1 + static_cast<std::uint32_t>(random() % 30);
      for (std::uint32_t i = 0; i < segment.substep_count; ++i) {
        std::set<plan::ChunkId> used;
        for (std::size_t u = random() % 4; u > 0; --u) used.insert(static_cast<plan::ChunkId>(random() % chunks));
        std::vector<plan::ChunkId> shuffled(used.begin(), used.end());
        std::shuffle(shuffled.begin(), shuffled.end(), random);
        c.program.substeps.push_back({static_cast<std::uint32_t>(c.program.uses.size()), static_cast<std::uint32_t>(shuffled.size())});
        c.program.uses.insert(c.program.uses.end(), shuffled.begin(), shuffled.end());
      }
      c.program.segments.push_back(segment);
    }
    const std::uint64_t least = min_ring_bytes(c.program, c.shapes);
    for (const std::uint64_t more : {0ull, 1ull, 2ull, 5ull, 11ull, 40ull, 500ull}) {
      check(c, least + more * kBlock, random);
      if (HasFatalFailure()) FAIL() << "seed " << seed << " ring " << least + more * kBlock;
    }
    if (least > 0) {  // one block less fails, unless the largest step is not streamed whole
      const auto less = build_schedule(c.program, c.shapes, std::vector<Place>(chunks, Place::streamed), least - kBlock);
      bool needs = false;
      for (const auto& step : c.program.substeps) {
        std::uint64_t sum = 0;
        for (std::uint32_t u = 0; u < step.use_count; ++u) {
          const ChunkShape& s = c.shapes[c.program.uses[step.first_use + u]];
          sum += s.raw_slot + s.stored_slot;
        }
        needs = needs || sum > least - kBlock;
      }
      EXPECT_EQ(less.ok(), !needs);
      if (!less.ok()) {
        EXPECT_EQ(less.status().code(), Code::resource_exhausted);
      }
    }
  }
}

// A long row of equal slabs: prefetch reaches nearly a ring ahead, also over the pass boundary.
TEST(Schedule, PrefetchesAcrossThePassBoundary) {
  std::vector<std::vector<plan::ChunkId>> steps;
  for (plan::ChunkId i = 0; i < 50; ++i) steps.push_back({i});
  const Case c = one_segment(steps, std::vector<ChunkShape>(50, ChunkShape{kBlock, 0, 0}), std::vector<Place>(50, Place::streamed));
  const Schedule schedule = build_schedule(c.program, c.shapes, c.places, 8 * kBlock).value();
  ASSERT_TRUE(schedule.wraps);
  for (std::uint32_t i = 0; i < 50; ++i) {
    const Load& load = schedule.segments[0].loads[i];
    // The load for step i may start when step i - 6 at the latest is done: at least six of eight slabs ahead.
    EXPECT_LE(load.gate, static_cast<std::int64_t>(i) - 5) << i;
  }
  EXPECT_LT(schedule.segments[0].loads[0].gate, 0);
}

TEST(Schedule, ReusesWhatStillLiesInTheRing) {
  // Chunk 0 in steps 0 and 2, little in between: one load. Far apart in a small ring: two.
  const std::vector<ChunkShape> shapes(20, ChunkShape{kBlock, 0, 0});
  const Case near = one_segment({{0}, {1}, {0}}, shapes, std::vector<Place>(20, Place::streamed));
  EXPECT_EQ(build_schedule(near.program, near.shapes, near.places, 8 * kBlock)->segments[0].loads.size(), 2u);
  std::vector<std::vector<plan::ChunkId>> steps = {{0}};
  for (plan::ChunkId i = 1; i < 20; ++i) steps.push_back({i});
  steps.push_back({0});
  const Case far = one_segment(steps, shapes, std::vector<Place>(20, Place::streamed));
  EXPECT_EQ(build_schedule(far.program, far.shapes, far.places, 8 * kBlock)->segments[0].loads.size(), 21u);
}

std::vector<ChunkTraits> matrices(const std::vector<std::pair<std::uint32_t, std::uint64_t>>& slabs, std::uint32_t uses) {
  std::vector<ChunkTraits> traits;
  for (std::uint32_t w = 0; w < slabs.size(); ++w) {
    for (std::uint32_t s = 0; s < slabs[w].first; ++s) {
      ChunkTraits t;
      t.raw_bytes = slabs[w].second;
      t.uses = uses;
      t.weight = w;
      t.slab = s;
      t.slab_count = slabs[w].first;
      traits.push_back(t);
    }
  }
  return traits;
}

TEST(Residency, NestedAndComplete) {
  auto traits = matrices({{10, 100000}, {3, 5000}, {1, 8192}, {40, 65536}}, 1);
  traits[3].uses = 0;
  const ResidencyOrder order = residency_order(traits);
  EXPECT_EQ(order.order.size(), traits.size() - 1);
  std::set<plan::ChunkId> seen(order.order.begin(), order.order.end());
  EXPECT_EQ(seen.size(), order.order.size());
  EXPECT_EQ(seen.count(3), 0u);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < order.order.size(); ++i) {
    sum += (traits[order.order[i]].raw_bytes + 4095) / 4096 * 4096;
    EXPECT_EQ(order.end[i], sum);
    EXPECT_EQ(resident_count(order, sum - 1), i);  // a prefix, whatever the bytes: nested
    EXPECT_EQ(resident_count(order, sum), i + 1);
  }
  EXPECT_EQ(order.total_bytes(), sum);
  EXPECT_EQ(resident_count(order, 0), 0u);
}

TEST(Residency, EveryMatrixHasTheSameShare) {
  const auto traits = matrices({{64, 1 << 20}, {100, 1 << 20}, {16, 1 << 20}, {250, 1 << 20}}, 1);
  const ResidencyOrder order = residency_order(traits);
  std::vector<std::uint32_t> held(4);
  for (std::size_t k = 0; k < order.order.size(); ++k) {
    const ChunkTraits& t = traits[order.order[k]];
    held[t.weight]++;
    const double share = static_cast<double>(k + 1) / static_cast<double>(order.order.size());
    for (std::uint32_t w = 0; w < 4; ++w) {
      const double slabs = w == 0 ? 64 : w == 1 ? 100 : w == 2 ? 16 : 250;
      EXPECT_NEAR(held[w], share * slabs, 1.0 + 0.02 * slabs) << "matrix " << w << " after " << k + 1;
    }
  }
}

TEST(Residency, ManySmallWeightsSpreadOverThePass) {
  const auto traits = matrices(std::vector<std::pair<std::uint32_t, std::uint64_t>>(200, {1, 4096}), 1);
  const ResidencyOrder order = residency_order(traits);
  // Of the first half of the order, every fifth of the pass holds about a fifth.
  std::vector<int> fifths(5);
  for (std::size_t k = 0; k < 100; ++k) fifths[order.order[k] / 40]++;
  for (const int count : fifths) EXPECT_NEAR(count, 20, 2);
}

TEST(Residency, BodiesPacksAndManyUsesFirst) {
  auto traits = matrices({{4, 4096}, {4, 4096}, {1, 4096}}, 1);
  traits[8].first = true;
  for (int i = 4; i < 8; ++i) traits[static_cast<std::size_t>(i)].uses = 3;
  const ResidencyOrder order = residency_order(traits);
  EXPECT_EQ(order.order[0], 8u);
  for (int i = 1; i <= 4; ++i) EXPECT_GE(order.order[static_cast<std::size_t>(i)], 4u);
}

}  // namespace
}  // namespace forebay::stream
