// If, Loop and Scan are run by the executor, which knows their bodies. Here they are only known by name and checked for arity: infer
// leaves the outputs as the caller has set them from the bodies (the builder and the executor infer the bodies themselves).
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"

namespace forebay::ops {
namespace {

Status infer_if(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kBool));
  return {};
}

Status infer_loop(InferContext& ctx) {
  if (ctx.input_count() < 2) return ctx.node().invalid("trip count and condition are missing (they may be empty names)");
  FB_TRY(allow_input(ctx, 0, dtypes(DType::i64)));
  FB_TRY(allow_input(ctx, 1, kBool));
  return {};
}

Status infer_scan(InferContext& ctx) {
  const std::int64_t scans = ctx.node().integer("num_scan_inputs", 0);
  if (scans < 1 || static_cast<std::uint64_t>(scans) > ctx.input_count()) {
    return ctx.node().invalid("num_scan_inputs is " + std::to_string(scans) + " of " + std::to_string(ctx.input_count()) + " inputs");
  }
  return {};
}

constexpr OpSpec kSpecs[] = {
    {.name = "If", .flags = kOpControl, .infer = infer_if},
    {.name = "Loop", .flags = kOpControl, .infer = infer_loop},
    {.name = "Scan", .since = 8, .flags = kOpControl, .infer = infer_scan},
};

}  // namespace

std::span<const OpSpec> control_ops() { return kSpecs; }

}  // namespace forebay::ops
