#pragma once
// What every half of a transformer block begins with: add the last branch to the residual stream, normalise, project.

#include "autograd/tape.h"

namespace omni {

struct NormLinear {
  Tensor sum;  // x + branch; takes the branch's memory
  Tensor y;    // rms_norm(sum) W^T
};

// x, branch [..., width], norm_weight [width], weight [out, width], y [..., out]. An absent branch adds nothing.
// The normalised values are not kept: the backward pass makes them again from the sum. The op that made `branch` must
// not need its value in its backward pass (a linear layer does not).
NormLinear norm_linear(Tape& tape, const Tensor& x, const Tensor& branch, Parameter& norm_weight, double eps,
                       Parameter& weight);

}  // namespace omni
