// SHA-256 of source tensors, each payload read once in bounded buffers.
#pragma once

#include <functional>
#include <vector>

#include "base/digest.h"
#include "base/source_tensor.h"

namespace forebay::builder {

// Called after every few MiB; false cancels.
using DigestProgress = std::function<bool(std::uint64_t bytes)>;

// Over the plain (decoded) tensor. `buffer` is grown to a few MiB and reused. Payloads that have no fixed width per element are decoded
// whole.
Result<Sha256> digest_source(const SourceTensor& source, std::vector<std::byte>& buffer, const DigestProgress& progress);

}  // namespace forebay::builder
