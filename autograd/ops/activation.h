#pragma once
// Functions of one number, applied to each element.

#include "autograd/tape.h"
#include "kernels/activation/activation.h"

namespace omni {

Tensor gelu(Tape& tape, const Tensor& x, Gelu::Kind kind = Gelu::Kind::erf);
Tensor silu(Tape& tape, const Tensor& x);  // y = x * sigmoid(x)

}  // namespace omni
