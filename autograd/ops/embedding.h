#pragma once
#include "autograd/tape.h"

namespace omni {

// y[i] = table[ids[i]]   ids i64 of any shape, table [vocab, width] -> y [count of ids, width], in the dtype of
// table.value. ids must stay until the backward pass.
Tensor embedding(Tape& tape, const ConstView& ids, Parameter& table);

}  // namespace omni
