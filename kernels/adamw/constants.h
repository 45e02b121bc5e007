#pragma once
// The constants of one step of AdamW, computed in double, as its kernels use them.

#include <cmath>

#include "kernels/adamw/adamw.h"

namespace omni {

struct AdamWConstants {
  explicit AdamWConstants(const AdamW& op)
      : keep(static_cast<float>(1 - op.learning_rate * op.weight_decay)),
        beta1(static_cast<float>(op.beta1)),
        one_minus_beta1(static_cast<float>(1 - op.beta1)),
        beta2(static_cast<float>(op.beta2)),
        one_minus_beta2(static_cast<float>(1 - op.beta2)),
        step_size(static_cast<float>(op.learning_rate / (1 - std::pow(op.beta1, static_cast<double>(op.step))))),
        inverse_correction2(static_cast<float>(1 / (1 - std::pow(op.beta2, static_cast<double>(op.step))))),
        eps(static_cast<float>(op.eps)) {}

  float keep, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_correction2, eps;
};

}  // namespace omni
