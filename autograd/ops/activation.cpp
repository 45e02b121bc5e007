#include "autograd/ops/activation.h"

namespace omni {

Tensor gelu(Tape& tape, const Tensor& x, Gelu::Kind kind) {
  Tensor y = tape.like(x);
  tape.run(Gelu{.y = y, .x = x, .kind = kind});
  tape.on_backward([=](Gradients& d) { d.run(GeluBackward{.dx = d[x], .dy = d[y], .x = x, .kind = kind}); });
  return y;
}

Tensor silu(Tape& tape, const Tensor& x) {
  Tensor y = tape.like(x);
  tape.run(Silu{.y = y, .x = x});
  tape.on_backward([=](Gradients& d) { d.run(SiluBackward{.dx = d[x], .dy = d[y], .x = x}); });
  return y;
}

}  // namespace omni
