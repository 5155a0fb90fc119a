#include "trace_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>

#include "base/check.h"
#include "base/file.h"

namespace forebay::tools {
namespace json = boost::json;

Status write_text_file(const std::string& path, const std::string& text) {
  FB_ASSIGN(auto file, DurableFile::create(posix_file_system(), path, text.size()));
  FB_TRY(file->append(std::as_bytes(std::span(text.data(), text.size()))));
  return file->commit();
}

Status write_profile(const std::string& path, const PassProfile& profile) {
  json::object out;
  out["schema"] = "forebay.profile/1";
  out["pass_ms"] = profile.milliseconds;
  out["disk_bytes"] = profile.disk_bytes;
  out["link_bytes"] = profile.link_bytes;
  out["gathered_bytes"] = profile.gathered_bytes;
  out["stalls"] = profile.stalls;
  out["host_waits"] = profile.host_waits;
  out["replayed_launches"] = profile.replayed_launches;
  json::array ops;
  for (const PassProfile::Op& op : profile.ops) {
    ops.push_back(json::object{{"node", op.node}, {"op", op.op}, {"kernel", op.kernel}, {"calls", op.calls}, {"compute_ms", op.compute_ms},
                               {"wait_ms", op.wait_ms}, {"weight_bytes", op.weight_bytes}});
  }
  out["ops"] = std::move(ops);
  return write_text_file(path, json::serialize(out) + "\n");
}

// What overlaps within a lane is spread over as many rows as it takes: reads are under way by the dozen.
Status write_trace(const std::string& path, const PassProfile& profile) {
  static constexpr const char* kLanes[] = {"disk", "decode", "link", "compute"};
  constexpr int kRows = 1000;  // of a lane at most
  std::vector<const PassProfile::Span*> spans;
  for (const PassProfile::Span& span : profile.spans) spans.push_back(&span);
  std::stable_sort(spans.begin(), spans.end(), [](const auto* a, const auto* b) { return a->begin_ms < b->begin_ms; });
  json::array events;
  const std::int64_t pid = ::getpid();
  std::array<std::vector<double>, 4> busy_until;  // by lane and row
  for (const PassProfile::Span* span : spans) {
    const auto lane = static_cast<std::size_t>(span->lane);
    std::vector<double>& rows = busy_until[lane];
    const auto free = std::find_if(rows.begin(), rows.end(), [&](double end) { return end <= span->begin_ms; });
    const int row = std::min(kRows - 1, static_cast<int>(free - rows.begin()));
    if (free == rows.end()) {
      rows.push_back(0);
      const std::string name = row == 0 ? kLanes[lane] : fmt::format("{} {}", kLanes[lane], row + 1);
      const int id = static_cast<int>(lane) * kRows + row;
      events.push_back(json::object{{"name", "thread_name"}, {"ph", "M"}, {"pid", pid}, {"tid", id}, {"args", json::object{{"name", name}}}});
      events.push_back(json::object{{"name", "thread_sort_index"}, {"ph", "M"}, {"pid", pid}, {"tid", id}, {"args", json::object{{"sort_index", id}}}});
    }
    rows[static_cast<std::size_t>(row)] = span->end_ms;
    events.push_back(json::object{{"name", span->name}, {"cat", kLanes[lane]}, {"ph", "X"}, {"pid", pid}, {"tid", static_cast<int>(lane) * kRows + row},
                                  {"ts", span->begin_ms * 1000}, {"dur", (span->end_ms - span->begin_ms) * 1000}, {"args", json::object{{"bytes", span->bytes}}}});
  }
  json::object out;
  out["traceEvents"] = std::move(events);
  out["displayTimeUnit"] = "ms";
  return write_text_file(path, json::serialize(out) + "\n");
}

}  // namespace forebay::tools
