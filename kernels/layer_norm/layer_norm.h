#pragma once
#include "kernels/instruction.h"

namespace omni {

// y = (x - mean) * rstd * weight + bias with rstd = 1 / sqrt(variance + eps), mean and (biased) variance over the last
// dimension (Ba, Kiros and Hinton, "Layer normalization", arXiv 1607.06450).
//   y, x [rows, width] in f32, bf16 (computed in f32) or f64
//   weight, bias [width], mean, rstd [rows] in f32 (f64 beside f64)
struct LayerNorm {
  static constexpr const char* name = "layer_norm";
  View y;
  View mean = {}, rstd = {};  // for the backward pass; may be absent
  ConstView x, weight, bias;
  float eps = 1e-5f;

  void check(Check& that) const;
  Work work() const {
    return {.bytes = 2 * y.bytes() + mean.bytes() + rstd.bytes() + weight.bytes() + bias.bytes(),
            .flops = 8 * y.count()};
  }
};

// With h = (x - mean) * rstd and g = dy * weight:
//   dx      = rstd * (g - mean(g) - h * mean(g * h))
//   dweight = sum over rows of dy * h
//   dbias   = sum over rows of dy
struct LayerNormBackward {
  static constexpr const char* name = "layer_norm_backward";
  View dx = {};                   // [rows, width]; may be absent
  View dweight = {}, dbias = {};  // [width]; may be absent
  ConstView dy, x, mean, rstd, weight;
  bool accumulate_dweight = false, accumulate_dbias = false;  // += instead of =

  void check(Check& that) const;
  Work work() const {
    return {.bytes = dy.bytes() + x.bytes() + dx.bytes() + mean.bytes() + rstd.bytes() + weight.bytes() +
                     dweight.bytes() + dbias.bytes(),
            .flops = 14 * dy.count()};
  }
};

void run(const CpuContext&, const LayerNorm&);
void run(const CpuContext&, const LayerNormBackward&);
void run(const CudaContext&, const LayerNorm&);
void run(const CudaContext&, const LayerNormBackward&);

}  // namespace omni
