// How passes join work that the caller gives to a stream of its own. A device that has streams is a CallerStreams too (dynamic_cast).
// Streams and events are the device's own handles, as pointers: cudaStream_t and cudaEvent_t on "cuda".
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "forebay/status.h"
#include "runtime/device.h"

namespace forebay {

// Ties the passes of one context to streams; passes are told apart by tickets, which grow and finish in order.
class PassTie {
 public:
  virtual ~PassTie() = default;
  // On the caller's thread, waiting for no pass. What the stream was given before is waited for by begin(), what it is given from now on
  // waits for finish() or release(). `consumed`, unless null, is recorded so that it fires at consume(). One thread at a time.
  virtual Result<std::uint32_t> attach(void* stream, void* consumed) = 0;
  // On the thread that runs the passes, before this one takes what others may want: returns when its stream has come to it, or when every
  // pass that was attached before, to any stream, has ended.
  virtual void await_turn(std::uint32_t ticket) = 0;
  // On the queue of the pass: points in its order. `behind`, unless empty, is called when the pass has ended, if no stream waits for
  // another one then, and none is made to meanwhile; else attach() may hold later passes back for some milliseconds, so that it comes to
  // that.
  virtual Status begin(std::uint32_t ticket) = 0;
  virtual Status consume(std::uint32_t ticket) = 0;
  virtual Status finish(std::uint32_t ticket, const std::function<void()>& behind) = 0;
  // From the host, once, with nothing of the pass running: whoever still waits for it goes on.
  virtual void release(std::uint32_t ticket) = 0;
};

class CallerStreams {  // thread-safe
 public:
  virtual ~CallerStreams() = default;
  virtual Result<std::unique_ptr<PassTie>> create_tie() = 0;
  virtual Result<bool> capturing(void* stream) = 0;
  // Calls `work` when no stream waits for a pass, and lets none be made to meanwhile; passes that are attached later are held back until
  // then. False, and it was not called, where that has not come within a second.
  virtual bool when_quiet(const std::function<void()>& work) = 0;
  // Gives every command to the stream as it comes, on the calling thread, for a stream that is being captured. It waits for nothing: what
  // would have to wait is failed_precondition.
  virtual std::unique_ptr<Queue> capture_queue(void* stream) = 0;
  // An event of the caller's becomes a part of the capture, recorded whenever the graph gets there.
  virtual Status capture_event(void* stream, void* event) = 0;
};

}  // namespace forebay
