#pragma once
#include "kernels/instruction.h"

namespace omni {

// y = value   any shape; f32, bf16, f64
struct Fill {
  static constexpr const char* name = "fill";
  View y;
  double value = 0;

  void check(Check& that) const { that.same("y", y); }
  Work work() const { return {.bytes = y.bytes()}; }
};

// y = x, element by element in memory order; shapes may differ, counts not.
//   y, x   both of f32, bf16, f64 in any combination (converted), or both of one other dtype
struct Copy {
  static constexpr const char* name = "copy";
  View y;
  ConstView x;

  void check(Check& that) const;
  Work work() const { return {.bytes = y.bytes() + x.bytes()}; }
};

// y = a + b   one shape, one dtype; y may be a or b
struct Add {
  static constexpr const char* name = "add";
  View y;
  ConstView a, b;

  void check(Check& that) const { that.same("y, a, b", y, a, b); }
  Work work() const { return {.bytes = 3 * y.bytes(), .flops = y.count()}; }
};

// y = factor * x   one shape, one dtype; y may be x
struct Scale {
  static constexpr const char* name = "scale";
  View y;
  ConstView x;
  double factor = 1;

  void check(Check& that) const { that.same("y, x", y, x); }
  Work work() const { return {.bytes = 2 * y.bytes(), .flops = y.count()}; }
};

// x *= factor, a number that another instruction has computed. Returns at once if it is 1.
//   factor   one element, f32 or the dtype of x
struct ScaleByScalar {
  static constexpr const char* name = "scale_by_scalar";
  View x;
  ConstView factor;

  void check(Check& that) const;
  Work work() const { return {.bytes = 2 * x.bytes(), .flops = x.count()}; }
};

// y = x + bias   y, x [rows, width]; bias [width] in f32 (f64 beside f64); y may be x
struct AddBias {
  static constexpr const char* name = "add_bias";
  View y;
  ConstView x, bias;

  void check(Check& that) const;
  Work work() const { return {.bytes = 2 * y.bytes() + bias.bytes(), .flops = y.count()}; }
};

// The gradient of a bias: dbias = sum of dy over its rows.   dbias [width] as bias, dy [rows, width]
struct BiasBackward {
  static constexpr const char* name = "bias_backward";
  View dbias = {};  // may be absent: nothing to do
  ConstView dy;
  bool accumulate = false;

  void check(Check& that) const;
  Work work() const { return {.bytes = dy.bytes() + dbias.bytes(), .flops = dy.count()}; }
};

void run(const CpuContext&, const Fill&);
void run(const CpuContext&, const Copy&);
void run(const CpuContext&, const Add&);
void run(const CpuContext&, const Scale&);
void run(const CpuContext&, const ScaleByScalar&);
void run(const CpuContext&, const AddBias&);
void run(const CpuContext&, const BiasBackward&);
void run(const CudaContext&, const Fill&);
void run(const CudaContext&, const Copy&);
void run(const CudaContext&, const Add&);
void run(const CudaContext&, const Scale&);
void run(const CudaContext&, const ScaleByScalar&);
void run(const CudaContext&, const AddBias&);
void run(const CudaContext&, const BiasBackward&);

}  // namespace omni
