#pragma once
// Sums, scalings and conversions.

#include "autograd/tape.h"

namespace omni {

Tensor add(Tape& tape, const Tensor& a, const Tensor& b);       // y = a + b          one shape
Tensor scale(Tape& tape, const Tensor& x, double factor);       // y = factor * x
Tensor cast(Tape& tape, const Tensor& x, DType dtype);          // y = x in another dtype; x itself if it has it
Tensor add_bias(Tape& tape, const Tensor& x, Parameter& bias);  // y = x + bias       x [rows, width], bias [width]

}  // namespace omni
