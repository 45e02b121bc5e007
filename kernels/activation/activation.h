#pragma once
#include "kernels/instruction.h"

namespace omni {

// All views of these instructions have one shape and dtype: f32, bf16 (computed in f32) or f64. y may be x, dx may be
// dy.

// y = x * P(N(0, 1) <= x) (Hendrycks and Gimpel, "Gaussian error linear units", arXiv 1606.08415):
//   erf   x / 2 * (1 + erf(x / sqrt(2)))
//   tanh  x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), their approximation
struct Gelu {
  static constexpr const char* name = "gelu";
  enum class Kind { erf, tanh };
  View y;
  ConstView x;
  Kind kind = Kind::erf;

  void check(Check& that) const { that.same("y, x", y, x); }
  Work work() const { return {.bytes = 2 * y.bytes(), .flops = 8 * y.count()}; }
};

// dx = dy * gelu'(x)
struct GeluBackward {
  static constexpr const char* name = "gelu_backward";
  View dx = {};  // may be absent: nothing to do
  ConstView dy, x;
  Gelu::Kind kind = Gelu::Kind::erf;

  void check(Check& that) const;
  Work work() const { return {.bytes = dx.bytes() + dy.bytes() + x.bytes(), .flops = 14 * dy.count()}; }
};

// y = x * sigmoid(x)
struct Silu {
  static constexpr const char* name = "silu";
  View y;
  ConstView x;

  void check(Check& that) const { that.same("y, x", y, x); }
  Work work() const { return {.bytes = 2 * y.bytes(), .flops = 4 * y.count()}; }
};

// dx = dy * s * (1 + x * (1 - s)) with s = sigmoid(x)
struct SiluBackward {
  static constexpr const char* name = "silu_backward";
  View dx = {};  // may be absent: nothing to do
  ConstView dy, x;

  void check(Check& that) const;
  Work work() const { return {.bytes = dx.bytes() + dy.bytes() + x.bytes(), .flops = 8 * dy.count()}; }
};

void run(const CpuContext&, const Gelu&);
void run(const CpuContext&, const GeluBackward&);
void run(const CpuContext&, const Silu&);
void run(const CpuContext&, const SiluBackward&);
void run(const CudaContext&, const Gelu&);
void run(const CudaContext&, const GeluBackward&);
void run(const CudaContext&, const Silu&);
void run(const CudaContext&, const SiluBackward&);

}  // namespace omni
