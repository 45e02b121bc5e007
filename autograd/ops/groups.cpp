#include "autograd/ops/groups.h"

#include "kernels/groups/groups.h"

namespace omni {

// dx[g * rows + r] = factor * dy[r]
Tensor sum_groups(Tape& tape, const Tensor& x, std::int64_t groups, double factor) {
  Tensor y = tape.empty(x.dtype, {x.rows() / groups, x.width()});
  tape.run(SumGroups{.y = y, .x = x, .groups = groups, .factor = factor});
  tape.on_backward([=](Gradients& d) {
    if (const View dx = d[x]) d.run(AddGroups{.y = dx, .x = d[y], .groups = groups, .factor = factor});
  });
  return y;
}

// The gradient of y is that of the sum; dx[r] = sum over g of it
Tensor add_groups(Tape& tape, const Tensor& y, const Tensor& x) {
  const std::int64_t groups = x.rows() == 0 ? 1 : y.rows() / x.rows();
  Tensor sum = tape.output_in(y);
  tape.run(AddGroups{.y = sum, .x = x, .groups = groups, .accumulate = true});
  tape.on_backward([=](Gradients& d) {
    const View dsum = d.take(sum);
    if (const View dx = d[x]) d.run(SumGroups{.y = dx, .x = dsum, .groups = groups});
    d.give(y, dsum);
  });
  return sum;
}

}  // namespace omni
