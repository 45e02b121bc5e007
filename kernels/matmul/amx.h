#pragma once
// Products of f32 on the matrix units of Intel processors (AMX), which multiply bf16.

#include "kernels/matmul/matmul.h"

namespace omni {

// Makes the product and returns true where it is one of f32, large enough to gain by this, and the processor has AMX.
//
// A number of f32 is the sum of three of bf16, exactly: x = high + middle + low, each the nearest bf16 to what is left.
// Of the nine products of such parts, the six largest are added up in f32; what the other three would add is below
// 2^-24 of the product, less than f32 itself rounds away (Henry, Tang, Heinecke: "Leveraging the bfloat16 artificial
// intelligence datatype for higher-precision computations", 2019). Six products of these units take less time than one
// of the vector units, unless power limits slow them (docs/performance.md). At the ends of its range f32 loses
// something: numbers below 1e-33 some of their bits, and what is infinite, or above 3.39e38, gives NaN where it would
// have given infinity.
bool amx_matmul(const CpuContext& cpu, const Matmul& op);

}  // namespace omni
