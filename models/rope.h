#pragma once
// The table of rotary angles, with the YaRN stretch (Peng et al., arXiv 2309.00071).

#include "autograd/ops/attention.h"
#include "engine/device.h"
#include "models/config.h"

namespace omni {

class RopeTable {
 public:
  // Angles for head_dim values: position p, pair i turn by p * f_i with f_i = theta^(-2i / head_dim), computed in f32
  // as checkpoints expect. `dtype` is that of the table: f32, or f64 beside f64 activations.
  RopeTable(std::int64_t head_dim, double theta, std::int64_t max_positions, const std::optional<YarnScaling>& yarn);

  // Cosine and sine of at least the first `positions` positions, [>= positions, head_dim / 2], in the memory of the
  // device, which must be the same in all calls. Computed on demand;
  // throws std::runtime_error beyond max_positions. Earlier results stay valid until a larger request.
  RopeAngles angles(Device& device, std::int64_t positions, DType dtype);

  const std::vector<float>& frequencies() const { return frequencies_; }

 private:
  std::vector<float> frequencies_;  // [head_dim / 2]
  std::int64_t max_positions_;
  float attention_factor_ = 1;
  OwnedTensor cosine_, sine_;
};

}  // namespace omni
