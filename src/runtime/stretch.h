// Launches that wait for nothing, one behind the other, given to a queue as one command. A device
// that can keeps what they gave to its stream and runs it again as it is, while every address is
// the same: a CUDA graph.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "forebay/status.h"
#include "runtime/device.h"

namespace forebay {

struct Launch;

class Recording {  // belongs to whoever asked for it; may be destroyed on any thread
 public:
  virtual ~Recording() = default;
};

// What a device also is that can record. Both are called by functions that a queue runs.
class ReplayDevice {
 public:
  virtual ~ReplayDevice() = default;
  // False while a recording cannot be made, whatever it holds: what is null then may be asked for again.
  virtual bool can_record() { return true; }
  // Calls `work`, keeping what it launches in place of running it. Null where a call of its cannot
  // be kept: nothing has run then.
  // `worn`, where there is one, runs no more, and held much the same launches: to make it over costs less than a new one, and may be done
  // while a new one cannot be made.
  virtual std::unique_ptr<Recording> record(Queue::HostFunction work, void* argument, std::unique_ptr<Recording> worn) = 0;
  virtual Status replay(Recording& recording) = 0;
};

class Stretch {
 public:
  static constexpr std::size_t kLeast = 8;  // launches that are worth it
  static constexpr std::size_t kKept = 4;   // a pass whose states change places has two

  void begin(ReplayDevice* device);
  void add(Launch& launch);
  std::size_t size() const { return launches_.size(); }
  // For Queue::launch, as run: records what was added, before it comes for the first time. Should it come
  // with other addresses after all, it runs as if this had not been. `worn` as ReplayDevice has it.
  static Status record_ahead(void* stretch);
  void set_worn(std::unique_ptr<Recording> worn) { worn_ = std::move(worn); }
  // What ran last; this stretch runs no more.
  std::unique_ptr<Recording> take_recording();
  // For Queue::launch; the argument is the stretch, which stays as it is until it has run.
  static Status run(void* stretch);
  // Of what ran last: it should have been recorded, which could not be done just then.
  bool wants_recording() const { return wants_; }
  void record_behind();  // when it has ended, on the queue's worker: for the next time
  std::size_t replayed() const { return replayed_; }

 private:
  using Key = std::vector<const void*>;  // every launch with the addresses it is given
  struct Kept {
    Key key;
    std::unique_ptr<Recording> recording;  // null: seen once, or it cannot be kept
    bool refused = false;
  };
  void record(Kept* kept, std::unique_ptr<Recording> worn);
  static Status run_all(void* stretch);
  static Result<std::size_t> run_group(std::span<Launch* const> launches);
  static Result<std::size_t> run_gathered(std::span<Launch* const> launches);
  static Result<std::size_t> run_between(std::span<Launch* const> launches);

  ReplayDevice* device_ = nullptr;
  std::vector<Launch*> launches_;
  Key key_;
  std::vector<Kept> kept_;  // the last used first
  std::unique_ptr<Recording> worn_;
  bool wants_ = false;
  std::size_t replayed_ = 0;  // launches of what ran last
};

}  // namespace forebay
