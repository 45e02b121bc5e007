#include "trainers/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace omni {

Schedule Schedule::make(std::int64_t micro_batches_per_epoch, std::int64_t accumulation_steps, std::int64_t steps,
                        std::int64_t epochs) {
  Schedule out;
  out.micro_batches_per_epoch = micro_batches_per_epoch;
  out.accumulation_steps = accumulation_steps;
  out.steps = steps > 0 ? steps : epochs * out.steps_per_epoch();
  out.micro_batches = out.micro_batches_of(out.steps).end;
  return out;
}

std::int64_t Schedule::steps_per_epoch() const { return (micro_batches_per_epoch - 1) / accumulation_steps + 1; }

Schedule::Range Schedule::micro_batches_of(std::int64_t step) const {
  const std::int64_t epoch = (step - 1) / steps_per_epoch(), within = (step - 1) % steps_per_epoch();
  const std::int64_t first = epoch * micro_batches_per_epoch + within * accumulation_steps;
  return {first, std::min(first + accumulation_steps, (epoch + 1) * micro_batches_per_epoch)};
}

double Schedule::learning_rate(double initial, std::int64_t step) const {
  const double done = static_cast<double>(micro_batches_of(step).end) / static_cast<double>(micro_batches);
  return initial * (0.1 + 0.45 * (1 + std::cos(std::numbers::pi * done)));
}

}  // namespace omni
