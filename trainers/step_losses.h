#pragma once
// The numbers that the passes of a training step report. They stay on the device until the step's work is done.

#include <string>
#include <utility>
#include <vector>

#include "engine/ranks.h"
#include "trainers/training_task.h"

namespace omni {

class StepLosses {
 public:
  // Room for `passes` passes of a step. Task and device must outlive the object.
  StepLosses(const TrainingTask& task, std::int64_t passes, Device& device);

  void begin_step();
  // `weight`: of the pass in the step; `position`: of its batch.
  void add(const TrainingTask::Pass& pass, double weight, std::int64_t position);
  void add_targets(const Batch& batch);

  struct Result {
    std::vector<std::pair<std::string, double>> values;  // of all processes: weighted sums, then parts of hits
    std::int64_t not_finite = -1;                        // the position of the first batch whose loss is not finite
  };
  // Waits for the device. Kinds of targets that the step does not have are left out.
  Result finish(Ranks& ranks);

 private:
  struct Entry {
    double weight;
    std::int64_t position;
  };
  const TrainingTask& task_;
  Device& device_;
  std::int64_t width_;  // losses and hits of a pass
  OwnedTensor values_;  // f32 [passes, width]
  std::vector<float> on_host_;
  std::vector<Entry> entries_;
  std::vector<double> targets_;
};

}  // namespace omni
