#pragma once
// The second half of a SwiGLU feed-forward block.

#include "autograd/tape.h"

namespace omni {

// y = h W^T with h = silu(gate) * up.   gate_up [..., 2 * in] (gate first), weight [out, in], y [..., out]
// h, as large as all else of a block's attention together, is not kept: the backward pass makes it again from gate_up.
Tensor swiglu_linear(Tape& tape, const Tensor& gate_up, Parameter& weight);

}  // namespace omni
