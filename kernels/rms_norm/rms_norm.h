#pragma once
#include "kernels/instruction.h"

namespace omni {

// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps), over the last dimension (Zhang and Sennrich, "Root mean
// square layer normalization", arXiv 1910.07467).
//   y, x [rows, width] in f32, bf16 (computed in f32) or f64;  weight [width], rstd [rows] in f32 (f64 beside f64)
struct RmsNorm {
  static constexpr const char* name = "rms_norm";
  View y;
  View rstd = {};  // for the backward pass; may be absent
  ConstView x, weight;
  float eps = 1e-6f;

  void check(Check& that) const;
  Work work() const { return {.bytes = 2 * y.bytes() + rstd.bytes() + weight.bytes(), .flops = 4 * y.count()}; }
};

// The residual connection before a norm:  sum = x + residual, y = rms_norm(sum). y is computed from sum as it is
// stored, after rounding, so that the backward pass sees the same numbers. sum may be x or residual.
//   sum, y, x, residual [rows, width];  weight, rstd as in RmsNorm
struct AddRmsNorm {
  static constexpr const char* name = "add_rms_norm";
  View sum, y;
  View rstd = {};  // may be absent
  ConstView x, residual, weight;
  float eps = 1e-6f;

  void check(Check& that) const;
  Work work() const { return {.bytes = 4 * y.bytes() + rstd.bytes() + weight.bytes(), .flops = 5 * y.count()}; }
};

// With h = x * rstd and g = dy * weight:
//   dx      = rstd * (g - h * mean(g * h))
//   dweight = sum over rows of dy * h
struct RmsNormBackward {
  static constexpr const char* name = "rms_norm_backward";
  View dx = {};       // [rows, width]; may be absent
  View dweight = {};  // [width]; may be absent
  ConstView dy, x, rstd, weight;
  bool accumulate_dx = false;  // dx += instead of =: the gradient that reaches x past the norm is there already
  bool accumulate = false;     // dweight += instead of =

  void check(Check& that) const;
  Work work() const {
    return {.bytes = dy.bytes() + x.bytes() + dx.bytes() * (accumulate_dx ? 2 : 1) + rstd.bytes() + weight.bytes() +
                     dweight.bytes(),
            .flops = 9 * dy.count()};
  }
};

void run(const CpuContext&, const RmsNorm&);
void run(const CpuContext&, const AddRmsNorm&);
void run(const CpuContext&, const RmsNormBackward&);
void run(const CudaContext&, const RmsNorm&);
void run(const CudaContext&, const AddRmsNorm&);
void run(const CudaContext&, const RmsNormBackward&);

}  // namespace omni
