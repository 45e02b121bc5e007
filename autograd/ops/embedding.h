#pragma once
#include "autograd/tape.h"

namespace omni {

// y[r] = factor * sum over j < group of table[ids[r * group + j]]
//   ids i64 of any shape, table [vocab, width] -> y [count of ids / group, width], in the dtype of table.value
// ids must stay until the backward pass.
Tensor embedding(Tape& tape, const ConstView& ids, Parameter& table, std::int64_t group = 1, double factor = 1);

}  // namespace omni
