#include "autograd/ops/swiglu.h"

#include <stdexcept>

#include "kernels/swiglu/swiglu.h"

namespace omni {

Tensor swiglu(Tape& tape, const Tensor& gate_up) {
  if (gate_up.width() % 2 != 0)
    throw std::invalid_argument("swiglu: gate_up must have an even width, found " + gate_up.shape.text());
  Tensor y = tape.empty(gate_up.dtype, gate_up.shape.with_width(gate_up.width() / 2));
  tape.run(SwiGlu{.y = y, .gate_up = gate_up});
  tape.on_backward(
      [=](Gradients& d) { d.run(SwiGluBackward{.dgate_up = d[gate_up], .dy = d[y], .gate_up = gate_up}); });
  return y;
}

}  // namespace omni
