#pragma once
#include "autograd/tape.h"

namespace omni {

// The weighted mean cross-entropy of softmax(logits) over the rows whose target is not -100 (kernels/cross_entropy), of
// each of `groups` equal parts of the rows:
//   logits [rows, classes], targets [rows] i64, weights [rows] f32 or absent -> loss [groups] in f32 (f64 for f64
//   logits)
// hits [rows], if there is memory for it, becomes 1 where no logit is larger than the target's, else 0.
// On a recording tape the forward pass overwrites the logits by their gradient, so nothing else may read them, before
// or after: neither an op whose backward needs their values nor the caller.
Tensor cross_entropy(Tape& tape, const Tensor& logits, const ConstView& targets, const ConstView& weights = {},
                     std::int64_t groups = 1, const View& hits = {});

}  // namespace omni
