#include "refit/bind_files.h"

#include <utility>

#include "base/check.h"

namespace forebay::refit {
namespace {

bool same_file(const FileIdentity& a, const FileIdentity& b) {
  return a.device == b.device && a.inode == b.inode && a.bytes == b.bytes && a.mtime_ns == b.mtime_ns;
}

}  // namespace

Result<plan::BoundFile> bind_file(FileSystem& fs, std::shared_ptr<File> buffered, const std::string& folder,
                                  const std::string& name, DirectIo direct) {
  plan::BoundFile bound;
  bound.name = buffered->name();
  FB_ASSIGN(bound.identity, buffered->identity());
  bound.buffered = std::move(buffered);
  if (direct == DirectIo::off) return bound;
  auto file = folder.empty() ? fs.open_read(name, DirectIo::prefer) : fs.open_beneath(folder, name, DirectIo::prefer);
  if (file.ok() && (*file)->direct()) {
    FB_ASSIGN(const FileIdentity identity, (*file)->identity());
    if (!same_file(identity, bound.identity))
      return Status(Code::corruption, "the file was replaced while it was being opened")
          .with_file(bound.name)
          .with_hint("run again when nothing writes to it");
    bound.direct = std::move(*file);
    return bound;
  }
  if (direct == DirectIo::require) {
    Status status(Code::unavailable, "direct reads are required, and the file system refuses them" +
                                         (file.ok() ? std::string() : ": " + file.status().message()));
    return std::move(status).with_file(bound.name).with_hint("use --direct auto");
  }
  return bound;
}

}  // namespace forebay::refit
