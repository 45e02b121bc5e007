#pragma once
// The two blocked passes of the CPU attention.

#include "kernels/attention/mask.h"

namespace omni {

template <class T>
void attention_forward_blocks(const CpuContext& cpu, const Attention& op);
template <class T>
void attention_backward_blocks(const CpuContext& cpu, const AttentionBackward& op);

}  // namespace omni
