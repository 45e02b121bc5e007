#pragma once
// Rows of a matrix replaced by rows of another one: features of sounds and pictures in the place of their tokens.

#include "kernels/instruction.h"

namespace omni {

// y[r] = from[source[r]] where source[r] >= 0, else x[r]
//   y, x [rows, width], from [count, width], one dtype: f32, bf16 or f64;  source i64 [rows], below count;  y may be x
struct SelectRows {
  static constexpr const char* name = "select_rows";
  View y;
  ConstView x, from, source;

  void check(Check& that) const;
  Work work() const { return {.bytes = 2 * y.bytes() + source.bytes()}; }
};

// dx[r]    = dy[r] where source[r] < 0, else 0
// dfrom[k] = sum of dy[r] over all r with source[r] = k, in the order of r (bf16 summed in f32); 0 where there are none
struct SelectRowsBackward {
  static constexpr const char* name = "select_rows_backward";
  View dx = {}, dfrom = {};  // each may be absent; dx may be dy
  ConstView dy, source;

  void check(Check& that) const;
  Work work() const;
};

void run(const CpuContext&, const SelectRows&);
void run(const CpuContext&, const SelectRowsBackward&);
void run(const CudaContext&, const SelectRows&);
void run(const CudaContext&, const SelectRowsBackward&);

}  // namespace omni
