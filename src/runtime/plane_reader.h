// Kernels that read an operand whose planes (the last two axes) lie apart: a state that has room to
// grow behind each of them.
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

}  // namespace forebay
