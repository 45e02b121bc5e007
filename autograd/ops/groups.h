#pragma once
// Tensors that hold the same rows once per group: row r of group g is row g * rows + r.

#include "autograd/tape.h"

namespace omni {

// y[r] = factor * sum over g of x[g * rows + r].   x [groups * rows, width] -> [rows, width]
Tensor sum_groups(Tape& tape, const Tensor& x, std::int64_t groups, double factor);

// y[g * rows + r] + x[r], in the memory of y.   y [groups * rows, width], x [rows, width] -> the shape of y
// y must be an activation whose value nobody else needs: no other op reads it, and the backward pass of the op that
// made it does not, either (a linear layer's output, say). Its gradient is the result's, x's the sum over groups.
Tensor add_groups(Tape& tape, const Tensor& y, const Tensor& x);

}  // namespace omni
