#pragma once
#include "kernels/instruction.h"

namespace omni {

// A label that does not count.
inline constexpr std::int64_t kIgnoreIndex = -100;

// The mean cross-entropy of softmax(logits), and its gradient in place of the logits, which nothing else needs:
//   loss      = sum over i of weights[i] * (log sum over c of exp(logits[i, c]) - logits[i, targets[i]]) / n
//   logits[i] = weights[i] * (softmax(logits[i]) - onehot(targets[i])) / n     if gradient; else they stay
// n is the number of rows whose target is not ignore_index; other rows add nothing and get a zero gradient. The weights
// do not enter n. With n = 0 the loss is 0. Where there are several losses, the rows are split into as many equal parts
// one after the other, each with a loss and an n of its own. hits[i] tells whether no logit of the row is larger than
// that of its target: 1 or 0, and 0 where the target is ignored.
//   loss [groups] f32;  logits [rows, classes] f32 or bf16 (computed in f32);  targets [rows] i64;  weights [rows] f32
//   hits [rows] f32;  with f64 logits, loss, weights and hits are f64
// A target outside 0 .. classes - 1 that is not ignore_index is an std::invalid_argument that names it; from a GPU it
// comes when the device next waits.
struct CrossEntropy {
  static constexpr const char* name = "cross_entropy";
  View loss, logits;
  ConstView targets;
  ConstView weights = {};  // may be absent: all 1
  View hits = {};          // may be absent
  std::int64_t ignore_index = kIgnoreIndex;
  bool gradient = true;

  void check(Check& that) const;
  Work work() const {
    return {.bytes = logits.bytes() * (gradient ? 2 : 1) + targets.bytes() + weights.bytes() + hits.bytes(),
            .flops = logits.count() * (gradient ? 5 : 3)};
  }
};

void run(const CpuContext&, const CrossEntropy&);
void run(const CudaContext&, const CrossEntropy&);

}  // namespace omni
