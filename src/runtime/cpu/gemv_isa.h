// Which instruction set the kernels of this folder use. Detected once per call from CPUID (cheap), never from the environment.
#pragma once

#include <cstdint>
#include <string_view>

namespace forebay::cpu {

// Ordered: a machine that has one has all below it. avx2 means AVX2, FMA and F16C; avx512 means F, BW, DQ and VL besides.
enum class InstructionSet : std::uint8_t { baseline = 0, avx2 = 1, avx512 = 2 };

InstructionSet cpu_instruction_set();  // the widest this machine and system serve: part of numerics_id
bool native_bf16();  // AVX-512 BF16 (or AMX): products of bf16 without widening
std::string_view instruction_set_name(InstructionSet set);

}  // namespace forebay::cpu
