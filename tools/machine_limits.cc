#include "machine_limits.h"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/memory_info.h"
#include "codec/chunk_codec.h"
#include "forebay/version.h"
#include "runtime/device_library.h"

namespace forebay::tools {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

int default_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

double memory_read_gbps(int threads, double seconds) {
  constexpr std::size_t kWords = (256ull << 20) / 8;
  const std::size_t count = static_cast<std::size_t>(std::max(1, threads));
  std::vector<std::uint64_t> buffer(kWords, 1);
  std::atomic<std::uint64_t> bytes{0}, sink{0};
  std::vector<std::thread> workers;
  const auto start = Clock::now();
  for (std::size_t t = 0; t < count; ++t) {
    workers.emplace_back([&, t] {
      const std::size_t begin = kWords / count * t, end = begin + kWords / count;
      std::uint64_t sums[8] = {};
      while (since(start) < seconds) {
        for (std::size_t i = begin; i + 8 <= end; i += 8) {
          for (std::size_t k = 0; k < 8; ++k) sums[k] += buffer[i + k];
        }
        bytes.fetch_add((end - begin) * 8);
      }
      for (const std::uint64_t sum : sums) sink.fetch_add(sum);
    });
  }
  for (std::thread& worker : workers) worker.join();
  return sink.load() == 0 ? 0 : static_cast<double>(bytes.load()) / since(start) / 1e9;
}

double copy_gbps(double seconds) {
  constexpr std::size_t kBytes = 128ull << 20;
  std::vector<std::byte> from(kBytes, std::byte{1}), to(kBytes);
  std::uint64_t bytes = 0;
  const auto start = Clock::now();
  while (since(start) < seconds) {
    std::memcpy(to.data(), from.data(), kBytes);
    from[0] = static_cast<std::byte>(static_cast<unsigned>(to[kBytes - 1]) + 1);
    bytes += kBytes;
  }
  return static_cast<double>(bytes) / since(start) / 1e9;
}

Result<double> device_link_gbps(const std::string& kind, double seconds) {
  constexpr std::uint64_t kCopy = 8ull << 20, kCopies = 32;
  FB_ASSIGN(auto device, load_device(kind));
  FB_ASSIGN(auto arena, device->reserve_arena(kCopy * kCopies));
  FB_TRY(arena->commit(0, kCopy * kCopies));
  // Long rounds: between two the link is idle, and a limit that waits would be below what a stream reaches.
  constexpr std::uint64_t kRound = 24 * kCopies;
  FB_ASSIGN(auto queue, device->create_queue("link", kRound + 8));
  std::vector<std::byte> from(kCopy * kCopies, std::byte{1});
  FB_TRY(device->register_host(from));
  std::uint64_t bytes = 0;
  Clock::time_point start;
  Status status;
  for (int round = 0; status.ok() && (round < 3 || since(start) < seconds); ++round) {
    if (round == 1) start = Clock::now();  // the first one warms up
    for (std::uint64_t c = 0; c < kRound; ++c) {
      const std::uint64_t at = c % kCopies * kCopy;
      queue->copy(arena->base() + at, from.data() + at, kCopy);
    }
    status = queue->synchronize();
    if (round > 0) bytes += kRound * kCopy;
  }
  const double gbps = static_cast<double>(bytes) / since(start) / 1e9;
  device->unregister_host(from);
  FB_TRY(std::move(status));
  return gbps;
}

Result<double> device_memory_gbps(const std::string& kind, double seconds) {
  constexpr std::uint64_t kCopy = 256ull << 20;  // far above a cache on the device
  FB_ASSIGN(auto device, load_device(kind));
  FB_ASSIGN(auto arena, device->reserve_arena(2 * kCopy));
  FB_TRY(arena->commit(0, 2 * kCopy));
  FB_ASSIGN(auto queue, device->create_queue("memory", 256));
  std::uint64_t bytes = 0;
  Clock::time_point start;
  for (int round = 0; round < 3 || since(start) < seconds; ++round) {
    if (round == 1) start = Clock::now();  // the first one warms up
    for (int c = 0; c < 32; ++c) queue->copy(arena->base() + kCopy, arena->base(), kCopy);
    FB_TRY(queue->synchronize());
    if (round > 0) bytes += 2 * 32 * kCopy;
  }
  return static_cast<double>(bytes) / since(start) / 1e9;
}

double zstd_decode_gbps(double seconds) {
  std::vector<std::byte> raw(4ull << 20), back(raw.size()), stored;
  std::uint64_t state = 1;
  for (std::size_t i = 0; i < raw.size(); ++i) {  // bf16 shaped: a random byte, then one of a few exponents
    state = state * 6364136223846793005u + 1442695040888963407u;
    raw[i] = static_cast<std::byte>(i % 2 == 0 ? state >> 56 : 0x38u + (static_cast<unsigned>(__builtin_ctzll(state >> 20 | 64)) & 7u));
  }
  codec::ChunkCodec codec;
  if (!codec.encode(codec::kZstd, raw, 3, stored).ok()) return 0;
  std::uint64_t bytes = 0;
  const auto start = Clock::now();
  while (since(start) < seconds) {
    if (!codec.decode(codec::kZstd, codec::codec_version(codec::kZstd), stored, back).ok()) return 0;
    bytes += raw.size();
  }
  return static_cast<double>(bytes) / since(start) / 1e9;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const std::size_t colon = line.find(':');
    return colon == std::string::npos ? line : line.substr(colon + 2);
  }
  return "unknown";
}

boost::json::object machine_json() {
  boost::json::object out;
  struct utsname name {};
  uname(&name);
  out["cpu"] = cpu_name();
  out["cores"] = default_threads();
  out["memory_bytes"] = memory_info().total_bytes;
  out["kernel"] = name.release;
  out["forebay"] = version_string();
  return out;
}

}  // namespace forebay::tools
