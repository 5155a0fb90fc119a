#include "runtime/timing_cache.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/check.h"

namespace forebay {
namespace {

constexpr std::string_view kHeader = "# forebay kernel times 1: device | problem | kernel | config | microseconds";
constexpr std::string_view kBetween = " | ", kFailed = "failed", kCounts = "*";
constexpr std::uint64_t kMostBytes = 64u << 20;
constexpr double kMostMicroseconds = 1e12;

// The fields of a line; empty when there are not as many as `count`.
std::vector<std::string_view> fields_of(std::string_view line, std::size_t count) {
  std::vector<std::string_view> fields;
  while (true) {
    const std::size_t at = line.find(kBetween);
    fields.push_back(line.substr(0, at));
    if (at == std::string_view::npos) break;
    line.remove_prefix(at + kBetween.size());
  }
  if (fields.size() != count) fields.clear();
  return fields;
}

std::string time_text(double microseconds) {
  if (microseconds < 0) return std::string(kFailed);
  std::array<char, 40> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), microseconds, std::chars_format::fixed, 3);
  return std::string(text.data(), end.ptr);
}

std::string count_text(std::size_t ways, const KernelWay& first) {
  return std::to_string(ways) + " ways, first " + first.kernel + " " + first.config;
}

std::optional<double> time_of(std::string_view text) {
  if (text == kFailed) return -1.0;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0) || value > kMostMicroseconds) return std::nullopt;
  return value;
}

template <typename F>
void each_line(std::string_view text, const F& line) {
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    line(text.substr(0, end), number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

}  // namespace

double rounded_time(double microseconds) {
  return std::min(kMostMicroseconds, std::round(microseconds * 1000) / 1000);
}

Result<TimingCache> TimingCache::parse(std::string_view text, const std::string& name) {
  TimingCache cache;
  Status status;
  each_line(text, [&](std::string_view line, std::size_t number) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with('#') || !status.ok()) return;
    const auto fields = fields_of(line, 5);
    const auto time = fields.empty() ? std::nullopt : time_of(fields[4]);
    if (!time || fields[0].empty() || fields[1].empty() || fields[2].empty()) {
      Problem problem;
      problem.code = "timing_cache";
      problem.message = name + ", line " + std::to_string(number) + ": not \"device | problem | kernel | config | microseconds or failed\"";
      problem.file = name;
      problem.hint = "take the line out, and its kernel is timed again; or remove the file";
      status = Status(Code::invalid_argument, std::move(problem));
      return;
    }
    cache.times_[{std::string(fields[0]), std::string(fields[1]), std::string(fields[2]), std::string(fields[3])}] = *time;
  });
  if (!status.ok()) return status;
  return cache;
}

Result<TimingCache> TimingCache::read(FileSystem& fs, const std::string& path) {
  auto file = fs.open_read(path, DirectIo::off);
  if (!file.ok()) {
    if (file.status().code() == Code::not_found) return TimingCache();
    return file.status();
  }
  FB_ASSIGN(const auto identity, (*file)->identity());
  if (identity.bytes > kMostBytes)
    return Status(Code::invalid_argument, path + " has " + std::to_string(identity.bytes) + " bytes: it is no cache of kernel times");
  std::vector<std::byte> bytes(identity.bytes);
  FB_TRY((*file)->read_exactly(0, bytes));
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

std::string TimingCache::text() const {
  std::string text = std::string(kHeader) + "\n";
  for (const auto& [key, time] : times_) {
    const auto& [device, problem, kernel, config] = key;
    text += device;
    for (const std::string& field : {problem, kernel, config, time_text(time)}) text.append(kBetween).append(field);
    text += '\n';
  }
  return text;
}

Status TimingCache::write(FileSystem& fs, const std::string& path) const {
  const std::string all = text();
  FB_ASSIGN(auto file, DurableFile::create(fs, path, all.size()));
  FB_TRY(file->append(std::as_bytes(std::span(all.data(), all.size()))));
  return file->commit();
}

std::optional<double> TimingCache::find(const std::string& device, const std::string& problem, const KernelWay& way) const {
  const auto found = times_.find({device, problem, way.kernel, way.config});
  return found == times_.end() ? std::nullopt : std::optional(found->second);
}

void TimingCache::put(const std::string& device, const std::string& problem, const TimedWay& timed) {
  times_[{device, problem, timed.way.kernel, timed.way.config}] = timed.microseconds;
}

std::optional<std::vector<TimedWay>> TimingCache::find_all(const std::string& device, const std::string& problem) const {
  std::vector<TimedWay> ways;
  std::string counted;
  for (auto at = times_.lower_bound({device, problem, "", ""}); at != times_.end(); ++at) {
    const auto& [its_device, its_problem, kernel, config] = at->first;
    if (its_device != device || its_problem != problem) break;
    if (kernel == kCounts) {
      counted = config;
    } else {
      ways.push_back({{kernel, config}, at->second});
    }
  }
  const auto first =
      std::find_if(ways.begin(), ways.end(), [&](const TimedWay& way) { return counted == count_text(ways.size(), way.way); });
  if (first == ways.end()) return std::nullopt;
  std::rotate(ways.begin(), first, first + 1);
  return ways;
}

void TimingCache::all_timed(const std::string& device, const std::string& problem, std::size_t ways, const KernelWay& first) {
  auto at = times_.lower_bound({device, problem, std::string(kCounts), ""});
  while (at != times_.end() && std::get<0>(at->first) == device && std::get<1>(at->first) == problem && std::get<2>(at->first) == kCounts)
    at = times_.erase(at);
  times_[{device, problem, std::string(kCounts), count_text(ways, first)}] = 0;
}

const TimedWay* best_way(std::span<const TimedWay> ways) {
  constexpr double kBetter = 0.97;
  const TimedWay* best = nullptr;
  for (const TimedWay& way : ways) {
    if (way.microseconds >= 0 && (best == nullptr || way.microseconds < best->microseconds)) best = &way;
  }
  const bool first = best != nullptr && ways[0].microseconds >= 0 && best->microseconds > kBetter * ways[0].microseconds;
  return first ? &ways[0] : best;
}

std::string choice_line(const std::string& problem, const TimedWay& timed) {
  std::string line = problem;
  for (const std::string& field : {timed.way.kernel, timed.way.config, time_text(timed.microseconds)}) line.append(kBetween).append(field);
  return line;
}

std::vector<ChoiceLine> choice_lines(std::string_view parameters) {
  std::vector<ChoiceLine> lines;
  each_line(parameters, [&](std::string_view line, std::size_t) {
    const auto fields = fields_of(line, 4);
    const auto time = fields.empty() ? std::nullopt : time_of(fields[3]);
    if (time) lines.push_back({fields[0], {{std::string(fields[1]), std::string(fields[2])}, *time}});
  });
  return lines;
}

}  // namespace forebay
