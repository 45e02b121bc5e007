#pragma once
// Sums the gradients of several processes while the backward pass is still at work on the layers below.

#include <cstdint>
#include <vector>

#include "autograd/module.h"
#include "engine/ranks.h"

namespace omni {

// The store's gradient block is cut into buckets at the milestones of the model. A bucket is sent as soon as the tape
// passes its milestone; every process sends the same buckets in the same order, from the end of the block to its
// beginning, also one that has no gradients of its own.
class GradientSum {
 public:
  GradientSum(Ranks& ranks, ParameterStore& store, const std::vector<const Parameter*>& milestones);

  // Gradients of parameters declared at or after this one are final.
  void reached(const Parameter& milestone);
  // All gradients are final. Returns when instructions that follow see the sums over all processes.
  void finish();

 private:
  void send_down_to(std::int64_t offset);

  Ranks& ranks_;
  ParameterStore& store_;
  std::vector<std::int64_t> offsets_;  // where buckets begin, descending, the last one 0
  std::size_t next_ = 0;
};

}  // namespace omni
