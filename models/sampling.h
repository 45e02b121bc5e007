#pragma once
// From logits to the next token.

#include <cstdint>
#include <span>
#include <vector>

#include "engine/philox.h"

namespace omni {

// Applied in this order: temperature, repetition penalty, top-k, top-p. Defaults are those of the original's text
// generator.
struct SamplingSettings {
  double temperature = 0.85;      // logits are divided by it; > 0
  double repetition_penalty = 1;  // logits of ids in the sequence: divided if positive, multiplied if not
  std::int64_t top_k = 50;        // keep the k largest, ties with the last one included; 0 keeps all
  double top_p = 0.85;            // keep the most probable tokens until their sum exceeds this; >= 1 keeps all
  bool greedy = false;            // the largest logit, no draw
};

class Sampler {
 public:
  explicit Sampler(const SamplingSettings& settings) : settings_(settings) {}

  // Draws the id that follows `sequence`. logits [vocab_size] are changed. With equal logits the lower id comes first.
  // Throws std::runtime_error if a logit is NaN.
  std::int32_t next(std::span<float> logits, std::span<const std::int32_t> sequence, Philox& random);

 private:
  void penalize_repetition(std::span<float> logits, std::span<const std::int32_t> sequence);
  std::int32_t draw(std::span<const float> logits, Philox& random);

  SamplingSettings settings_;
  std::vector<std::int32_t> order_;    // candidates, the most probable first
  std::vector<double> probabilities_;  // of the candidates
  std::vector<char> seen_;
};

}  // namespace omni
