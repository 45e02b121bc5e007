#pragma once
#include "autograd/tape.h"

namespace omni {

// y = silu(gate) * up   gate_up [rows, 2 * width], gate first in each row -> y [rows, width]
Tensor swiglu(Tape& tape, const Tensor& gate_up);

}  // namespace omni
