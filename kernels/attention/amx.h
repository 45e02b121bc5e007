#pragma once
// Attention in bf16 on the matrix units of Intel processors (AMX). They take all operands of products in bf16, so that
// probabilities and the gradients of scores are rounded to it, as they are for a GPU's tensor cores.

#include "kernels/attention/attention.h"

namespace omni {

// Runs the instruction and returns true, where the operands fit (Attention::fits_matrix_units) and the processor has
// these units.
bool amx_attention(const CpuContext& cpu, const Attention& op);
bool amx_attention_backward(const CpuContext& cpu, const AttentionBackward& op);

}  // namespace omni
