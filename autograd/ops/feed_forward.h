#pragma once
// The dense half of a transformer block.

#include "autograd/ops/norm_linear.h"

namespace omni {

// sum = x + branch,  y = down(silu(gate) * up) with (gate, up) = rms_norm(sum) gate_up_weight^T
//   x, branch, y [..., width], norm_weight [width], gate_up_weight [2 * hidden, width] (gate first), down_weight
//   [width, hidden]
// As norm_linear, it takes over the branch's memory and keeps no normalised values; silu(gate) * up is made again in
// the backward pass too. gate and up, the largest activations of a model, are kept unless the tape is told to
// recompute: then a training step needs about half the memory for activations and a seventh more arithmetic.
NormLinear feed_forward(Tape& tape, const Tensor& x, const Tensor& branch, Parameter& norm_weight, double eps,
                        Parameter& gate_up_weight, Parameter& down_weight);

}  // namespace omni
