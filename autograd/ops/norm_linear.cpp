#include "autograd/ops/norm_linear.h"

#include "kernels/matmul/matmul.h"
#include "kernels/rms_norm/rms_norm.h"

namespace omni {

NormLinear norm_linear(Tape& tape, const Tensor& x, const Tensor& branch, Parameter& norm_weight, double eps,
                       Parameter& weight) {
  NormLinear out;
  out.sum = branch ? tape.output_in(branch) : x;
  out.y = tape.empty(x.dtype, x.shape.with_width(weight.value.rows()));
  const Tensor rstd = tape.constant(wide_of(x.dtype), Shape{x.rows()});
  const View normed = tape.borrow(x.dtype, x.shape);
  const float epsilon = static_cast<float>(eps);
  if (branch)
    tape.run(AddRmsNorm{
        .sum = out.sum, .y = normed, .rstd = rstd, .x = x, .residual = branch, .weight = norm_weight, .eps = epsilon});
  else
    tape.run(RmsNorm{.y = normed, .rstd = rstd, .x = x, .weight = norm_weight, .eps = epsilon});
  tape.run(Matmul{.c = out.y, .a = normed, .b = weight, .transpose_b = true});
  tape.give_back(normed);

  tape.on_backward([=, norm_weight = &norm_weight, weight = &weight](Gradients& d) {
    const auto& [sum, y] = out;
    const View dy = d[y], normed = d.scratch(x.dtype, x.shape);
    if (const ParameterGradient dw = d[*weight]; dw.view) {
      d.run(RmsNorm{.y = normed, .x = sum, .weight = *norm_weight, .eps = epsilon});
      d.run(Matmul{.c = dw.view, .a = dy, .b = normed, .transpose_a = true, .accumulate = dw.accumulate});
    }
    const View& dnormed = normed;  // the normalised values have served
    d.run(Matmul{.c = dnormed, .a = dy, .b = *weight});
    // The gradient that reaches the sum past the norm is added to in place, and serves both terms of the sum.
    const bool past_the_norm = branch && d.has(sum);
    const View dsum = past_the_norm ? d.take(sum) : branch ? d.scratch(x.dtype, x.shape) : d[x];
    const ParameterGradient dnorm = d[*norm_weight];
    d.run(RmsNormBackward{.dx = dsum,
                          .dweight = dnorm.view,
                          .dy = dnormed,
                          .x = sum,
                          .rstd = rstd,
                          .weight = *norm_weight,
                          .accumulate_dx = past_the_norm,
                          .accumulate = dnorm.accumulate});
    if (!branch) return;
    d.give(x, dsum);
    d.give(branch, dsum);
  });
  return out;
}

}  // namespace omni
