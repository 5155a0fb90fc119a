// Kernels that can do the same work in several ways: which one is a choice, made by timing or by heuristics, recorded in the plan.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "forebay/status.h"

namespace forebay {

struct KernelWay {
  std::string kernel;  // stable id, as Kernel::id()
  std::string config;  // what distinguishes ways of one id, in words without " | "; empty: there is one
  friend bool operator==(const KernelWay&, const KernelWay&) = default;
};

class ChoosingKernel {  // beside Kernel
 public:
  virtual ~ChoosingKernel() = default;
  // Before prepare: nothing is chosen there, `take` will say what.
  virtual void choose_later() {}
  // Behind prepare, before what follows: kernels that will not be taken, so that nothing is made ready for them.
  virtual void exclude(const std::function<bool(std::string_view)>&) {}
  // All of these after prepare. The work in words without " | ", apart from the node's name: operator, shapes, types, slabs. Empty where
  // there is nothing to choose.
  virtual std::string problem() const = 0;
  // The first is the heuristics' choice, which prepare takes. Empty, or one: there is nothing to choose.
  virtual std::vector<KernelWay> ways() const = 0;
  // unsupported where this cannot be done here (a library's other version, a shape it does not serve): the kernel is as it was.
  virtual Status take(const KernelWay& way) = 0;
  // Where a library brings code to the device when it first runs what was taken, it does now. May wait for all that the device does.
  virtual void load() {}
};

}  // namespace forebay
