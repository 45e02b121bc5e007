#pragma once
// What a run will cost, before it starts: arithmetic, memory, time.

#include <cstdint>
#include <iosfwd>

#include "engine/profiler.h"
#include "models/config.h"
#include "trainers/schedule.h"
#include "trainers/training_task.h"

namespace omni {

ParameterCounts count_parameters(const ThinkerConfig& config);

// Floating-point operations of forward and backward: 6 per number and token for the matrices, and for attention 12 *
// heads * head_dim per layer and pair of positions. Only useful work counts: no padding, no masked half, no
// recomputation.
double training_flops(const ThinkerConfig& config, const Batch& batch);

// Bytes that the activations of a micro-batch and their gradients take, estimated from the sizes of the model's
// tensors.
std::int64_t activation_bytes(const ThinkerConfig& config, DType dtype, std::int64_t rows, std::int64_t length,
                              std::int64_t labelled, bool recompute);

struct Plan {
  ParameterCounts parameters;
  std::int64_t weight_bytes = 0, gradient_bytes = 0, moment_bytes = 0, activation_bytes = 0, available_bytes = 0;
  std::int64_t lent_bytes = 0;  // of the activations, those in memory of gradients
  std::int64_t processes = 1;
  std::int64_t rows = 0, length = 0;       // of a micro-batch, per process
  double tokens = 0, labelled = 0;         // of the whole run, from a few batches spread over it
  double truncated = 0;                    // fraction of the samples that do not fit
  double flops = 0, peak_flops_per_s = 0;  // of the whole run; of the machine
  Schedule schedule;

  std::int64_t total_bytes() const {
    return weight_bytes + gradient_bytes + moment_bytes + activation_bytes - lent_bytes;
  }
};
Plan make_plan(const TrainingTask& task, const Recipe& recipe, const Schedule& schedule, const MachineLimits& limits);
void print_plan(std::ostream& out, const Plan& plan, const Recipe& recipe);

// The machine's rate for the matrix products of a dtype.
inline double peak_of(const MachineLimits& limits, DType dtype) {
  return dtype == DType::bf16 ? limits.bf16_flops_per_s : limits.f32_flops_per_s;
}

// MemAvailable of /proc/meminfo, 0 if unknown.
std::int64_t available_memory();

}  // namespace omni
