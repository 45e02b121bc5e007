#include "autograd/ops/swiglu_linear.h"

#include "kernels/matmul/matmul.h"
#include "kernels/swiglu/swiglu.h"

namespace omni {

Tensor swiglu_linear(Tape& tape, const Tensor& gate_up, Parameter& weight) {
  const Shape hidden_shape = gate_up.shape.with_width(gate_up.width() / 2);
  Tensor y = tape.empty(gate_up.dtype, gate_up.shape.with_width(weight.value.rows()));
  const View h = tape.borrow(gate_up.dtype, hidden_shape);
  tape.run(SwiGlu{.y = h, .gate_up = gate_up});
  tape.run(Matmul{.c = y, .a = h, .b = weight, .transpose_b = true});
  tape.give_back(h);
  tape.on_backward([=, weight = &weight](Gradients& d) {
    const View dy = d[y], h = d.scratch(gate_up.dtype, hidden_shape);
    if (const ParameterGradient dw = d[*weight]; dw.view) {
      d.run(SwiGlu{.y = h, .gate_up = gate_up});
      d.run(Matmul{.c = dw.view, .a = dy, .b = h, .transpose_a = true, .accumulate = dw.accumulate});
    }
    const View& dh = h;  // h has served
    d.run(Matmul{.c = dh, .a = dy, .b = *weight});
    d.run(SwiGluBackward{.dgate_up = d[gate_up], .dy = dh, .gate_up = gate_up});
  });
  return y;
}

}  // namespace omni
