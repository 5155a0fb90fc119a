#include "trace_file.h"

#include <unistd.h>

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
  json::array ops;
  for (const PassProfile::Op& op : profile.ops) {
    ops.push_back(json::object{{"node", op.node}, {"op", op.op}, {"kernel", op.kernel}, {"calls", op.calls}, {"compute_ms", op.compute_ms},
                               {"wait_ms", op.wait_ms}, {"weight_bytes", op.weight_bytes}});
  }
  out["ops"] = std::move(ops);
  return write_text_file(path, json::serialize(out) + "\n");
}

Status write_trace(const std::string& path, const PassProfile& profile) {
  json::array events;
  const std::int64_t pid = ::getpid();
  const auto lane = [&](int id, const char* name) {
    events.push_back(json::object{{"name", "thread_name"}, {"ph", "M"}, {"pid", pid}, {"tid", id}, {"args", json::object{{"name", name}}}});
  };
  lane(1, "compute");
  lane(2, "wait for weights");
  double now_us = 0;
  const auto event = [&](const PassProfile::Op& op, int id, double ms) {
    if (ms <= 0) return;
    events.push_back(json::object{{"name", op.node}, {"cat", op.op}, {"ph", "X"}, {"pid", pid}, {"tid", id}, {"ts", now_us}, {"dur", ms * 1000},
                                  {"args", json::object{{"op", op.op}, {"kernel", op.kernel}, {"calls", op.calls}, {"weight_bytes", op.weight_bytes}}}});
    now_us += ms * 1000;
  };
  for (const PassProfile::Op& op : profile.ops) {
    event(op, 2, op.wait_ms);
    event(op, 1, op.compute_ms);
  }
  json::object out;
  out["traceEvents"] = std::move(events);
  out["displayTimeUnit"] = "ms";
  return write_text_file(path, json::serialize(out) + "\n");
}

}  // namespace forebay::tools
