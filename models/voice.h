#pragma once
// Voices to speak with.

#include <string>

#include "engine/memory.h"
#include "engine/pth.h"

namespace omni {

struct Voice {
  OwnedTensor ref_codes;  // i64 [8, frames]: what the voice has said; may be absent
  OwnedTensor spk_emb;    // f32 [spk_emb_size]: its speaker vector; may be absent
};

// `voice`: FILE.safetensors with the tensors "ref_codes" and "spk_emb", or FILE.pt:NAME, one of the voices of a file of
// the original, a dictionary from names to dictionaries of those two tensors. One of the two may be missing. Throws
// std::runtime_error naming the file and what is wrong.
Voice load_voice(const std::string& voice);
// The same of a dictionary in memory; `file` stands for its path in errors.
Voice voice_of(const PthValue& voices, const std::string& name, const std::string& file);

}  // namespace omni
