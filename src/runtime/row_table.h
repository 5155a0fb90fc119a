// A kernel that gathers rows of a table whose indices somebody may have checked before.
#pragma once

#include "runtime/op.h"

namespace forebay {

class RowTable {
 public:
  virtual ~RowTable() = default;
  // As run, of indices that are none of them outside: the device need not be waited for.
  virtual Status run_checked(const KernelCall& call) = 0;
};

}  // namespace forebay
