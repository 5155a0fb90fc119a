#include "builder/source_digests.h"

#include <algorithm>

#include "base/check.h"

namespace forebay::builder {
namespace {

constexpr std::uint64_t kReadBytes = 4ull << 20;

}  // namespace

Result<Sha256> digest_source(const SourceTensor& source, std::vector<std::byte>& buffer, const DigestProgress& progress) {
  const std::uint64_t bytes = source.bytes();
  if (source.encoding != Encoding::raw) {
    FB_ASSIGN(const HostTensor tensor, load_source_tensor(source, bytes));
    if (progress && !progress(bytes)) return Status(Code::cancelled, "stopped while reading tensors");
    return sha256({tensor.data(), static_cast<std::size_t>(tensor.bytes())});
  }
  Sha256Stream stream;
  for (std::uint64_t at = 0; at < bytes;) {
    const std::uint64_t now = std::min(kReadBytes, bytes - at);
    if (buffer.size() < now) buffer.resize(static_cast<std::size_t>(now));
    const std::span<std::byte> window(buffer.data(), static_cast<std::size_t>(now));
    FB_TRY(read_source_tensor(source, at, window));
    stream.update(window);
    at += now;
    if (progress && !progress(now)) return Status(Code::cancelled, "stopped while reading tensors");
  }
  return stream.finish();
}

}  // namespace forebay::builder
