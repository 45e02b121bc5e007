#pragma once
#include "autograd/tape.h"

namespace omni {

// y[r] = from[source[r]] where source[r] >= 0, else x[r].   x [rows, width], from [count, width], source i64 [rows]
//   dx = dy in the rows that are x's, else 0;  dfrom[k] = sum of dy[r] over all r with source[r] = k
Tensor select_rows(Tape& tape, const Tensor& x, const Tensor& from, const Tensor& source);

}  // namespace omni
