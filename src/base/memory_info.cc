#include "base/memory_info.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

namespace forebay {
namespace {

// These are windows into the kernel, not files of the user: they do not go through FileSystem.
std::string read_small(const char* path) {
  std::string text;
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char buffer[4096];
  ssize_t got = 0;
  while (text.size() < 65536 && (got = ::read(fd, buffer, sizeof buffer)) > 0) text.append(buffer, static_cast<std::size_t>(got));
  ::close(fd);
  return text;
}

std::optional<std::uint64_t> number_at(std::string_view text, std::size_t at) {
  while (at < text.size() && (text[at] == ' ' || text[at] == '\t')) ++at;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

// "Name:   123 kB" as bytes.
std::uint64_t field(std::string_view text, std::string_view name) {
  const std::size_t at = text.find(name);
  if (at == std::string_view::npos) return 0;
  return number_at(text, at + name.size()).value_or(0) * 1024;
}

// Room left in the memory cgroup of this process (v2, as seen inside a container), if there is a limit.
std::optional<std::uint64_t> cgroup_room() {
  const auto limit = number_at(read_small("/sys/fs/cgroup/memory.max"), 0);  // "max" is no number
  const auto used = number_at(read_small("/sys/fs/cgroup/memory.current"), 0);
  if (!limit || !used) return std::nullopt;
  // Page cache counts as used but gives way.
  std::uint64_t cache = 0;
  const std::string facts = read_small("/sys/fs/cgroup/memory.stat");
  if (const std::size_t at = facts.find("\ninactive_file "); at != std::string::npos) cache = number_at(facts, at + 15).value_or(0);
  const std::uint64_t held = *used > cache ? *used - cache : 0;
  return *limit > held ? *limit - held : 0;
}

}  // namespace

MemoryInfo memory_info() {
  MemoryInfo info;
  const std::string machine = read_small("/proc/meminfo");
  info.total_bytes = field(machine, "MemTotal:");
  info.available_bytes = field(machine, "MemAvailable:");
  if (const auto room = cgroup_room()) info.available_bytes = std::min(info.available_bytes, *room);
  const std::string self = read_small("/proc/self/status");
  info.rss_bytes = field(self, "VmRSS:");
  info.peak_rss_bytes = field(self, "VmHWM:");
  return info;
}

bool reset_peak_rss() {
  const int fd = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool done = ::write(fd, "5", 1) == 1;
  ::close(fd);
  return done;
}

}  // namespace forebay
