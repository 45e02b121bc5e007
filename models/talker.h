#pragma once
// The Talker: from the Thinker's bridge and the codes spoken so far to the next code of each of the eight codebooks.

#include <deque>

#include "models/minimind_block.h"
#include "models/omni_config.h"
#include "models/projectors.h"
#include "models/thinker.h"

namespace omni {

inline constexpr std::int64_t kCodebooks = 8;
inline constexpr double kFramesPerSecond = 12.5;  // of speech; a frame is a code of each codebook

// What the Talker reads, all in the device's memory; rows = batch * time.
struct TalkerInput {
  Tensor bridge;           // [batch, time, hidden]
  Tensor codes;            // i64 [rows * 8]: the codes of a position side by side
  Tensor codes_in_tables;  // i64 [8 * rows]: codebook by codebook, code + codebook * audio_vocab_size
  Tensor codebook_starts;  // i64 [9]: 0, rows, 2 rows, ... 8 rows
  Tensor speaker;          // [batch, spk_emb_size]; absent: no position takes it
  Tensor speaker_source;   // i64 [rows]: whose speaker vector stands here instead of codes, or -1
};

// The maps between positions and codebooks, which depend on the number of positions alone.
struct CodebookMaps {
  Tensor starts;                    // i64 [9]: 0, rows, 2 rows, ... 8 rows
  Tensor by_codebook, by_position;  // i64 [8 * rows]: row r * 8 + i goes to i * rows + r, and back
};

// Names in a checkpoint: text_scale, audio_scale, layers.{i}.*, norm.weight, lm_head.*, embed_tokens.*, codec_proj.*,
// embed_proj.*, spk_proj.weight.
class Talker {
 public:
  Talker(const Scope& scope, const OmniConfig& config);

  // z = text_scale * embed_proj(bridge) + audio_scale * codec_proj(e), through the blocks and the final norm, with
  //   e = mean over the codebooks i of C[code_i] + U_i gelu(D_i[code_i]), or spk_proj(speaker)
  Thinker::Output operator()(Tape& tape, const TalkerInput& input, const std::vector<KeyValueCache>& caches = {},
                             std::int64_t positions = 0, const Observer& observer = {});

  // hidden [rows, talker_hidden] -> logits [8 * rows, audio_vocab_size], codebook by codebook:
  //   logits_i = base(x) + up_i(gelu(down_i(x)))
  Tensor logits(Tape& tape, const Tensor& hidden, const CodebookMaps& maps) const;

 private:
  Tensor embed(Tape& tape, const TalkerInput& input) const;  // e [rows, talker_hidden]

  ThinkerConfig config_;
  RopeTable rope_;
  Parameter &text_scale_, &audio_scale_;  // one number each
  std::deque<MiniMindBlock> layers_;
  Parameter& norm_;
  Parameter &head_base_, &head_down_, &head_up_;      // [codes, width], [8 * rank, width], [8 * codes, rank]
  Parameter &codes_base_, &codes_table_, &codes_up_;  // C [codes, width], D [8 * codes, rank], U [8 * width, rank]
  NormedProjector codec_proj_, embed_proj_;
  Parameter& spk_proj_;  // [width, spk_emb_size]
  double eps_;
};

}  // namespace omni
