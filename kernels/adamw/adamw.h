#pragma once
#include "kernels/instruction.h"

namespace omni {

// One step of AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv 1711.05101), in one pass
// over memory. With g = gradient * gradient_scale and t = step:
//   parameter *= 1 - learning_rate * weight_decay
//   moment1    = beta1 * moment1 + (1 - beta1) * g
//   moment2    = beta2 * moment2 + (1 - beta2) * g^2
//   parameter -= learning_rate * (moment1 / (1 - beta1^t)) / (sqrt(moment2 / (1 - beta2^t)) + eps)
//   copy       = parameter, rounded
// Does nothing if gradient_scale is not finite.
// parameter, moment1, moment2, gradient [n] in f32;  copy [n] bf16
struct AdamW {
  static constexpr const char* name = "adamw";
  View parameter, moment1, moment2;
  View copy = {};  // what ops read in a bf16 model; may be absent
  ConstView gradient;
  ConstView gradient_scale = {};  // [1] f32, the clip factor of GradientNorm; may be absent: 1
  double learning_rate = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  std::int64_t step = 1;  // this one, counted from 1

  void check(Check& that) const;
  Work work() const { return {.bytes = 7 * parameter.bytes() + copy.bytes(), .flops = 14 * parameter.count()}; }
};

void run(const CpuContext&, const AdamW&);
void run(const CudaContext&, const AdamW&);

}  // namespace omni
