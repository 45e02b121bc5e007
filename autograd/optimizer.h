#pragma once
// AdamW over a ParameterStore (Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv 1711.05101).

#include <cstdint>

#include "autograd/module.h"

namespace omni {

// All trainable parameters form one group: norm weights, biases and embeddings decay like matrices, and a parameter
// that no op of the step touched has a zero gradient, so it decays too. Frozen parameters are skipped entirely.
class AdamWOptimizer {
 public:
  explicit AdamWOptimizer(ParameterStore& store);

  // One update from the gradients that the store holds, after clipping their global L2 norm to max_norm (0: no
  // clipping). Returns the norm before clipping. If it is not finite nothing is updated.
  float step(double learning_rate, double max_norm);

  // The state, for checkpoints.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  View moment1() const { return moment1_.view(); }  // f32, the layout of store.master()
  View moment2() const { return moment2_.view(); }

 private:
  ParameterStore& store_;
  OwnedTensor moment1_, moment2_, norm_, scale_;
  std::int64_t steps_ = 0;
};

}  // namespace omni
