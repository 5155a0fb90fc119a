// A made-up plan with its files on disk, and an executor that checks every byte it is given. For tests of the streamer.
#pragma once

#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/checked.h"
#include "codec/chunk_codec.h"
#include "runtime/cpu/cpu_device.h"
#include "stream/schedule.h"
#include "stream/streamer.h"
#include "support/random.h"
#include "support/temp_folder.h"

namespace forebay::stream::test {

using forebay::test::Random;
using forebay::test::TempFolder;

struct WorldOptions {
  std::uint64_t seed = 1;
  std::uint32_t weights = 12;
  std::uint64_t slab_bytes = 96 * 1024;  // largest slab
  bool coded = true;        // some chunks zstd
  bool unaligned = false;   // raw chunks at any offset, as in a user's own file
  bool digests = true;
  bool host = true;         // some chunks in host memory
  std::uint32_t bodies = 0; // segments of bodies; with any, the main graph has segments around them
};

using Bytes = std::vector<std::byte>;

// One set of weights: its bytes by chunk, and the generation that binds them.
struct WeightSet {
  std::vector<Bytes> chunks;
  plan::GenerationPtr generation;
  std::string path;
};

class World {
 public:
  explicit World(const WorldOptions& options) : options_(options) {
    make_plan();
    make_program();
  }

  WeightSet make_weights(std::uint64_t number, FileSystem& fs, DirectIo direct) {
    WeightSet set;
    Random random(options_.seed * 1000 + number);
    set.path = folder_ / ("weights" + std::to_string(number) + ".bin");
    auto generation = std::make_shared<plan::Generation>();
    generation->number = number;
    generation->plan = plan_;
    Bytes file(64 + random.below(64), std::byte{0x5a});
    codec::ChunkCodec codec;
    for (const plan::Chunk& chunk : plan_->chunks) {
      Bytes raw(chunk.raw_bytes);
      random.fill(raw);
      for (std::size_t i = 0; i + 8 <= raw.size(); i += 8) std::memset(raw.data() + i, 0, 4);  // so that it can be compressed
      plan::ChunkBinding binding;
      const std::uint64_t dice = random.below(10);
      if (options_.host && dice == 0) {
        binding.where = plan::ChunkBinding::Where::host;
        binding.host = std::make_shared<const Bytes>(raw);
        generation->binding.host_bytes += raw.size();
      } else {
        Bytes stored = raw;
        if (options_.coded && dice < 5) {
          binding.codec = plan::Codec::zstd;
          binding.codec_version = codec::codec_version(codec::kZstd);
          EXPECT_TRUE(codec.encode(codec::kZstd, raw, 3, stored).ok());
        }
        const bool any_place = options_.unaligned && binding.codec == plan::Codec::raw;
        file.resize(any_place ? file.size() + random.below(5000) : align_up(file.size(), kBlockBytes), std::byte{0xee});
        if (any_place && random.chance(2)) file.resize(align_up(file.size(), 64), std::byte{0xef});  // used in place then
        binding.offset = file.size();
        binding.stored_bytes = stored.size();
        binding.has_digest = options_.digests;
        if (binding.has_digest) binding.stored_digest = xxh128(stored);
        file.insert(file.end(), stored.begin(), stored.end());
      }
      generation->binding.chunks.push_back(binding);
      set.chunks.push_back(std::move(raw));
    }
    generation->binding.rows.resize(plan_->weights.size());
    write(set.path, file);
    plan::BoundFile bound;
    bound.name = "weights" + std::to_string(number) + ".bin";
    bound.buffered = fs.open_read(set.path, DirectIo::off).value();
    if (direct != DirectIo::off) {
      std::shared_ptr<File> handle = fs.open_read(set.path, direct).value();
      if (handle->direct()) bound.direct = handle;
    }
    bound.identity = bound.buffered->identity().value();
    generation->binding.files.push_back(bound);
    generation->binding.integrity = options_.digests ? "digests" : "first-read";
    set.generation = generation;
    return set;
  }

  static void write(const std::string& path, const Bytes& bytes) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(out.good());
  }

  const std::shared_ptr<const plan::Plan>& plan() const { return plan_; }
  const PassProgram& program() const { return program_; }
  const TempFolder& folder() const { return folder_; }

 private:
  void make_plan() {
    auto made = std::make_shared<plan::Plan>();
    Random random(options_.seed);
    for (std::uint32_t w = 0; w < options_.weights; ++w) {
      plan::Weight weight;
      weight.name = "weight" + std::to_string(w);
      weight.first_part = static_cast<std::uint32_t>(made->parts.size());
      weight.part_count = 1 + static_cast<std::uint32_t>(random.below(5));
      for (std::uint32_t p = 0; p < weight.part_count; ++p) {
        plan::Part part;
        part.weight = w;
        part.chunk = static_cast<plan::ChunkId>(made->chunks.size());
        part.row_begin = p * 4ull;
        part.row_count = 4;
        part.offset_in_weight = weight.bytes;
        part.bytes = random.chance(12) ? 0 : 4 * (1 + random.below(options_.slab_bytes / 4));
        weight.bytes += part.bytes;
        plan::Chunk chunk;
        chunk.first_part = static_cast<std::uint32_t>(made->chunk_parts.size());
        chunk.part_count = 1;
        chunk.raw_bytes = part.bytes;
        made->chunk_parts.push_back(static_cast<std::uint32_t>(made->parts.size()));
        made->chunks.push_back(chunk);
        made->parts.push_back(part);
      }
      made->weights.push_back(std::move(weight));
    }
    plan_ = std::move(made);
  }

  // Weights in order, one slab a step; now and then a second chunk beside it, or a step without any; some weights used again.
  void make_program() {
    Random random(options_.seed + 7);
    const std::uint32_t segments = options_.bodies == 0 ? 1 : 2 * options_.bodies + 1;
    for (std::uint32_t s = 0; s < segments; ++s) {
      PassProgram::Segment segment;
      segment.first_substep = static_cast<std::uint32_t>(program_.substeps.size());
      segment.in_body = s % 2 == 1;
      for (std::uint32_t w = s * options_.weights / segments; w < (s + 1) * options_.weights / segments; ++w) {
        use_weight(w, random);
        if (random.chance(4)) use_weight(static_cast<std::uint32_t>(random.below(options_.weights)), random);
      }
      segment.substep_count = static_cast<std::uint32_t>(program_.substeps.size()) - segment.first_substep;
      program_.segments.push_back(segment);
    }
  }

  void use_weight(std::uint32_t w, Random& random) {
    const plan::Weight& weight = plan_->weights[w];
    for (std::uint32_t p = 0; p < weight.part_count; ++p) {
      PassProgram::Substep step;
      step.first_use = static_cast<std::uint32_t>(program_.uses.size());
      program_.uses.push_back(plan_->parts[weight.first_part + p].chunk);
      if (random.chance(3)) {
        const auto other = static_cast<plan::ChunkId>(random.below(plan_->chunks.size()));
        if (other != program_.uses.back()) program_.uses.push_back(other);
      }
      step.use_count = static_cast<std::uint32_t>(program_.uses.size()) - step.first_use;
      program_.substeps.push_back(step);
    }
  }

  const WorldOptions options_;
  TempFolder folder_;
  std::shared_ptr<const plan::Plan> plan_;
  PassProgram program_;
};

class RecordingLogger final : public Logger {
 public:
  void log(LogLevel level, std::string_view line) noexcept override {
    std::lock_guard lock(mutex_);
    if (level >= LogLevel::info) lines.emplace_back(line);
  }
  std::mutex mutex_;
  std::vector<std::string> lines;
};

// The CPU device as one whose arena the host does not address: what goes there is copied by a queue.
class FarDevice final : public Device {
 public:
  explicit FarDevice(std::unique_ptr<Device> near) : near_(std::move(near)), info_(near_->info()) { info_.arena_host_addressable = false; }
  const DeviceInfo& info() const override { return info_; }
  Result<std::uint64_t> free_bytes() override { return near_->free_bytes(); }
  Result<std::unique_ptr<Arena>> reserve_arena(std::uint64_t bytes) override { return near_->reserve_arena(bytes); }
  Result<std::unique_ptr<Arena>> wrap_arena(std::span<std::byte> memory) override { return near_->wrap_arena(memory); }
  Result<std::unique_ptr<Queue>> create_queue(const std::string& name, std::uint32_t capacity) override {
    return near_->create_queue(name, capacity);
  }
  Result<std::unique_ptr<Timeline>> create_timeline() override { return near_->create_timeline(); }
  Status register_host(std::span<std::byte> memory) override { return near_->register_host(memory); }
  void unregister_host(std::span<std::byte> memory) override { near_->unregister_host(memory); }

 private:
  const std::unique_ptr<Device> near_;
  DeviceInfo info_;
};

// Device, arena and streamer over a world, and passes that compare every chunk they use with what the generation holds.
class Rig {
 public:
  Rig(World& world, const plan::GenerationPtr& first, const StreamerOptions& options, const CpuDeviceOptions& device_options = {},
      bool far = false)
      : world_(world) {
    device_ = create_cpu_device(device_options).value();
    if (far) device_ = std::make_unique<FarDevice>(std::move(device_));
    std::uint64_t total = 0;
    for (const plan::Chunk& chunk : world.plan()->chunks) total += align_up(chunk.raw_bytes, kBlockBytes);
    arena_bytes_ = align_up(total, kBlockBytes) + (64ull << 20);
    arena_ = device_->reserve_arena(arena_bytes_).value();
    auto created = create_streamer(*device_, *arena_, world.plan(), world.program(), first, options, logger);
    create_status = created.status();
    if (!created.ok() && options.io != IoChoice::uring) ADD_FAILURE() << created.status().to_string();
    if (created.ok()) source = std::move(created).value();
  }
  ~Rig() {
    if (source) source->shutdown();
    source.reset();  // it unlocks memory through the device
  }

  // Ring of the minimum plus `ring_more`, and `resident` bytes at the end.
  Status set_layout(std::uint64_t ring_more, std::uint64_t resident) {
    const SourceLimits limits = source->limits();
    ArenaLayout layout;
    layout.arena_bytes = arena_bytes_;
    layout.ring_offset = 3 * kBlockBytes;
    layout.ring_bytes = align_up(limits.min_ring_bytes + ring_more, kBlockBytes);
    layout.resident_bytes = std::min(align_down(resident, kBlockBytes), limits.resident_total_bytes);
    return source->reconfigure(layout, [&]() -> Status {
      const std::uint64_t head = layout.ring_offset + layout.ring_bytes, tail = arena_bytes_ - layout.resident_bytes;
      if (Status status = arena_->uncommit(head, tail - head); !status.ok()) return status;
      if (Status status = arena_->commit(0, head); !status.ok()) return status;
      return arena_->commit(tail, layout.resident_bytes);
    });
  }

  struct PassOptions {
    std::uint64_t seed = 0;
    std::uint32_t max_delay_us = 0;
    bool fail_a_kernel = false;
  };
  struct PassResult {
    Status status;
    std::uint64_t generation = 0;
    std::uint64_t steps = 0;
  };

  // One pass on a queue of its own; `sets` by generation number.
  PassResult run_pass(const std::vector<const WeightSet*>& sets, const PassOptions& options) {
    PassResult result;
    auto begun = source->begin_pass();
    if (!begun.ok()) {
      result.status = std::move(begun).status();
      return result;
    }
    std::unique_ptr<PassLease> lease = std::move(begun).value();
    result.generation = lease->generation().number;
    const WeightSet& set = *sets[result.generation - 1];
    auto queue = device_->create_queue("pass", 64).value();
    auto timeline = device_->create_timeline().value();
    Random random(options.seed);
    std::vector<std::unique_ptr<Check>> checks;
    std::uint64_t done = 0;
    Status status;
    for (const std::uint32_t segment : segments_to_run(random)) {
      status = lease->begin_segment(segment);
      if (!status.ok()) break;
      const PassProgram::Segment& range = world_.program().segments[segment];
      for (std::uint32_t s = range.first_substep; s < range.first_substep + range.substep_count && status.ok(); ++s) {
        const PassProgram::Substep& step = world_.program().substeps[s];
        std::vector<ChunkAddress> addresses(step.use_count);
        status = lease->acquire(s, addresses);
        if (!status.ok()) break;
        auto check = std::make_unique<Check>();
        check->delay_us = options.max_delay_us == 0 ? 0 : static_cast<std::uint32_t>(random.below(options.max_delay_us));
        check->fail = options.fail_a_kernel && random.chance(10);
        for (std::uint32_t u = 0; u < step.use_count; ++u) {
          queue->wait(addresses[u].ready);
          check->found.push_back(addresses[u].data);
          check->expected.push_back(&set.chunks[world_.program().uses[step.first_use + u]]);
        }
        queue->launch(&Rig::run_check, check.get());
        checks.push_back(std::move(check));
        const TimelinePoint point{timeline.get(), ++done};
        queue->signal(point);
        lease->release(s, point);
        ++result.steps;
      }
      if (!status.ok()) break;
    }
    Status finished = queue->synchronize();
    if (status.ok()) status = std::move(finished);
    queue->clear_error();
    lease->end(!status.ok());
    result.status = std::move(status);
    return result;
  }

  Device& device() { return *device_; }
  Arena& arena() { return *arena_; }

  RecordingLogger logger;
  Status create_status;
  std::unique_ptr<WeightSource> source;

 private:
  struct Check {
    std::vector<const std::byte*> found;
    std::vector<const Bytes*> expected;
    std::uint32_t delay_us = 0;
    bool fail = false;
  };
  static Status run_check(void* argument) {
    const Check& check = *static_cast<Check*>(argument);
    if (check.delay_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(check.delay_us));
    for (std::size_t i = 0; i < check.found.size(); ++i) {
      if (reinterpret_cast<std::uintptr_t>(check.found[i]) % 64 != 0) return Status(Code::internal, "a chunk is not aligned for kernels");
      const Bytes& expected = *check.expected[i];
      if (!expected.empty() && std::memcmp(check.found[i], expected.data(), expected.size()) != 0) {
        return Status(Code::internal, "a step was given wrong bytes");
      }
    }
    return check.fail ? Status(Code::invalid_argument, "the kernel refused") : Status();
  }

  // The main segments in order; between them bodies, each none to three times.
  std::vector<std::uint32_t> segments_to_run(Random& random) const {
    std::vector<std::uint32_t> order;
    for (std::uint32_t s = 0; s < world_.program().segments.size(); ++s) {
      const std::uint64_t times = world_.program().segments[s].in_body ? random.below(4) : 1;
      for (std::uint64_t i = 0; i < times; ++i) order.push_back(s);
    }
    return order;
  }

  World& world_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Arena> arena_;
  std::uint64_t arena_bytes_ = 0;
};

}  // namespace forebay::stream::test
