#pragma once
#include "kernels/instruction.h"

namespace omni {

// y = a_scale * a + b_scale * b, a mixture whose proportions are learned
//   y, a, b one shape and dtype: f32, bf16 (computed in f32) or f64;  a_scale, b_scale one number of f32 (f64 beside
//   f64) y may be a or b
struct ScaledSum {
  static constexpr const char* name = "scaled_sum";
  View y;
  ConstView a, a_scale, b, b_scale;

  void check(Check& that) const;
  Work work() const { return {.bytes = 3 * y.bytes(), .flops = 3 * y.count()}; }
};

// da       = a_scale * dy                  db       = b_scale * dy
// da_scale = sum over all of dy * a        db_scale = sum over all of dy * b,   each plus the old one if accumulate
// The sums do not depend on the number of threads.
struct ScaledSumBackward {
  static constexpr const char* name = "scaled_sum_backward";
  View da = {}, db = {}, da_scale = {}, db_scale = {};  // each may be absent; da or db may be dy
  ConstView dy, a, a_scale, b, b_scale;
  bool accumulate_a_scale = false, accumulate_b_scale = false;

  void check(Check& that) const;
  Work work() const;
};

void run(const CpuContext&, const ScaledSum&);
void run(const CpuContext&, const ScaledSumBackward&);
void run(const CudaContext&, const ScaledSum&);
void run(const CudaContext&, const ScaledSumBackward&);

}  // namespace omni
