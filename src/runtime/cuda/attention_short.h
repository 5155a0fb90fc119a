// Attention of encoders: few keys, all of them seen.
#pragma once

#include "runtime/cuda/attention_task.h"

namespace forebay::cuda {

bool serves_attention_short(const AttentionTask& task);  // by shapes, and which operands there are; whatever the way
cudaError_t launch_attention_short(const AttentionTask& task, cudaStream_t stream);
cudaError_t launch_attention_short_hopper(const AttentionTask& task, cudaStream_t stream);  // on 9.0, of a scale above 0

}  // namespace forebay::cuda
