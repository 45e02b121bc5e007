#pragma once
// Mixture of experts: the steps between the router's logits and the layer's output. See kernels/moe.

#include "autograd/tape.h"

namespace omni {

struct Routing {
  Tensor weight;                // [rows, top_k], f32 (f64): how much each chosen expert counts
  Tensor aux_loss;              // [1], f32 (f64): the balancing loss; 0 with coefficient 0
  Tensor slot, source, offset;  // the sorted order, see kernels/moe/moe.h
};

// Chooses top_k experts per row of logits [rows, experts].
Routing moe_route(Tape& tape, const Tensor& logits, std::int64_t top_k, bool normalize, double coefficient);

// Rows of x [rows, width] in sorted order: [capacity, width].
Tensor moe_gather(Tape& tape, const Tensor& x, const Routing& routing);

// y = x W_e^T for the rows of each expert.   x [capacity, in], weight [experts * out, in], y [capacity, out]
Tensor grouped_linear(Tape& tape, const Tensor& x, Parameter& weight, const Routing& routing);

// The same for a result that its consumer turns into its gradient in place (autograd/ops/linear.h).
Tensor grouped_linear_in_gradient(Tape& tape, const Tensor& x, Parameter& weight, const Routing& routing);

// The weighted sum of each row's experts: x [capacity, width] -> [rows, width].
Tensor moe_combine(Tape& tape, const Tensor& x, const Routing& routing);

}  // namespace omni
