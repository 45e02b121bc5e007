#include "autograd/ops/cross_entropy.h"

#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/groups/groups.h"

namespace omni {

// dlogits = dloss * (the gradient that the forward pass has left in the logits), in each group with its own loss
Tensor cross_entropy(Tape& tape, const Tensor& logits, const ConstView& targets, const ConstView& weights,
                     std::int64_t groups, const View& hits) {
  Tensor loss = tape.empty(wide_of(logits.dtype), Shape{groups});
  const bool gradient = tape.recording() && logits.needs_gradient();
  tape.run(CrossEntropy{
      .loss = loss, .logits = logits, .targets = targets, .weights = weights, .hits = hits, .gradient = gradient});
  tape.on_backward([=](Gradients& d) {
    if (!logits.needs_gradient()) return;
    if (groups == 1)
      d.run(ScaleByScalar{.x = logits, .factor = d[loss]});
    else
      d.run(ScaleGroups{.x = logits, .factor = d[loss]});
    d.give(logits, logits);
  });
  return loss;
}

}  // namespace omni
