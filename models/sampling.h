#pragma once
// From logits to the next token.

#include <cstdint>
#include <span>
#include <vector>

#include "engine/device.h"
#include "engine/philox.h"

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

// Draws tokens on the device where the logits are; one number per token comes to the host.
class Sampler {
 public:
  // The device must outlive the sampler.
  Sampler(Device& device, const SamplingSettings& settings);

  // Draws the id that follows `sequence`. logits f32 [1, vocab_size] in the device's memory are changed. Throws
  // std::invalid_argument for settings without meaning, and an exception if a logit is NaN.
  std::int32_t next(const View& logits, std::span<const std::int32_t> sequence, Philox& random);

 private:
  Device& device_;
  SamplingSettings settings_;
  OwnedTensor token_, uniform_, seen_;
  std::vector<std::uint8_t> seen_on_host_;
};

}  // namespace omni
