#pragma once
// Every named tensor of one forward and backward pass, for comparison with other implementations.

#include <string>
#include <utility>
#include <vector>

#include "models/thinker_model.h"

namespace omni {

struct NamedTensor {
  std::string name;
  OwnedTensor tensor;
};

// Runs the model on input_ids i64 [batch, time] as they are, padding included. Returns, converted to f32:
// "thinker.embed", "thinker.layers.N" (the residual stream after block N), "text_logits"; with labels i64 [batch, time]
// also "loss", "text_loss", "aux_loss" [1]; with gradients also "grad.<parameter>".
std::vector<NamedTensor> trace_forward(Device& device, ThinkerModel& model, const ConstView& input_ids,
                                       const ConstView& labels, bool gradients);

}  // namespace omni
