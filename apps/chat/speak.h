#pragma once
// The speaking half of chat: an answer as text and codes.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "models/speech_stream.h"

namespace omni {

struct SpeakOptions {
  std::string model, dtype, device, voice;  // no voice: the model's own
  std::filesystem::path codes;              // safetensors file for the answer's codes
  int threads = 0;
  std::int64_t context = 2048;
  bool statistics = false;
  bool as_trained = false;  // feed what training data hold after the end of text and codes (SpeechSettings)
  SpeechSettings speech;
};

// Answers the last of `messages`. The text streams to standard output; then the codes are written: "codes" i64
// [8, frames], with 12.5 frames per second, and the text and the settings as metadata. Throws std::runtime_error if the
// model is no omni model.
void speak(const SpeakOptions& options, const nlohmann::ordered_json& messages);

}  // namespace omni
