#include "stream/io_engine.h"

#include <cerrno>
#include <utility>

#include "base/checked.h"

namespace forebay::stream {
namespace {
constexpr std::uint32_t kErrorRetries = 2;  // EIO
constexpr std::uint32_t kTurnsMax = 64;     // EAGAIN, EINTR and direct reads shorter than a block, before a blocking read takes over
}  // namespace

void ReadProgress::begin(const ReadRequest& request) {
  request_ = request;
  done_ = errors_ = turns_ = retries_ = 0;
  blocking_ = false;
  status_ = Status();
}

ReadProgress::Next ReadProgress::finish_with(Status status) {
  status_ = std::move(status);
  return Next::finished;
}

ReadProgress::Next ReadProgress::on_result(std::int64_t result) {
  if (result == -EIO) {
    if (errors_++ >= kErrorRetries) return finish_with(errno_status(EIO, "reading", request_.file->name()).with_offset(offset()));
    ++retries_;
    return Next::again;
  }
  if (result == -EINTR || result == -EAGAIN || result == -EBUSY) {
    ++retries_;
    return ++turns_ > kTurnsMax ? Next::blocking : Next::again;
  }
  // Some file systems open with O_DIRECT and refuse at the read.
  if (result == -EINVAL && request_.file->direct()) return Next::blocking;
  if (result < 0) return finish_with(errno_status(static_cast<int>(-result), "reading", request_.file->name()).with_offset(offset()));
  if (result == 0) return Next::finished;  // the file ends here
  const auto got = static_cast<std::uint32_t>(result < left() ? result : left());
  if (done_ + got >= request_.needed) {
    done_ += got;
    return Next::finished;
  }
  // A short read may end anywhere; the next one must start at a block again.
  const std::uint32_t whole = request_.file->direct() ? static_cast<std::uint32_t>(align_down(got, kBlockBytes)) : got;
  done_ += whole;
  ++retries_;
  if (whole == 0 && ++turns_ > kTurnsMax) return Next::blocking;
  return Next::again;
}

ReadProgress::Next ReadProgress::on_error(Status status) {
  if (status.code() == Code::io_error && errors_++ < kErrorRetries) {
    ++retries_;
    return Next::again;
  }
  // Some file systems open with O_DIRECT and refuse at the read: once through the page cache before giving up.
  if (request_.file->direct() && !blocking_) return Next::blocking;
  return finish_with(std::move(status));
}

void ReadProgress::finish_blocking() {
  blocking_ = true;
  while (done_ < request_.bytes) {
    auto got = request_.buffered->read_at(offset(), {to(), left()});
    if (!got.ok()) {
      if (on_error(std::move(got).status()) == Next::again) continue;
      return;
    }
    if (*got == 0) return;
    done_ += static_cast<std::uint32_t>(*got);
  }
}

ReadDone ReadProgress::take() {
  ReadDone done;
  done.tag = request_.tag;
  done.bytes = done_;
  done.status = std::move(status_);
  return done;
}

#ifndef FOREBAY_HAVE_URING
Result<std::unique_ptr<IoEngine>> create_uring_engine(std::uint32_t, Logger&, const UringFaults&) {
  return Status(Code::unavailable, "built without liburing");
}
#endif

Result<std::unique_ptr<IoEngine>> create_io_engine(IoChoice choice, std::uint32_t depth, Logger& logger, std::string* why) {
  why->clear();
  if (choice == IoChoice::threads) {
    *why = "threads asked for";
    return create_threads_engine(depth);
  }
  auto uring = create_uring_engine(depth, logger);
  if (uring.ok()) return uring;
  if (choice == IoChoice::uring) {
    return Status(Code::unavailable, "io_uring was asked for and cannot be used: " + uring.status().message())
        .with_hint("leave out --io uring: reads then go through a pool of threads with the same results");
  }
  *why = uring.status().message();
  logger.log(LogLevel::info, "io_engine=threads why=\"" + *why + "\"");
  return create_threads_engine(depth);
}

}  // namespace forebay::stream
