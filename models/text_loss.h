#pragma once
// The objective of the text stages.

#include "models/thinker.h"

namespace omni {

struct TextLoss {
  Tensor loss;            // [1], f32: text_loss + aux_loss
  Tensor text_loss;       // [1]: mean cross-entropy over labels that count; 0 if none does
  Tensor aux_loss;        // [1]: balancing losses of the experts; absent without experts
  std::int64_t labelled;  // labels that count
};

// How much of a padded batch is computed. Both ways give the same loss and gradients: the model is causal, so columns
// after the last label change nothing, and logits are needed only where a label is. With experts all columns stay,
// because the balancing loss counts padding.
enum class Padding { skip, compute };

// input_ids, labels i64 [batch, time], aligned: position t predicts label t + 1; -100 marks labels that do not count.
TextLoss text_loss(Tape& tape, Thinker& thinker, const ConstView& input_ids, const ConstView& labels,
                   Padding padding = Padding::skip, const Observer& observer = {});

}  // namespace omni
