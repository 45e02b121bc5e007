#pragma once
// Rows of a matrix in another order.

#include "kernels/instruction.h"

namespace omni {

// y[i] = x[source[i]], or zeros where source[i] is negative.
//   y [count, width], x [rows, width], one dtype; source i64 [count]
// Where no row is taken twice, the gradient is the same instruction with the inverse map: dx = dy[inverse].
struct GatherRows {
  static constexpr const char* name = "gather_rows";
  View y;
  ConstView x, source;

  void check(Check& that) const {
    that.same("x", x);
    that.matrix("y", y, x.dtype, source.count(), x.width());
    that.operand("source", source, DType::i64, source.shape);
  }
  Work work() const { return {.bytes = 2 * y.bytes() + source.bytes()}; }
};

void run(const CpuContext&, const GatherRows&);
void run(const CudaContext&, const GatherRows&);

}  // namespace omni
