#include "autograd/ops/select_rows.h"

#include "kernels/select_rows/select_rows.h"

namespace omni {

// dx takes the memory of dy.
Tensor select_rows(Tape& tape, const Tensor& x, const Tensor& from, const Tensor& source) {
  Tensor y = tape.like(x);
  tape.run(SelectRows{.y = y, .x = x, .from = from, .source = source});
  tape.on_backward([=](Gradients& d) {
    const View dy = d.take(y), dx = x.needs_gradient() ? dy : View();
    d.run(SelectRowsBackward{.dx = dx, .dfrom = d[from], .dy = dy, .source = source});
    d.give(x, dy);
  });
  return y;
}

}  // namespace omni
