#pragma once
// Linear layers.

#include "autograd/tape.h"

namespace omni {

// y = x W^T (+ bias).   x [..., in], weight [out, in], bias [out], y [..., out]
//   dx = dy W      dW (+)= dy^T x      dbias (+)= column sums of dy
Tensor linear(Tape& tape, const Tensor& x, Parameter& weight, Parameter* bias = nullptr);

// The same for a result that its consumer turns into its gradient in place, as cross_entropy does with logits.
Tensor linear_in_gradient(Tape& tape, const Tensor& x, Parameter& weight);

}  // namespace omni
