#pragma once
#include "kernels/instruction.h"

namespace omni {

// The global L2 norm of all gradients, and the factor that clips it:
//   norm  = sqrt(sum of gradient^2), summed in double; not dependent on the number of threads
//   scale = min(1, max_norm / (norm + 1e-6)), or 1 if max_norm <= 0; NaN if norm is not finite
//   norm, scale [1], gradient [n], all f32
// A gradient with a NaN or an infinity in it, or too large for f32, thus leaves AdamW nothing to do.
struct GradientNorm {
  static constexpr const char* name = "gradient_norm";
  View norm, scale;
  ConstView gradient;
  double max_norm = 1;

  void check(Check& that) const;
  Work work() const { return {.bytes = gradient.bytes(), .flops = 2 * gradient.count()}; }
};

void run(const CpuContext&, const GradientNorm&);
void run(const CudaContext&, const GradientNorm&);

}  // namespace omni
