#include "models/omni.h"

#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/gather_rows.h"
#include "autograd/ops/groups.h"
#include "autograd/ops/select_rows.h"
#include "kernels/matmul/matmul.h"

namespace omni {

Omni::Omni(const Scope& scope, const OmniConfig& config)
    : config_(config),
      audio_proj_(scope / "audio_proj", config.audio_hidden_size, config.thinker.hidden_size),
      vision_proj_(scope / "vision_proj", config.image_hidden_size, config.thinker.hidden_size),
      thinker_(scope, config.thinker),
      talker_(scope / "talker", config) {}

Thinker::Output Omni::think(Tape& tape, const OmniInputs& inputs, const Observer& observer, const OmniCaches& caches,
                            bool ends_at_bridge) {
  Thinker::Extras extras{.inject = {},
                         .bridge_layer = config_.bridge_layer,
                         .upper = inputs.upper,
                         .upper_time = inputs.upper_time,
                         .ends_at_bridge = ends_at_bridge};
  extras.inject = [&](const Tensor& embedded) {
    Tensor out = embedded;
    if (inputs.audio_states) out = select_rows(tape, out, audio_proj_(tape, inputs.audio_states), inputs.audio_source);
    if (inputs.image_states) out = select_rows(tape, out, vision_proj_(tape, inputs.image_states), inputs.image_source);
    return out;
  };
  const Thinker::Output out = thinker_(tape, inputs.text_ids, caches.thinker, caches.positions, observer, extras);
  if (observer) observer("bridge", out.bridge);
  return out;
}

Thinker::Output Omni::speak(Tape& tape, const OmniInputs& inputs, const Tensor& bridge, const Observer& observer,
                            const OmniCaches& caches) {
  const TalkerInput talker_input{.bridge = bridge,
                                 .codes = inputs.codes,
                                 .codes_in_tables = inputs.codes_in_tables,
                                 .codebook_starts = inputs.maps.starts,
                                 .speaker = inputs.speaker,
                                 .speaker_source = inputs.speaker_source};
  return talker_(tape, talker_input, caches.talker, caches.positions, observer);
}

Omni::Output Omni::operator()(Tape& tape, const OmniInputs& inputs, const Observer& observer,
                              const OmniCaches& caches) {
  const Thinker::Output text = think(tape, inputs, observer, caches);
  const Thinker::Output audio = speak(tape, inputs, text.bridge, observer, caches);
  Output out{text.hidden, audio.hidden, {}};
  if (text.aux_loss) out.aux_loss = add(tape, text.aux_loss, audio.aux_loss);
  return out;
}

Tensor Omni::audio_logits(Tape& tape, const Tensor& audio_hidden, const CodebookMaps& maps) const {
  return talker_.logits(tape, Tape::reshaped(audio_hidden, {audio_hidden.rows(), audio_hidden.width()}), maps);
}

namespace {

// The rows of hidden [batch, time, width] that a head looks at.
Tensor picked(Tape& tape, const Tensor& hidden, const PickedRows& rows) {
  const Tensor all = Tape::reshaped(hidden, {hidden.rows(), hidden.width()});
  return rows.source ? gather_rows(tape, all, rows.source, rows.inverse) : all;
}

}  // namespace

OmniLoss omni_loss(Tape& tape, Omni& omni, const OmniInputs& inputs, const Observer& observer) {
  const Omni::Output out = omni(tape, inputs, observer);
  const Tensor text_logits = omni.text_logits(tape, picked(tape, out.text_hidden, inputs.text_rows));
  const Tensor audio_logits =
      omni.audio_logits(tape, picked(tape, out.audio_hidden, inputs.audio_rows), inputs.head_maps);
  if (observer && !inputs.text_rows.source) {
    observer("text_logits", Tape::reshaped(text_logits, {inputs.batch, inputs.time, text_logits.width()}));
    observer("audio_logits",
             Tape::reshaped(audio_logits, {kCodebooks, inputs.batch, inputs.time, audio_logits.width()}));
  }
  OmniLoss loss;
  View hits, text_hits, audio_hits;
  if (inputs.hit_kinds) {
    hits = tape.constant(inputs.hit_kinds.dtype, {text_logits.rows() + audio_logits.rows()});
    text_hits = slice(hits, 0, {text_logits.rows()});
    audio_hits = slice(hits, text_logits.rows(), {audio_logits.rows()});
  }
  loss.text_loss = cross_entropy(tape, text_logits, inputs.text_targets, inputs.text_weights, 1, text_hits);
  loss.codebook_losses =
      cross_entropy(tape, audio_logits, inputs.audio_targets, inputs.audio_weights, kCodebooks, audio_hits);
  if (hits) {
    loss.hits = tape.constant(hits.dtype, {3, 1});
    hits.shape = {hits.count(), 1};
    tape.run(Matmul{.c = loss.hits, .a = inputs.hit_kinds, .b = hits});
  }
  const Tensor column = Tape::reshaped(loss.codebook_losses, {kCodebooks, 1});
  loss.audio_loss = Tape::reshaped(sum_groups(tape, column, kCodebooks, 1.0 / kCodebooks), {1});
  loss.aux_loss = out.aux_loss;
  loss.loss = add(tape, loss.text_loss, loss.audio_loss);
  if (loss.aux_loss) loss.loss = add(tape, loss.loss, loss.aux_loss);
  return loss;
}

}  // namespace omni
