#pragma once
#include "kernels/instruction.h"

namespace omni {

// y = silu(gate) * up, the gate of the feed-forward block (Shazeer, "GLU variants improve transformer", arXiv
// 2002.05202). One matrix product makes gate and up, so they come packed: each row holds gate first, then up.
//   y [rows, width], gate_up [rows, 2 * width], one dtype: f32, bf16 (computed in f32) or f64
struct SwiGlu {
  static constexpr const char* name = "swiglu";
  View y;
  ConstView gate_up;

  void check(Check& that) const;
  Work work() const { return {.bytes = y.bytes() + gate_up.bytes(), .flops = 5 * y.count()}; }
};

// With s = sigmoid(gate):
//   dgate = dy * up * s * (1 + gate * (1 - s))
//   dup   = dy * gate * s
struct SwiGluBackward {
  static constexpr const char* name = "swiglu_backward";
  View dgate_up = {};  // packed as gate_up; may be absent, may be gate_up itself
  ConstView dy, gate_up;

  void check(Check& that) const;
  Work work() const { return {.bytes = dy.bytes() + gate_up.bytes() + dgate_up.bytes(), .flops = 11 * dy.count()}; }
};

void run(const CpuContext&, const SwiGlu&);
void run(const CpuContext&, const SwiGluBackward&);
void run(const CudaContext&, const SwiGlu&);
void run(const CudaContext&, const SwiGluBackward&);

}  // namespace omni
