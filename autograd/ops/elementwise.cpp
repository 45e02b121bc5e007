#include "autograd/ops/elementwise.h"

#include "kernels/elementwise/elementwise.h"

namespace omni {

// da = db = dy: one block of memory serves both.
Tensor add(Tape& tape, const Tensor& a, const Tensor& b) {
  Tensor y = tape.like(a);
  tape.run(Add{.y = y, .a = a, .b = b});
  tape.on_backward([=](Gradients& d) {
    const View dy = d.take(y);
    d.give(a, dy);
    d.give(b, dy);
  });
  return y;
}

// dx = factor * dy
Tensor scale(Tape& tape, const Tensor& x, double factor) {
  Tensor y = tape.like(x);
  tape.run(Scale{.y = y, .x = x, .factor = factor});
  tape.on_backward([=](Gradients& d) {
    if (const View dx = d[x]) d.run(Scale{.y = dx, .x = d[y], .factor = factor});
  });
  return y;
}

// dx = dy in the dtype of x
Tensor cast(Tape& tape, const Tensor& x, DType dtype) {
  if (x.dtype == dtype) return x;
  Tensor y = tape.empty(dtype, x.shape);
  tape.run(Copy{.y = y, .x = x});
  tape.on_backward([=](Gradients& d) {
    if (const View dx = d[x]) d.run(Copy{.y = dx, .x = d[y]});
  });
  return y;
}

// dx = dy, dbias = column sums of dy
Tensor add_bias(Tape& tape, const Tensor& x, Parameter& bias) {
  Tensor y = tape.like(x);
  tape.run(AddBias{.y = y, .x = x, .bias = bias});
  tape.on_backward([=, &bias](Gradients& d) {
    const auto [dbias, accumulate] = d[bias];
    if (dbias) d.run(BiasBackward{.dbias = dbias, .dy = d[y], .accumulate = accumulate});
    d.give(x, d.take(y));
  });
  return y;
}

}  // namespace omni
