#pragma once
// The course of one spoken answer: what is drawn when, what is fed back to the model, what comes out, where it ends.
// Plain bookkeeping: it sees drawn tokens, not the network.

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "models/omni_config.h"
#include "models/talker.h"

namespace omni {

// Defaults are those of the original's programs.
struct SpeechSettings {
  double temperature = 0.7, top_p = 0.85, repetition_penalty = 1;  // of the text
  bool greedy = false;                                             // always the most probable text token and codes
  bool thinking = false;              // the prompt has opened a think block: speech begins after it
  std::int64_t max_new_tokens = 512;  // steps: what is spoken after the end of the text counts as well
  std::uint64_t seed = 42;
  // Fed to the Thinker once after the end of the text, and from then on. The original feeds 201, the newline of an
  // older tokenizer; training rows have 234 there.
  std::int64_t enter_token_id = 201, pad_token_id = 0;
  // Whether a codebook is fed padding after its stop code, as in training. In the original it goes on drawing, and is
  // fed what it draws.
  bool pad_after_stop = false;
};

// The codes of the eight codebooks for 80 ms of sound.
using SpeechFrame = std::array<std::int64_t, kCodebooks>;

// What one step gives.
struct SpeechEmission {
  std::optional<std::int32_t> text;  // the newest token, end of sequence included; none after that
  std::optional<SpeechFrame> frame;
};

// Speech begins one step after the text, and codebook q begins q steps after codebook 0: the delay of the training
// data. Frame f of a reply is complete when codebook 7 draws its code: in step f + 8.
class SpeechStream {
 public:
  // Throws std::invalid_argument if a token that it is told to feed is outside of the vocabulary.
  SpeechStream(const OmniConfig& config, const SpeechSettings& settings);

  bool finished() const { return finished_; }
  bool text_finished() const { return text_finished_; }  // what is drawn as text no longer matters
  std::int64_t step() const { return step_; }            // that comes next; step 0 reads the prompt

  // Codebooks 0 .. drawing() - 1 draw a code in the next step (with pad_after_stop only until their stop code), the
  // others pad.
  std::int64_t drawing() const;
  // The last entries of a codebook, -1 where there are none yet. Their repetition is discouraged.
  static constexpr std::int64_t kRecent = 3;
  std::array<std::int64_t, kRecent> recent(std::int64_t codebook) const;

  // Takes what the next step has drawn; codes of codebooks that draw nothing are ignored. Returns what comes out of the
  // step: nothing if it only found out that the answer has ended.
  std::optional<SpeechEmission> advance(std::int64_t drawn_text, const SpeechFrame& drawn_codes);

  // What the model reads in the next step.
  std::int64_t text() const { return fed_.back(); }
  SpeechFrame codes() const;
  // As text() in the i-th step from now; of i > 0 it is known after the end of the text only.
  std::int64_t text_ahead(std::int64_t i) const;
  std::int64_t steps_left() const { return settings_.max_new_tokens - step_; }

  const std::vector<std::int32_t>& text_ids() const { return text_ids_; }  // all that came out so far
  const std::vector<SpeechFrame>& frames() const { return frames_; }

 private:
  std::int64_t delay_step() const;  // of codebook 0; negative: it has not begun
  void take_codes(const SpeechFrame& drawn);
  std::optional<SpeechFrame> complete_frame() const;
  void find_end_of_thinking();

  OmniConfig config_;
  SpeechSettings settings_;
  std::int64_t step_ = 0;
  bool finished_, text_finished_ = false;
  std::optional<std::int64_t> speech_begin_;                 // the step in which codebook 0 draws first
  std::vector<std::int64_t> fed_;                            // text tokens, a step each
  std::array<std::vector<std::int64_t>, kCodebooks> codes_;  // an entry per step
  std::array<std::int64_t, kCodebooks> stops_;               // the step of the first reserved code, or kNever
  std::vector<std::int32_t> text_ids_;
  std::vector<SpeechFrame> frames_;
};

}  // namespace omni
