#pragma once
// Selecting rows.

#include "autograd/tape.h"

namespace omni {

// y[i] = x[source[i]], zeros where source[i] is negative; no row may be taken twice.
//   x [rows, width], source i64 [count], inverse i64 [rows] (where each row went, or -1)  ->  [count, width]
//   dx = dy[inverse]
Tensor gather_rows(Tape& tape, const Tensor& x, const Tensor& source, const Tensor& inverse);

}  // namespace omni
