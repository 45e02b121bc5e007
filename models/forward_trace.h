#pragma once
// Every named tensor of one forward and backward pass, for comparison with other implementations.

#include <string>
#include <utility>
#include <vector>

#include "models/omni_model.h"
#include "models/step_recorder.h"
#include "models/thinker_model.h"

namespace omni {

struct NamedTensor {
  std::string name;
  OwnedTensor tensor;
};

// Runs the model on input_ids i64 [batch, time] as they are, padding included. Returns, converted to f32:
// "thinker.embed", "thinker.layers.N" (the residual stream after block N), "text_logits"; with labels i64 [batch, time]
// also "loss", "text_loss", "aux_loss" [1]; with gradients also "grad.<parameter>". A recorder sees all of it but the
// copies.
std::vector<NamedTensor> trace_forward(Device& device, ThinkerModel& model, const ConstView& input_ids,
                                       const ConstView& labels, bool gradients, StepRecorder* recorder = nullptr);

// The same for the omni model: "thinker.input", "thinker.layers.N", "bridge", "talker.input", "talker.layers.N",
// "text_logits", "audio_logits" [batch, 8, time, audio_vocab_size], and with labels the losses ("loss", "text_loss",
// "audio_loss", "aux_loss") and gradients.
std::vector<NamedTensor> trace_omni(Device& device, OmniModel& model, const OmniBatch& batch, bool gradients,
                                    StepRecorder* recorder = nullptr);

}  // namespace omni
