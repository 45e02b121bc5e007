#pragma once
// Matrices that hold the same rows once per group, [groups * rows, width]: row r of group g is row g * rows + r.

#include "kernels/instruction.h"

namespace omni {

// y[r] = factor * sum over g of x[g * rows + r], in the order of g (bf16 summed in f32)
//   y [rows, width], x [groups * rows, width], one dtype: f32, bf16 or f64
// The gradient of AddGroups, as that is of this.
struct SumGroups {
  static constexpr const char* name = "sum_groups";
  View y;
  ConstView x;
  std::int64_t groups = 1;
  double factor = 1;

  void check(Check& that) const;
  Work work() const { return {.bytes = y.bytes() + x.bytes(), .flops = x.count()}; }
};

// y[g * rows + r] = factor * x[r], plus the old y[g * rows + r] if accumulate
//   y [groups * rows, width], x [rows, width], one dtype: f32, bf16 or f64
struct AddGroups {
  static constexpr const char* name = "add_groups";
  View y;
  ConstView x;
  std::int64_t groups = 1;
  double factor = 1;
  bool accumulate = false;

  void check(Check& that) const;
  Work work() const { return {.bytes = y.bytes() * (accumulate ? 2 : 1) + x.bytes(), .flops = y.count()}; }
};

// x[g * rows + r] *= factor[g], numbers that another instruction has computed. Nothing to do where they are 1.
//   x [groups * rows, width] in f32, bf16 or f64;  factor [groups] in f32 (f64 beside f64)
struct ScaleGroups {
  static constexpr const char* name = "scale_groups";
  View x;
  ConstView factor;

  void check(Check& that) const;
  Work work() const { return {.bytes = 2 * x.bytes() + factor.bytes(), .flops = x.count()}; }
};

void run(const CpuContext&, const SumGroups&);
void run(const CpuContext&, const AddGroups&);
void run(const CpuContext&, const ScaleGroups&);
void run(const CudaContext&, const SumGroups&);
void run(const CudaContext&, const AddGroups&);
void run(const CudaContext&, const ScaleGroups&);

}  // namespace omni
