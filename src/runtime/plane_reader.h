// Kernels that read an operand whose planes (the last two axes) lie apart: a state that has room to
// grow behind each of them; and those that write such a state's new rows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace forebay {

class PlaneReader {
 public:
  virtual ~PlaneReader() = default;
  // After prepare: elements from one plane of this input to the next; 0: dense. False: it must be
  // dense.
  virtual bool set_pitch(std::size_t input, std::int64_t elements) = 0;
};

// A Concat whose first input is a state, and whose output may lie where that does.
class PlaneAppender {
 public:
  virtual ~PlaneAppender() = default;
  // After prepare: it does; only what comes behind each plane is written. `elements` as above.
  virtual void append_in_place(std::int64_t elements) = 0;
};

}  // namespace forebay
