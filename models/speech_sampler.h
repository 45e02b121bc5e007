#pragma once
// From the logits of the omni model to the next text token and codes.

#include <span>
#include <vector>

#include "engine/philox.h"
#include "models/omni_sequences.h"
#include "models/speech_stream.h"

namespace omni {

// Draws text and codes of all rows on the device where the logits are; nine numbers a row come to the host per step.
class SpeechSampler {
 public:
  // The device must outlive the sampler.
  SpeechSampler(Device& device, const OmniConfig& config, std::int64_t rows);

  // What the next draw of a row needs; null where nobody waits for one.
  struct Row {
    const SpeechSettings* settings = nullptr;
    const SpeechStream* stream = nullptr;
    Philox* random = nullptr;  // gives a number for the text, then one for each codebook that draws
  };
  // A row of text gets a penalty for ids that it has seen.
  void forget_seen(std::int64_t row);
  void mark_seen(std::int64_t row, std::int64_t id) { seen_on_host_[static_cast<std::size_t>(row * vocab_ + id)] = 1; }

  struct Draw {
    std::int64_t text;
    SpeechFrame codes;
  };
  // draws [rows]; those of rows where nobody waits, and text after its end, are of no meaning. Changes the logits.
  // Throws an exception if a logit is NaN.
  void draw(const OmniSequences::Logits& logits, std::span<const Row> rows, std::span<Draw> draws);

 private:
  void upload(std::span<const Row> rows);
  void draw_text(const View& logits, std::int64_t first, std::int64_t count, const SpeechSettings& settings);

  Device& device_;
  std::int64_t rows_, vocab_;
  OwnedTensor tokens_, uniforms_;  // i64, f64 [9 * rows]: codes codebook by codebook, then text
  OwnedTensor recent_;             // i64 [8 * rows, 3]
  OwnedTensor seen_;               // u8 [rows, vocab_size]
  std::vector<std::int64_t> tokens_on_host_, recent_on_host_;
  std::vector<double> uniforms_on_host_;
  std::vector<std::uint8_t> seen_on_host_;
};

}  // namespace omni
