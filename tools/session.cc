#include "session.h"

#include <unistd.h>

#include "base/file.h"
#include "json_out.h"

namespace forebay::tools {

void Session::write(std::string_view text) {
  if (json_output() && options.text("json").empty()) return;
  console.clear_progress();
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) write_failed_ = true;
}

int Session::finish(const Status& status) {
  Status outcome = status;
  console.clear_progress();
  if (json_output()) {
    result["peak_rss_bytes"] = peak_rss_bytes();
    if (!outcome.ok()) result["error"] = error_json(outcome);
    const std::string text = json::serialize(result) + "\n";
    const std::string path = options.text("json");
    if (path.empty()) {
      if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) write_failed_ = true;
    } else {
      auto file = DurableFile::create(posix_file_system(), path, 0);
      Status wrote = file.ok() ? Status() : file.status();
      if (wrote.ok()) wrote = (*file)->append(std::as_bytes(std::span(text.data(), text.size())));
      if (wrote.ok()) wrote = (*file)->commit();
      if (!wrote.ok() && outcome.ok()) outcome = std::move(wrote);
    }
  }
  if (std::fflush(stdout) != 0) write_failed_ = true;
  if (write_failed_ && outcome.ok()) outcome = Status(Code::io_error, "writing to the standard output failed");
  if (!outcome.ok() && (!json_output() || !options.text("json").empty())) console.write_error(error_text(outcome, console.color()));
  return exit_code(outcome);
}

}  // namespace forebay::tools
