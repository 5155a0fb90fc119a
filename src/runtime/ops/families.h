// Every op family, one file each: the list that OpRegistry::builtin() is made of. A new family adds its declaration and its line.
#pragma once

#include <span>

#include "runtime/op.h"

namespace forebay::ops {

std::span<const OpSpec> binary_ops();
std::span<const OpSpec> pow_ops();
std::span<const OpSpec> variadic_ops();
std::span<const OpSpec> unary_ops();
std::span<const OpSpec> where_ops();
std::span<const OpSpec> cast_ops();
std::span<const OpSpec> shape_ops();
std::span<const OpSpec> transpose_ops();
std::span<const OpSpec> concat_split_ops();
std::span<const OpSpec> slice_ops();
std::span<const OpSpec> pad_ops();
std::span<const OpSpec> gather_ops();
std::span<const OpSpec> scatter_ops();
std::span<const OpSpec> generate_ops();
std::span<const OpSpec> rearrange_ops();
std::span<const OpSpec> select_ops();
std::span<const OpSpec> nms_ops();
std::span<const OpSpec> cumsum_ops();
std::span<const OpSpec> reduce_ops();
std::span<const OpSpec> arg_topk_ops();
std::span<const OpSpec> random_ops();
std::span<const OpSpec> control_ops();
std::span<const OpSpec> matmul_ops();
std::span<const OpSpec> gemm_ops();
std::span<const OpSpec> linear_ops();
std::span<const OpSpec> conv_ops();
std::span<const OpSpec> pool_ops();
std::span<const OpSpec> softmax_ops();
std::span<const OpSpec> norm_ops();
std::span<const OpSpec> recurrent_ops();
std::span<const OpSpec> resize_ops();
std::span<const OpSpec> quant_ops();
std::span<const OpSpec> quant_linear_ops();
std::span<const OpSpec> quant_gather_ops();
std::span<const OpSpec> attention_ops();
std::span<const OpSpec> rotate_half_ops();
std::span<const OpSpec> einsum_ops();
std::span<const OpSpec> signal_ops();
std::span<const OpSpec> grid_sample_ops();
std::span<const OpSpec> roi_ops();
std::span<const OpSpec> deform_conv_ops();
std::span<const OpSpec> linear_attention_ops();
std::span<const OpSpec> center_crop_ops();
std::span<const OpSpec> multi_head_attention_ops();
std::span<const OpSpec> group_query_attention_ops();
std::span<const OpSpec> expert_ops();
std::span<const OpSpec> expert_quant_ops();

using Family = std::span<const OpSpec> (*)();
inline constexpr Family kFamilies[] = {
    binary_ops,
    pow_ops,
    variadic_ops,
    unary_ops,
    where_ops,
    cast_ops,
    shape_ops,
    transpose_ops,
    concat_split_ops,
    slice_ops,
    pad_ops,
    gather_ops,
    scatter_ops,
    generate_ops,
    rearrange_ops,
    select_ops,
    nms_ops,
    cumsum_ops,
    reduce_ops,
    arg_topk_ops,
    random_ops,
    control_ops,
    matmul_ops,
    gemm_ops,
    linear_ops,
    conv_ops,
    pool_ops,
    softmax_ops,
    norm_ops,
    recurrent_ops,
    resize_ops,
    quant_ops,
    quant_linear_ops,
    quant_gather_ops,
    attention_ops,
    rotate_half_ops,
    einsum_ops,
    signal_ops,
    grid_sample_ops,
    roi_ops,
    deform_conv_ops,
    linear_attention_ops,
    center_crop_ops,
    multi_head_attention_ops,
    group_query_attention_ops,
    expert_ops,
    expert_quant_ops,
};

}  // namespace forebay::ops
