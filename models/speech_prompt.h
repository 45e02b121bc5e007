#pragma once
// What a spoken answer begins with.

#include <cstdint>
#include <vector>

#include "kernels/view.h"
#include "models/omni_config.h"

namespace omni {

// In host memory, which must stay as it is until the prompt has been read.
struct SpeechPrompt {
  std::vector<std::int32_t> ids;  // with placeholders for sound and image
  ConstView ref_codes = {};       // i64 [8, frames], optional: the voice to speak with, undelayed
  ConstView spk_emb = {};         // f32 [spk_emb_size], optional: its speaker vector
  ConstView audio_states = {};    // f32 [rows, audio_hidden_size], optional
  ConstView image_states = {};    // f32 [rows, image_hidden_size], optional
};

// The nine rows [9, ids.size()] that the model reads: codes, then text. The codes are all padding, but for the last
// frames of ref_codes, as many as fit, at the end, and the speaker code before them if there is a speaker vector.
// Throws std::runtime_error naming the operand that does not fit.
std::vector<std::int64_t> prompt_rows(const OmniConfig& config, const SpeechPrompt& prompt);

}  // namespace omni
