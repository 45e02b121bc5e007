#pragma once
// Which micro-batches form a step, and the learning rate.
//
// A step is one update of the weights. It takes the mean gradient of accumulation_steps micro-batches, except that the
// last step of an epoch takes what is left, divided by the real number (the original divides by the full one). Steps
// count from 1, micro-batches from 0.

#include <cstdint>

namespace omni {

struct Schedule {
  std::int64_t micro_batches_per_epoch = 1, accumulation_steps = 1;
  std::int64_t steps = 0, micro_batches = 0;  // of the whole run

  // `steps` updates, or where that is 0 as many as `epochs` passes take.
  static Schedule make(std::int64_t micro_batches_per_epoch, std::int64_t accumulation_steps, std::int64_t steps,
                       std::int64_t epochs);

  // The micro-batches [first, end) of a step.
  struct Range {
    std::int64_t first, end;
  };
  Range micro_batches_of(std::int64_t step) const;
  std::int64_t steps_per_epoch() const;

  // Cosine from about `initial` down to a tenth of it, without warm-up. It advances with every micro-batch; a step uses
  // the value of its last one: initial * (0.1 + 0.45 * (1 + cos(pi * s / S))) with s of S micro-batches done then.
  double learning_rate(double initial, std::int64_t step) const;
};

}  // namespace omni
