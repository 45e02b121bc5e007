#pragma once
// What a step of the omni model costs (trainers/plan.h).

#include "models/omni_config.h"
#include "trainers/plan.h"

namespace omni {

// Which of the two halves learns; the other only passes gradients on.
struct OmniTrained {
  bool thinker = true, talker = true;
};

ParameterCounts count_parameters(const OmniConfig& config);
double training_flops(const OmniConfig& config, const OmniTrained& trained, const Batch& batch);
// Of a pass over `rows` rows; `labelled`: its predictions of all kinds.
std::int64_t activation_bytes(const OmniConfig& config, DType dtype, std::int64_t rows, std::int64_t length,
                              std::int64_t labelled, bool recompute);

}  // namespace omni
