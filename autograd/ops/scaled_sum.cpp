#include "autograd/ops/scaled_sum.h"

#include "kernels/scaled_sum/scaled_sum.h"

namespace omni {

Tensor scaled_sum(Tape& tape, const Tensor& a, Parameter& a_scale, const Tensor& b, Parameter& b_scale) {
  Tensor y = tape.like(a);
  tape.run(ScaledSum{.y = y, .a = a, .a_scale = a_scale, .b = b, .b_scale = b_scale});
  tape.on_backward([=, &a_scale, &b_scale](Gradients& d) {
    const ParameterGradient da_scale = d[a_scale], db_scale = d[b_scale];
    d.run(ScaledSumBackward{.da = d[a],
                            .db = d[b],
                            .da_scale = da_scale.view,
                            .db_scale = db_scale.view,
                            .dy = d[y],
                            .a = a,
                            .a_scale = a_scale,
                            .b = b,
                            .b_scale = b_scale,
                            .accumulate_a_scale = da_scale.accumulate,
                            .accumulate_b_scale = db_scale.accumulate});
  });
  return y;
}

}  // namespace omni
