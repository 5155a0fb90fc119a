// One chunk of a generation, from wherever it is bound, with every digest that is known checked. For refit and verify, not for passes.
#pragma once

#include <span>
#include <vector>

#include "codec/chunk_codec.h"
#include "plan/binding.h"

namespace forebay::refit {

// `stored` is scratch, reused between calls. corruption with file and offset.
Status read_bound_chunk(const plan::Generation& generation, plan::ChunkId chunk, codec::ChunkCodec& codec, std::vector<std::byte>& stored,
                        std::span<std::byte> raw);

}  // namespace forebay::refit
