#pragma once
// Streaming generation of text and speech: several conversations decoded side by side.

#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "models/speech_sampler.h"

namespace omni {

struct SpeechResult {
  std::vector<std::int32_t> text;  // end of sequence included
  std::vector<SpeechFrame> frames;
  bool cancelled = false;
};

struct SpeechRequest {
  SpeechPrompt prompt;
  SpeechSettings settings;
  // Called after every step, in the thread that generates. False ends the answer, as `cancelled` does.
  std::function<bool(const SpeechEmission&)> on_emission = {};
  const std::atomic<bool>* cancelled = nullptr;  // read before every step
  std::function<void(SpeechResult)> on_end = {};
};

class SpeechGenerator {
 public:
  // Up to `rows` conversations at a time, each with room for `capacity` positions of prompt and answer. Device and
  // model must outlive the generator.
  SpeechGenerator(Device& device, OmniModel& model, std::int64_t rows, std::int64_t capacity);

  bool is_full() const;
  bool is_idle() const;
  // Reads the prompt into a free row; the answer then comes with the next steps. Errors as in prompt_rows(), and
  // std::runtime_error if all rows are taken.
  void begin(SpeechRequest request);
  // One step of all conversations. An answer ends by itself, when it is cancelled, or when its row is full. After an
  // exception all conversations are gone.
  void step();
  // All of these, as many side by side as there are rows. An answer is the same as if it were alone, but for the
  // rounding of sums. Exceptions as in step().
  std::vector<SpeechResult> generate(std::span<const SpeechRequest> requests);

  // Called with the logits of all rows before `row` draws from its own, to change them on the device. Those of its text
  // are of no meaning after its end.
  using LogitsHook =
      std::function<void(std::int64_t row, std::int64_t step, const SpeechRequest&, const OmniSequences::Logits&)>;
  void set_logits_hook(LogitsHook hook) { hook_ = std::move(hook); }

 private:
  struct Conversation {
    SpeechRequest request;
    SpeechStream stream;
    Philox random;
  };
  void advance_row(std::size_t row);
  void end(std::size_t row, bool cancelled);
  template <class Body>
  void or_drop_all(const Body& body);
  bool wants_text() const;
  void read_ahead();
  void feed_rows();
  void step_all();

  OmniSequences sequences_;
  SpeechSampler sampler_;
  OmniConfig config_;
  LogitsHook hook_;
  std::vector<std::optional<Conversation>> conversations_;  // one per row
  std::vector<OmniSequences::Step> steps_;
  std::vector<SpeechSampler::Row> drawing_;
  std::vector<SpeechSampler::Draw> draws_;
};

}  // namespace omni
