// Durable writes: the name shows the old content or the whole new one, whatever fails.
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <vector>

#include <unistd.h>

#include "base/check.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/printable.h"

namespace forebay {
namespace {

constexpr int kNamesMax = 1000;

// Removes temporaries of writers that are no longer alive. Best effort: a stray file harms nobody.
void remove_strays(FileSystem& fs, const std::string& folder, const std::string& name) {
  auto names = fs.list(folder);
  if (!names.ok()) return;
  const std::string prefix = "." + name + ".";
  constexpr std::string_view kSuffix = ".tmp";
  for (const std::string& entry : *names) {
    if (entry.size() <= prefix.size() + kSuffix.size() || !entry.starts_with(prefix) || !entry.ends_with(kSuffix)) continue;
    const char* const begin = entry.data() + prefix.size();
    const char* const end = entry.data() + entry.size() - kSuffix.size();
    pid_t pid = 0;
    const auto [after_pid, error] = std::from_chars(begin, end, pid);
    if (error != std::errc() || after_pid == end || *after_pid != '-' || pid <= 0) continue;
    unsigned number = 0;
    const auto [after_number, number_error] = std::from_chars(after_pid + 1, end, number);
    if (number_error != std::errc() || after_number != end) continue;
    if (::kill(pid, 0) == 0 || errno != ESRCH) continue;
    static_cast<void>(fs.remove(join_path(folder, entry)));
  }
}

Status no_room(const std::string& path, std::uint64_t needed, std::uint64_t free) {
  return Status(Code::io_error, "not enough space for " + printable(file_name_of(path)) + ": " + std::to_string(needed) +
                                    " bytes are needed, " + std::to_string(free) + " are free")
      .with_file(file_name_of(path))
      .with_hint("free some space, or write to another file system");
}

}  // namespace

Result<std::unique_ptr<DurableFile>> DurableFile::create(FileSystem& fs, const std::string& path, std::uint64_t expected_bytes) {
  const std::string folder = folder_of(path);
  const std::string name = file_name_of(path);
  if (name.empty()) return Status(Code::invalid_argument, "\"" + printable(path) + "\" names no file");
  if (auto folder_there = fs.is_folder(path); folder_there.ok() && *folder_there) {
    return Status(Code::invalid_argument, printable(path) + " is a folder, and a file is to be written").with_file(name);
  }
  remove_strays(fs, folder, name);
  if (expected_bytes != 0) {
    if (auto free = fs.free_bytes(folder); free.ok() && *free < expected_bytes) return no_room(path, expected_bytes, *free);
  }
  // The name of a temporary must fit where the name itself does.
  const std::string stem = "." + name.substr(0, 200) + "." + std::to_string(::getpid()) + "-";
  for (int number = 0; number < kNamesMax; ++number) {
    const std::string temporary = join_path(folder, stem + std::to_string(number) + ".tmp");
    auto file = fs.create_new(temporary);
    if (!file.ok() && file.status().code() == Code::failed_precondition) continue;  // taken by another writer of this process
    if (!file.ok()) return std::move(file).status();
    std::unique_ptr<DurableFile> durable(new DurableFile);
    durable->fs_ = &fs;
    durable->path_ = path;
    durable->temporary_ = temporary;
    durable->file_ = std::move(file).value();
    return durable;
  }
  return Status(Code::io_error, "no free name for a temporary file beside " + printable(path)).with_file(name);
}

DurableFile::~DurableFile() {
  if (done_) return;
  file_.reset();
  static_cast<void>(fs_->remove(temporary_));
}

Status DurableFile::append(std::span<const std::byte> bytes) { return write_at(size_, bytes); }

Status DurableFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (done_ || file_ == nullptr) return Status(Code::failed_precondition, "the file is already finished").with_file(file_name_of(path_));
  const auto end = checked_add(offset, bytes.size());
  if (!end) return Status(Code::invalid_argument, "the range lies beyond any file").with_file(file_name_of(path_));
  if (Status status = file_->write_all(offset, bytes); !status.ok()) {
    // What is written so far is of no use: give the space back at once.
    const std::uint64_t written = size_;
    file_.reset();
    static_cast<void>(fs_->remove(temporary_));
    std::string context = "writing " + printable(file_name_of(path_)) + " (" + std::to_string(*end) + " bytes needed so far, " +
                          std::to_string(written) + " written";
    if (auto free = fs_->free_bytes(folder_of(path_)); free.ok()) context += ", " + std::to_string(*free) + " free";
    return std::move(status).with_context(context + ")");
  }
  size_ = std::max(size_, *end);
  return {};
}

Status DurableFile::pad_to(std::uint64_t align) {
  FB_CHECK(align != 0 && (align & (align - 1)) == 0);
  std::uint64_t left = align_up(size_, align) - size_;
  static constexpr std::byte kZeros[4096] = {};
  while (left != 0) {
    const std::uint64_t piece = std::min<std::uint64_t>(left, sizeof kZeros);
    FB_TRY(append(std::span(kZeros).first(piece)));
    left -= piece;
  }
  return {};
}

Status DurableFile::commit() {
  if (done_ || file_ == nullptr) return Status(Code::failed_precondition, "the file is already finished").with_file(file_name_of(path_));
  Status status = file_->sync();
  file_.reset();
  if (status.ok()) status = fs_->rename(temporary_, path_);
  if (!status.ok()) {
    static_cast<void>(fs_->remove(temporary_));
    return std::move(status).with_context("finishing " + printable(file_name_of(path_)));
  }
  done_ = true;
  return fs_->sync_folder(folder_of(path_));
}

}  // namespace forebay
