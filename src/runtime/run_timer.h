// A device that can tell how long what a queue's function enqueues takes on it, apart from the time of enqueueing.
#pragma once

#include <functional>

#include "forebay/status.h"

namespace forebay {

class RunTimer {  // beside Device
 public:
  virtual ~RunTimer() = default;
  // For functions that a queue runs. Microseconds of one call of `enqueue`: the median of several measurements of many calls each, after
  // warming up. The calls wait for nothing and take nothing from the host.
  virtual Result<double> time_calls(const std::function<Status()>& enqueue) = 0;
};

}  // namespace forebay
