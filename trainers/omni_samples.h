#pragma once
// From a row of an omni dataset to the nine streams that the model reads and predicts: eight of codes, one of text.
//
// Codebook q of the answer is delayed by q positions: its code f stands at position s + q + 1 + f, where s is the
// position of the answer's first text token. As in samples.h, random decisions are drawn by one function and executed
// by another.

#include <cstdint>
#include <string>
#include <vector>

#include "models/omni_config.h"
#include "trainers/omni_row.h"
#include "trainers/samples.h"

namespace omni {

// How a spoken question is put into the last user message, and where the picture goes.
enum class AudioForm { audio_only, text_only, audio_first, text_first };
enum class ImageForm { line_before, paragraph_before, line_after, paragraph_after };

struct OmniDecisions {
  std::int64_t turn = 0;  // of several assistant turns the one to answer, or an earlier one if that does not fit
  int system = -1;        // which of system_prompts() to put in front, -1: none
  bool remove_think = false;
  AudioForm audio_form = AudioForm::text_only;
  ImageForm image_form = ImageForm::paragraph_after;
  bool use_reference = false;
};

// Probabilities: every turn alike; audio 40, 20, 20 and 20 %; picture 20, 20, 20 and 40 %; a reference half of the
// time; the others as draw_decisions().
OmniDecisions draw_omni_decisions(Philox& random, const OmniRow& row);

// Scheduled sampling: what stands in place of inputs that training hides, so that the model learns to go on after its
// own mistakes. A position is replaced where its number is below the probability.
struct ScheduledSampling {
  std::vector<float> audio_draws, text_draws;       // [time], uniform in [0, 1)
  std::vector<std::int64_t> audio_codes, text_ids;  // [8, time], [time]
};
ScheduledSampling draw_scheduled_sampling(Philox& random, const OmniConfig& config, std::int64_t time);

// time = max_seq_len - 1: inputs without the last position, labels without the first.
struct OmniSample {
  std::int64_t time = 0;
  std::vector<std::int64_t> input_ids;                  // [9, time], eight rows of codes, then the text
  std::vector<std::int64_t> text_labels, audio_labels;  // [time], [8, time]; -100: no label
  std::int64_t turn = 0;         // the assistant's turn that is learnt: OmniDecisions::turn or an earlier one
  std::int64_t question = -1;    // the entry of OmniRow::questions whose states stand for the audio placeholders
  std::int64_t text_length = 0;  // tokens before the padding
  bool truncated = false;        // text or codes were cut off
  bool unanswered = false;       // no turn of the assistant was found after cutting: nothing is learnt
};

struct OmniFrontEnds {
  bool audio = true, image = true;  // without one, recordings are left out and "<image>" stays ordinary text
};

class OmniAssembler {
 public:
  // `tokenizer` must outlive the assembler.
  OmniAssembler(const Tokenizer& tokenizer, const OmniConfig& config, std::int64_t max_seq_len,
                OmniFrontEnds front_ends = {});

  OmniSample assemble(const OmniRow& row, const OmniDecisions& decisions) const;
  // Changes the inputs where there is something to predict; placeholders of pictures stay.
  void apply(OmniSample& sample, const ScheduledSampling& draws, double probability) const;

  std::int64_t max_seq_len() const { return max_seq_len_; }
  const OmniConfig& config() const { return config_; }

 private:
  struct Prompt {
    std::vector<std::int64_t> ids;  // all of them, without padding
    std::int64_t question = -1;
  };
  nlohmann::ordered_json turns_up_to_answer(const OmniRow& row, const OmniDecisions& decisions) const;
  Prompt prompt(const nlohmann::ordered_json& messages, const OmniRow* row, const OmniDecisions& decisions) const;
  void write_text_labels(OmniSample& sample, const std::vector<std::int64_t>& ids, const TurnFinder::Turn& turn) const;
  void write_codes(OmniSample& sample, const OmniRow& row, const std::vector<std::int64_t>& answer,
                   const std::vector<std::int64_t>& ids, const TurnFinder::Turn& turn, bool use_reference) const;

  const Tokenizer& tokenizer_;
  OmniConfig config_;
  std::int64_t max_seq_len_;
  OmniFrontEnds front_ends_;
  TurnFinder turns_;
  std::string audio_placeholder_, image_placeholders_;  // one, and as many as a picture has states
};

}  // namespace omni
