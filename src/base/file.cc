// What every file of every file system shares: whole-range helpers, paths, and the one mapping of errno.
#include "base/file.h"

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/printable.h"

namespace forebay {

Status File::read_exactly(std::uint64_t offset, std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    FB_ASSIGN(const std::size_t got, read_at(offset + done, out.subspan(done)));
    if (got == 0) {
      std::uint64_t real = offset + done;
      if (auto now = identity(); now.ok()) real = now->bytes;
      return Status(Code::corruption, "the file is shorter than stated: bytes up to " + std::to_string(offset + out.size()) +
                                          " are wanted, it has " + std::to_string(real))
          .with_file(name())
          .with_offset(offset + done);
    }
    done += got;
  }
  return {};
}

Status File::write_all(std::uint64_t offset, std::span<const std::byte> bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    FB_ASSIGN(const std::size_t put, write_at(offset + done, bytes.subspan(done)));
    if (put == 0) return Status(Code::io_error, "the file takes no more bytes").with_file(name()).with_offset(offset + done);
    done += put;
  }
  return {};
}

std::string folder_of(std::string_view path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string_view::npos) return ".";
  if (slash == 0) return "/";
  return std::string(path.substr(0, slash));
}

std::string file_name_of(std::string_view path) {
  const std::size_t slash = path.find_last_of('/');
  return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

std::string join_path(std::string_view folder, std::string_view name) {
  if (folder.empty() || folder == ".") return std::string(name);
  std::string path(folder);
  if (path.back() != '/') path += '/';
  return path.append(name);
}

namespace {

Code code_of(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR: return Code::not_found;
    case EEXIST: return Code::failed_precondition;
    case ENOMEM: return Code::out_of_memory;
    case ENOSYS:
    case EOPNOTSUPP: return Code::unavailable;
    case ECANCELED: return Code::cancelled;
    default: return Code::io_error;
  }
}

std::string_view hint_of(int error) {
  switch (error) {
    case ENOSPC: return "free some space, or write to another file system";
    case EDQUOT: return "the disk quota is used up: free some space, or write to another file system";
    case EROFS: return "the file system is read-only: write to another folder";
    case EACCES:
    case EPERM: return "check the permissions of the file and of its folder";
    case EMFILE: return "too many open files in this process: raise the limit (ulimit -n)";
    case ENFILE: return "too many open files on this machine";
    default: return "";
  }
}

}  // namespace

Status errno_status(int error, std::string_view doing, std::string_view file) {
  // strerrordesc_np is thread-safe and knows no locale.
  const char* words = ::strerrordesc_np(error);
  std::string text(doing);
  text += " " + printable(file) + ": " + (words != nullptr ? words : "unknown error") + " (errno " + std::to_string(error) + ")";
  Status status(code_of(error), std::move(text));
  // Problem::file never shows where on the machine a file lies.
  std::move(status).with_file(file.starts_with('/') ? file_name_of(file) : std::string(file)).with_hint(hint_of(error));
  return status;
}

}  // namespace forebay
