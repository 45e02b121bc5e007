#pragma once
// The product of matrices without depth, of which libraries make no sums: oneDNN 2.6 divides by zero there.

#include "kernels/elementwise/elementwise.h"
#include "kernels/matmul/matmul.h"

namespace omni {

// c = 0 (+ bias) (+ c), on either device.
template <class Context>
void empty_sums(const Context& context, const Matmul& op) {
  if (!op.accumulate) run(context, Fill{.y = op.c});
  if (op.bias) run(context, AddBias{.y = op.c, .x = op.c, .bias = op.bias});
}

}  // namespace omni
