#include "autograd/ops/linear.h"

#include "kernels/elementwise/elementwise.h"
#include "kernels/matmul/matmul.h"

namespace omni {

namespace {

Tensor project(Tape& tape, Tensor y, const Tensor& x, Parameter& weight, Parameter* bias) {
  Matmul product = weight.product(y, x);
  if (bias) product.bias = bias->value;
  tape.run(product);
  tape.on_backward([x, y, weight = &weight, bias](Gradients& d) {
    const View dy = d[y];
    if (const View dx = d[x]) d.run(Matmul{.c = dx, .a = dy, .b = *weight});
    if (const ParameterGradient dw = d[*weight]; dw.view)
      d.run(Matmul{.c = dw.view, .a = dy, .b = x, .transpose_a = true, .accumulate = dw.accumulate});
    if (bias)
      if (const ParameterGradient db = d[*bias]; db.view)
        d.run(BiasBackward{.dbias = db.view, .dy = dy, .accumulate = db.accumulate});
  });
  return y;
}

}  // namespace

Tensor linear(Tape& tape, const Tensor& x, Parameter& weight, Parameter* bias) {
  return project(tape, tape.empty(x.dtype, x.shape.with_width(weight.value.rows())), x, weight, bias);
}

Tensor linear_in_gradient(Tape& tape, const Tensor& x, Parameter& weight) {
  return project(tape, tape.empty_in_gradient(x.dtype, x.shape.with_width(weight.value.rows())), x, weight, nullptr);
}

}  // namespace omni
