#pragma once
// The objective of the text stages.

#include "models/padding.h"
#include "models/thinker.h"

namespace omni {

struct TextLoss {
  Tensor loss;            // [1], f32: text_loss + aux_loss
  Tensor text_loss;       // [1]: mean cross-entropy over labels that count; 0 if none does
  Tensor aux_loss;        // [1]: balancing losses of the experts; absent without experts
  std::int64_t labelled;  // labels that count
};

// input_ids, labels i64 [batch, time], aligned: position t predicts label t + 1; -100 marks labels that do not count.
TextLoss text_loss(Tape& tape, Thinker& thinker, const ConstView& input_ids, const ConstView& labels,
                   Padding padding = Padding::skip, const Observer& observer = {});

}  // namespace omni
