#include "models/speech_prompt.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/instruction.h"
#include "models/talker.h"

namespace omni {
namespace {

void check_prompt(const OmniConfig& config, const SpeechPrompt& prompt) {
  const auto fail = [](const std::string& what) { throw std::runtime_error("generation: " + what); };
  if (prompt.ids.empty()) fail("the prompt is empty");
  for (const std::int32_t id : prompt.ids)
    if (id < 0 || id >= config.thinker.vocab_size)
      fail("token id " + std::to_string(id) + " is not in the model's vocabulary of " +
           std::to_string(config.thinker.vocab_size));
  const ConstView& codes = prompt.ref_codes;
  if (codes && (codes.dtype != DType::i64 || codes.shape.rank() != 2 || codes.shape[0] != kCodebooks))
    fail("ref_codes: expected i64 [8, frames], found " + Check::text(codes));
  for (std::int64_t i = 0; codes && i < codes.count(); ++i)
    if (const std::int64_t code = codes.as<std::int64_t>()[i]; code < 0 || code >= config.audio_vocab_size)
      fail("ref_codes: expected codes 0 .. " + std::to_string(config.audio_vocab_size - 1) + ", found " +
           std::to_string(code));
  const Shape speaker{config.spk_emb_size};
  if (prompt.spk_emb && (prompt.spk_emb.dtype != DType::f32 || !(prompt.spk_emb.shape == speaker)))
    fail("spk_emb: expected f32 " + speaker.text() + ", found " + Check::text(prompt.spk_emb));
  const auto states = [&](const char* name, const ConstView& view, std::int64_t width) {
    if (view && (view.dtype != DType::f32 || view.shape.rank() != 2 || view.width() != width))
      fail(std::string(name) + ": expected f32 [rows, " + std::to_string(width) + "], found " + Check::text(view));
  };
  states("audio_states", prompt.audio_states, config.audio_hidden_size);
  states("image_states", prompt.image_states, config.image_hidden_size);
}

}  // namespace

std::vector<std::int64_t> prompt_rows(const OmniConfig& config, const SpeechPrompt& prompt) {
  check_prompt(config, prompt);
  const auto time = static_cast<std::int64_t>(prompt.ids.size());
  std::vector<std::int64_t> out(static_cast<std::size_t>(kCodebooks * time), config.audio_pad_token);
  const std::int64_t frames = prompt.ref_codes ? prompt.ref_codes.width() : 0, marker = prompt.spk_emb ? 1 : 0;
  const std::int64_t begin = std::max(marker, time - frames), kept = time - begin;
  for (std::int64_t q = 0; q < kCodebooks; ++q) {
    std::int64_t* row = out.data() + q * time;
    if (kept > 0) std::copy_n(prompt.ref_codes.as<std::int64_t>() + (q + 1) * frames - kept, kept, row + begin);
    if (marker) row[begin - 1] = config.audio_spk_token;
  }
  out.insert(out.end(), prompt.ids.begin(), prompt.ids.end());
  return out;
}

}  // namespace omni
