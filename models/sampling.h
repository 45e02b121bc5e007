#pragma once
// From logits to the next token.

#include <cstdint>
#include <span>
#include <vector>

#include "engine/philox.h"
#include "kernels/buffer.h"

namespace omni {

// The numbers of SampleToken (kernels/sampling/sampling.h), which tells what each does. Defaults are those of the
// original's text generator.
struct SamplingSettings {
  double temperature = 0.85;
  double repetition_penalty = 1;
  std::int64_t top_k = 50;
  double top_p = 0.85;
  bool greedy = false;
};

class Sampler {
 public:
  explicit Sampler(const SamplingSettings& settings) : settings_(settings) {}

  // Draws the id that follows `sequence`. logits [vocab_size] are changed. With equal logits the lower id comes first.
  // Throws std::runtime_error if a logit is NaN.
  std::int32_t next(std::span<float> logits, std::span<const std::int32_t> sequence, Philox& random);

 private:
  SamplingSettings settings_;
  Workspace workspace_;
  std::vector<std::uint8_t> seen_;
};

}  // namespace omni
