// Panels of a packed weight for the blocked product: tiles of f32 made where they are needed, the
// matrix itself nowhere.
#pragma once

#include "runtime/cpu/gemm_blocked.h"
#include "runtime/cpu/quant_rows.h"

namespace forebay::cpu {

class QuantPanels final : public GemmPanels {
 public:
  // `transposed`: rows of the view are columns of the product.
  QuantPanels(InstructionSet set, const QuantView& view, bool transposed)
      : set_(set), view_(view), transposed_(transposed) {}
  void pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count, std::int64_t width,
            float* to) const override;

 private:
  InstructionSet set_;
  QuantView view_;
  bool transposed_;
};

}  // namespace forebay::cpu
