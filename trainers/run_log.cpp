#include "trainers/run_log.h"

#include <chrono>

namespace omni {

void RunLog::write(const StepMetrics& step) {
  metrics_.write(step);
  std::vector<std::pair<std::string, double>> scalars = step.values;
  scalars.insert(scalars.end(), {{"learning_rate", step.learning_rate},
                                 {"grad_norm", step.grad_norm},
                                 {"tokens_per_s", step.tokens_per_s()},
                                 {"fraction_of_peak", step.fraction_of_peak()}});
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  board_.write(step.step, now.count(), scalars);
}

void RunLog::flush() {
  metrics_.flush();
  board_.flush();
}

}  // namespace omni
