#pragma once
// The omni model: Thinker, Talker and the projectors between them and the encoders.

#include "models/omni_inputs.h"
#include "models/talker.h"

namespace omni {

// The keys and values of earlier positions, for generation.
struct OmniCaches {
  std::vector<KeyValueCache> thinker, talker;  // one per layer
  std::int64_t positions = 0;                  // the largest position of the batch plus one
};

class Omni {
 public:
  Omni(const Scope& scope, const OmniConfig& config);

  struct Output {
    Tensor text_hidden, audio_hidden;  // [batch, time, hidden], [batch, time, talker_hidden], after the final norms
    Tensor aux_loss;                   // [1], of all layers; absent without experts
  };
  // Observed: "thinker.input", "thinker.layers.N", "bridge", "talker.input", "talker.layers.N". With caches the inputs
  // follow the cached positions.
  Output operator()(Tape& tape, const OmniInputs& inputs, const Observer& observer = {}, const OmniCaches& caches = {});

  // Its two halves: the Thinker, where it is the text alone that counts, and the Talker, which goes on with the bridge
  // [batch, time, hidden]. With ends_at_bridge the Thinker gives nothing else.
  Thinker::Output think(Tape& tape, const OmniInputs& inputs, const Observer& observer, const OmniCaches& caches,
                        bool ends_at_bridge = false);
  Thinker::Output speak(Tape& tape, const OmniInputs& inputs, const Tensor& bridge, const Observer& observer,
                        const OmniCaches& caches);

  // Of any positions: [rows, vocab_size], and [8 * rows, audio_vocab_size] codebook by codebook.
  Tensor text_logits(Tape& tape, const Tensor& text_hidden) { return thinker_.logits(tape, text_hidden); }
  Tensor audio_logits(Tape& tape, const Tensor& audio_hidden, const CodebookMaps& maps) const;

  Parameter& text_head_weight() { return thinker_.head_weight(); }
  const OmniConfig& config() const { return config_; }
  // Those of the Thinker: above them the Talker is finished, whose own parameters are not declared in that order.
  std::vector<const Parameter*> milestones() const { return thinker_.milestones(); }

 private:
  OmniConfig config_;
  // Declared in the order in which a pass uses them, so that gradients are final from the last to the first.
  FeatureProjector audio_proj_, vision_proj_;
  Thinker thinker_;
  Talker talker_;
};

// The objective (all of it f32 [1]), each mean times the share that the inputs give to it:
//   text_loss    mean cross-entropy over text labels
//   audio_loss   mean over the 8 codebooks of the mean over a codebook's labels, stop codes counting ten times
//   loss         text_loss + audio_loss + aux_loss
struct OmniLoss {
  Tensor loss, text_loss, audio_loss, aux_loss;  // aux_loss is absent without experts
  Tensor codebook_losses;                        // [8]
  Tensor hits;  // f32 [3]: targets that are the largest logit, of text, codes, stop codes; absent without hit_kinds
};
OmniLoss omni_loss(Tape& tape, Omni& omni, const OmniInputs& inputs, const Observer& observer = {});

}  // namespace omni
