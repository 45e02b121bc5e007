#pragma once
// The sum and the norm that norm_linear and feed_forward begin with.

#include "autograd/tape.h"
#include "kernels/rms_norm/rms_norm.h"

namespace omni {

// sum = x + branch (x itself without a branch), normed = rms_norm(sum). Lies in closures, so it is plain data.
struct ResidualNorm {
  Tensor x, branch, sum, rstd;
  Parameter* weight;
  float eps;

  // Makes the sum in the branch's memory, and `normed`.
  static ResidualNorm forward(Tape& tape, const Tensor& x, const Tensor& branch, Parameter& weight, double eps,
                              const View& normed) {
    ResidualNorm self{x,
                      branch,
                      branch ? tape.output_in(branch) : x,
                      tape.constant(wide_of(x.dtype), Shape{x.rows()}),
                      &weight,
                      static_cast<float>(eps)};
    if (branch)
      tape.run(AddRmsNorm{.sum = self.sum,
                          .y = normed,
                          .rstd = self.rstd,
                          .x = x,
                          .residual = branch,
                          .weight = weight,
                          .eps = self.eps});
    else
      tape.run(RmsNorm{.y = normed, .rstd = self.rstd, .x = x, .weight = weight, .eps = self.eps});
    return self;
  }

  // The normalised values once more.
  void normalize_again(Gradients& d, const View& normed) const {
    d.run(RmsNorm{.y = normed, .x = sum, .weight = *weight, .eps = eps});
  }

  // The gradient that reaches the sum past the norm is added to in place, and serves both terms of the sum.
  void backward(Gradients& d, const View& dnormed) const {
    const bool past_the_norm = branch && d.has(sum);
    const View dsum = past_the_norm ? d.take(sum) : branch ? d.scratch(x.dtype, x.shape) : d[x];
    const ParameterGradient dweight = d[*weight];
    d.run(RmsNormBackward{.dx = dsum,
                          .dweight = dweight.view,
                          .dy = dnormed,
                          .x = sum,
                          .rstd = rstd,
                          .weight = *weight,
                          .accumulate_dx = past_the_norm,
                          .accumulate = dweight.accumulate});
    if (!branch) return;
    d.give(x, dsum);
    d.give(branch, dsum);
  }
};

}  // namespace omni
