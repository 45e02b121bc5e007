#include "autograd/ops/norm_linear.h"

#include "autograd/ops/residual_norm.h"
#include "kernels/matmul/matmul.h"

namespace omni {

NormLinear norm_linear(Tape& tape, const Tensor& x, const Tensor& branch, Parameter& norm_weight, double eps,
                       Parameter& weight) {
  const View normed = tape.borrow(x.dtype, x.shape);
  const ResidualNorm norm = ResidualNorm::forward(tape, x, branch, norm_weight, eps, normed);
  const Tensor y = tape.empty(x.dtype, x.shape.with_width(weight.value.rows()));
  tape.run(weight.product(y, normed));
  tape.give_back(normed);

  tape.on_backward([=, weight = &weight](Gradients& d) {
    const View dy = d[y], normed = d.scratch(norm.x.dtype, norm.x.shape);
    if (const ParameterGradient dw = d[*weight]; dw.view) {
      norm.normalize_again(d, normed);
      d.run(Matmul{.c = dw.view, .a = dy, .b = normed, .transpose_a = true, .accumulate = dw.accumulate});
    }
    const View& dnormed = normed;  // the normalised values have served
    d.run(Matmul{.c = dnormed, .a = dy, .b = *weight});
    norm.backward(d, dnormed);
  });
  return {norm.sum, y};
}

}  // namespace omni
