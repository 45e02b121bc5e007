#include "autograd/ops/feed_forward.h"

#include "autograd/ops/residual_norm.h"
#include "kernels/matmul/matmul.h"
#include "kernels/swiglu/swiglu.h"

namespace omni {

NormLinear feed_forward(Tape& tape, const Tensor& x, const Tensor& branch, Parameter& norm_weight, double eps,
                        Parameter& gate_up_weight, Parameter& down_weight) {
  const Shape hidden = x.shape.with_width(down_weight.value.width()), packed = x.shape.with_width(2 * hidden.width());
  const bool keep = tape.recording() && !tape.recompute();
  const View normed = tape.borrow(x.dtype, x.shape);
  const ResidualNorm norm = ResidualNorm::forward(tape, x, branch, norm_weight, eps, normed);
  const Tensor y = tape.like(x);
  const View gate_up = keep ? View(tape.constant(x.dtype, packed)) : tape.borrow(x.dtype, packed);
  tape.run(gate_up_weight.product(gate_up, normed));
  tape.give_back(normed);
  const View h = tape.borrow(x.dtype, hidden);
  tape.run(SwiGlu{.y = h, .gate_up = gate_up});
  if (!keep) tape.give_back(gate_up);
  tape.run(down_weight.product(y, h));
  tape.give_back(h);

  tape.on_backward([=, gate_up_weight = &gate_up_weight, down_weight = &down_weight](Gradients& d) {
    const View dy = d[y], normed = d.scratch(norm.x.dtype, norm.x.shape), h = d.scratch(norm.x.dtype, hidden);
    const View inputs = keep ? gate_up : d.scratch(norm.x.dtype, packed);
    norm.normalize_again(d, normed);
    if (!keep) d.run(Matmul{.c = inputs, .a = normed, .b = *gate_up_weight, .transpose_b = true});
    if (const ParameterGradient dw = d[*down_weight]; dw.view) {
      d.run(SwiGlu{.y = h, .gate_up = inputs});
      d.run(Matmul{.c = dw.view, .a = dy, .b = h, .transpose_a = true, .accumulate = dw.accumulate});
    }
    const View& dh = h;  // h has served
    d.run(Matmul{.c = dh, .a = dy, .b = *down_weight});
    const View& dgate_up = inputs;  // the gradient takes their place
    d.run(SwiGluBackward{.dgate_up = dgate_up, .dy = dh, .gate_up = inputs});
    if (const ParameterGradient dw = d[*gate_up_weight]; dw.view)
      d.run(Matmul{.c = dw.view, .a = dgate_up, .b = normed, .transpose_a = true, .accumulate = dw.accumulate});
    const View& dnormed = normed;
    d.run(Matmul{.c = dnormed, .a = dgate_up, .b = *gate_up_weight});
    norm.backward(d, dnormed);
  });
  return {norm.sum, y};
}

}  // namespace omni
