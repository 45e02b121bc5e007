#include "autograd/ops/norm.h"

#include "kernels/layer_norm/layer_norm.h"
#include "kernels/rms_norm/rms_norm.h"

namespace omni {
namespace {

// A number per row for the backward pass; absent when nothing is recorded.
Tensor row_statistic(Tape& tape, const Tensor& x) {
  return tape.recording() ? tape.constant(wide_of(x.dtype), Shape{x.rows()}) : Tensor();
}

}  // namespace

Tensor rms_norm(Tape& tape, const Tensor& x, Parameter& weight, float eps) {
  Tensor y = tape.like(x);
  const Tensor rstd = row_statistic(tape, x);
  tape.run(RmsNorm{.y = y, .rstd = rstd, .x = x, .weight = weight, .eps = eps});
  tape.on_backward([=, &weight](Gradients& d) {
    const auto [dweight, accumulate] = d[weight];
    d.run(RmsNormBackward{
        .dx = d[x], .dweight = dweight, .dy = d[y], .x = x, .rstd = rstd, .weight = weight, .accumulate = accumulate});
  });
  return y;
}

// dsum gains the gradient through the norm; dx = dresidual = dsum: one block of memory serves both.
AddRmsNormResult add_rms_norm(Tape& tape, const Tensor& x, const Tensor& residual, Parameter& weight, float eps) {
  Tensor sum = tape.like(x), normed = tape.like(x);
  const Tensor rstd = row_statistic(tape, x);
  tape.run(
      AddRmsNorm{.sum = sum, .y = normed, .rstd = rstd, .x = x, .residual = residual, .weight = weight, .eps = eps});
  tape.on_backward([=, &weight](Gradients& d) {
    const bool past_the_norm = d.has(sum);
    const View dsum = past_the_norm ? d.take(sum) : d.scratch(sum.dtype, sum.shape);
    if (d.has(normed)) {
      const auto [dweight, accumulate] = d[weight];
      d.run(RmsNormBackward{.dx = dsum,
                            .dweight = dweight,
                            .dy = d[normed],
                            .x = sum,
                            .rstd = rstd,
                            .weight = weight,
                            .accumulate_dx = past_the_norm,
                            .accumulate = accumulate});
    }
    d.give(x, dsum);
    d.give(residual, dsum);
  });
  return {sum, normed};
}

Tensor layer_norm(Tape& tape, const Tensor& x, Parameter& weight, Parameter& bias, float eps) {
  Tensor y = tape.like(x);
  const Tensor mean = row_statistic(tape, x), rstd = row_statistic(tape, x);
  tape.run(LayerNorm{.y = y, .mean = mean, .rstd = rstd, .x = x, .weight = weight, .bias = bias, .eps = eps});
  tape.on_backward([=, &weight, &bias](Gradients& d) {
    const ParameterGradient dweight = d[weight], dbias = d[bias];
    d.run(LayerNormBackward{.dx = d[x],
                            .dweight = dweight.view,
                            .dbias = dbias.view,
                            .dy = d[y],
                            .x = x,
                            .mean = mean,
                            .rstd = rstd,
                            .weight = weight,
                            .accumulate_dweight = dweight.accumulate,
                            .accumulate_dbias = dbias.accumulate});
  });
  return y;
}

}  // namespace omni
