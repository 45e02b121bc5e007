#include "models/omni.h"

#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/groups.h"
#include "autograd/ops/select_rows.h"
#include "kernels/matmul/matmul.h"

namespace omni {

Omni::Omni(const Scope& scope, const OmniConfig& config)
    : config_(config),
      thinker_(scope, config.thinker),
      talker_(scope / "talker", config),
      audio_proj_(scope / "audio_proj", config.audio_hidden_size, config.thinker.hidden_size),
      vision_proj_(scope / "vision_proj", config.image_hidden_size, config.thinker.hidden_size) {}

Omni::Output Omni::operator()(Tape& tape, const OmniInputs& inputs, const Observer& observer,
                              const OmniCaches& caches) {
  Thinker::Extras extras{.inject = {}, .bridge_layer = config_.bridge_layer};
  extras.inject = [&](const Tensor& embedded) {
    Tensor out = embedded;
    if (inputs.audio_states) out = select_rows(tape, out, audio_proj_(tape, inputs.audio_states), inputs.audio_source);
    if (inputs.image_states) out = select_rows(tape, out, vision_proj_(tape, inputs.image_states), inputs.image_source);
    return out;
  };
  const Thinker::Output text = thinker_(tape, inputs.text_ids, caches.thinker, caches.positions, observer, extras);
  if (observer) observer("bridge", text.bridge);
  const TalkerInput talker_input{.bridge = text.bridge,
                                 .codes = inputs.codes,
                                 .codes_in_tables = inputs.codes_in_tables,
                                 .codebook_starts = inputs.codebook_starts,
                                 .speaker = inputs.speaker,
                                 .speaker_source = inputs.speaker_source};
  const Thinker::Output audio = talker_(tape, talker_input, caches.talker, caches.positions, observer);
  Output out{text.hidden, audio.hidden, {}};
  if (text.aux_loss) out.aux_loss = add(tape, text.aux_loss, audio.aux_loss);
  return out;
}

Tensor Omni::audio_logits(Tape& tape, const Tensor& audio_hidden, const OmniInputs& inputs) const {
  return talker_.logits(tape, Tape::reshaped(audio_hidden, {audio_hidden.rows(), audio_hidden.width()}),
                        inputs.codebook_starts, inputs.by_codebook, inputs.by_position);
}

std::vector<const Parameter*> Omni::milestones() const {
  std::vector<const Parameter*> out = thinker_.milestones();
  for (const Parameter* milestone : talker_.milestones()) out.push_back(milestone);
  return out;
}

OmniLoss omni_loss(Tape& tape, Omni& omni, const OmniInputs& inputs, const Observer& observer) {
  const Omni::Output out = omni(tape, inputs, observer);
  const Tensor text_logits =
      omni.text_logits(tape, Tape::reshaped(out.text_hidden, {out.text_hidden.rows(), out.text_hidden.width()}));
  if (observer) observer("text_logits", Tape::reshaped(text_logits, {inputs.batch, inputs.time, text_logits.width()}));
  const Tensor audio_logits = omni.audio_logits(tape, out.audio_hidden, inputs);
  if (observer)
    observer("audio_logits",
             Tape::reshaped(audio_logits, {kCodebooks, inputs.batch, inputs.time, audio_logits.width()}));
  OmniLoss loss;
  const std::int64_t rows = text_logits.rows();
  View hits, text_hits, audio_hits;
  if (inputs.hit_kinds) {
    hits = tape.constant(inputs.hit_kinds.dtype, {(1 + kCodebooks) * rows});
    text_hits = slice(hits, 0, {rows});
    audio_hits = slice(hits, rows, {kCodebooks * rows});
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
