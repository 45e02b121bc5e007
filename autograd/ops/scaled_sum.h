#pragma once
#include "autograd/tape.h"

namespace omni {

// y = a_scale * a + b_scale * b   a, b one shape;  the scales are parameters that hold one number
Tensor scaled_sum(Tape& tape, const Tensor& a, Parameter& a_scale, const Tensor& b, Parameter& b_scale);

}  // namespace omni
