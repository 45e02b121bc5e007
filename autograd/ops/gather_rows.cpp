#include "autograd/ops/gather_rows.h"

#include "kernels/gather_rows/gather_rows.h"

namespace omni {

Tensor gather_rows(Tape& tape, const Tensor& x, const Tensor& source, const Tensor& inverse) {
  Tensor y = tape.empty(x.dtype, {source.count(), x.width()});
  tape.run(GatherRows{.y = y, .x = x, .source = source});
  tape.on_backward([=](Gradients& d) {
    if (const View dx = d[x]) d.run(GatherRows{.y = dx, .x = d[y], .source = inverse});
  });
  return y;
}

}  // namespace omni
