#pragma once
// Normalisation over the last dimension.

#include "autograd/tape.h"

namespace omni {

// y = x / rms(x) * weight   x [rows, width], weight [width]
Tensor rms_norm(Tape& tape, const Tensor& x, Parameter& weight, float eps);

// sum = x + residual, normed = rms_norm(sum): both are used, normed by the next block and sum by the next residual.
struct AddRmsNormResult {
  Tensor sum, normed;
};
AddRmsNormResult add_rms_norm(Tape& tape, const Tensor& x, const Tensor& residual, Parameter& weight, float eps);

// y = (x - mean(x)) / deviation(x) * weight + bias   x [rows, width]; weight, bias [width]
Tensor layer_norm(Tape& tape, const Tensor& x, Parameter& weight, Parameter& bias, float eps);

}  // namespace omni
