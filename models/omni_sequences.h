#pragma once
// Sequences of text and codes in progress, side by side: what the omni model has read of each, and what it expects
// next.

#include <array>
#include <span>
#include <vector>

#include "models/omni_model.h"
#include "models/speech_prompt.h"

namespace omni {

class OmniSequences {
 public:
  // `rows` sequences with room for `capacity` positions each. Device and model must outlive them.
  OmniSequences(Device& device, OmniModel& model, std::int64_t rows, std::int64_t capacity);

  // Makes row `row` read `prompt` from the beginning. Throws std::runtime_error if it does not fit.
  void show(std::int64_t row, const SpeechPrompt& prompt);

  // What one row reads in a step.
  struct Step {
    bool reads = false;  // else the row keeps its place
    std::int64_t text = 0;
    std::array<std::int64_t, kCodebooks> codes = {};
  };
  // One more position for the rows that read. steps [rows]. From the third call on it allocates nothing.
  void append(std::span<const Step> steps);

  // Text that is already known, [1 .. kMostAhead], as far as there is room: the Thinker takes it at once, and only as
  // far as the bridge. append() must then be given the same text, and while all rows that read are ahead it runs the
  // Talker alone. From here on the row has text logits again only after show().
  static constexpr std::int64_t kMostAhead = 16;
  void read_ahead(std::int64_t row, std::span<const std::int64_t> text);
  bool is_ahead(std::int64_t row) const { return length(row) < ahead_[static_cast<std::size_t>(row)].end; }

  // Of the position that each row has read last, f32 in the device's memory. Valid until the next call of any function.
  // Without `text` the head of the text is spared.
  struct Logits {
    View text;   // [rows, vocab_size]
    View audio;  // [8 * rows, audio_vocab_size], codebook by codebook
  };
  Logits logits(bool text = true);

  // Forgets what a row has read.
  void clear(std::int64_t row);
  std::int64_t rows() const { return rows_; }
  std::int64_t capacity() const { return capacity_; }
  std::uint64_t allocations() const { return tape_.allocations(); }
  std::int64_t length(std::int64_t row) const { return lengths_[static_cast<std::size_t>(row)]; }

 private:
  // Where a step's integers lie in inputs_, one block of `rows` or 8 * rows each; the maps stay the same.
  struct Layout {
    std::int64_t starts, lengths, text, reading, bridge, speaker_source, codes, codes_in_tables, end_of_step;
    std::int64_t codebook_starts, by_codebook, by_position, count;
    explicit Layout(std::int64_t rows);
  };
  void add_layers(std::vector<KeyValueCache>& caches, const ThinkerConfig& config);
  OmniInputs step_inputs() const;
  void write_step(std::span<const Step> steps);
  void run_whole();
  void run_talker();
  void keep_hidden(const View& kept, const Tensor& hidden);
  View input(std::int64_t offset, const Shape& shape) const { return slice(inputs_.view(), offset, shape); }
  // `caches` restricted to one row, which reads positions [begin, end).
  OmniCaches caches_of(std::int64_t row, std::int64_t begin, std::int64_t end);

  Tape tape_;
  OmniModel& model_;
  std::int64_t rows_, capacity_;
  Layout layout_;
  std::vector<std::int64_t> lengths_;  // positions read, per row
  std::vector<bool> has_speaker_;
  struct Ahead {
    std::int64_t begin = 0, end = 0;  // positions
  };
  std::vector<Ahead> ahead_;  // per row
  OwnedTensor inputs_;        // i64, see Layout
  std::vector<std::int64_t> inputs_on_host_;
  OwnedTensor range_;                       // i64 [2]: where one row begins to read, and how far
  std::vector<OwnedTensor> memory_;         // keys and values
  OmniCaches caches_;                       // of all rows
  OwnedTensor speakers_;                    // [rows, spk_emb_size]
  OwnedTensor text_hidden_, audio_hidden_;  // [rows, width], of the position read last
  OwnedTensor bridges_;                     // [rows, kMostAhead, hidden], of the positions ahead
  OwnedTensor text_logits_, audio_logits_;
  Device::Recurring whole_, talker_, heads_, audio_heads_;
};

}  // namespace omni
