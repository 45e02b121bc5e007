#pragma once
// A few rows times a weight matrix: the shape of decoding, bound by the bytes of the weights.

#include "kernels/matmul/matmul.h"

namespace omni {

// Whether matvec() is the better way: few rows, weights stored [n, k]; or the only one: weights in i8.
bool prefers_matvec(const Matmul& op);

// y[r, j] = b_scale[j] sum_i x[r, i] w[j, i] (+ bias[j]) (+ y[r, j])
void matvec(const CpuContext& cpu, const Matmul& op);

}  // namespace omni
