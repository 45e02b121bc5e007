#include "models/thinker.h"

#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/gather_rows.h"
#include "autograd/ops/linear.h"

namespace omni {

Thinker::Thinker(const Scope& scope, const ThinkerConfig& config)
    : config_(config),
      rope_(config.head_dim, config.rope_theta, config.max_position_embeddings, config.rope_scaling()),
      embed_tokens_(
          (scope / "model")
              .matrix("embed_tokens.weight", config.vocab_size, config.hidden_size, Initializer::normal(0.02))),
      layers_(),
      norm_([&]() -> Parameter& {
        for (std::int64_t i = 0; i < config.num_hidden_layers; ++i)
          layers_.emplace_back(scope / "model" / "layers" / i, config);
        return (scope / "model").vector("norm.weight", config.hidden_size, Initializer::constant(1));
      }()) {
  if (!config.tie_word_embeddings)
    lm_head_ = &scope.matrix("lm_head.weight", config.vocab_size, config.hidden_size, Initializer::normal(0.02));
}

Thinker::Output Thinker::operator()(Tape& tape, const ConstView& ids, const std::vector<KeyValueCache>& caches,
                                    std::int64_t positions, const Observer& observer, const Extras& extras) {
  const auto embed = [&] {
    const Tape::Pause pause(tape, !embed_tokens_.trainable);
    return embedding(tape, ids, embed_tokens_);
  };
  Tensor embedded = embed();  // [batch * time, hidden]
  if (extras.inject) embedded = extras.inject(embedded);
  const std::int64_t time = extras.packed.row_at ? extras.packed.time : ids.shape[1];
  const RopeAngles angles = rope_.angles(tape.device(), caches.empty() ? time : positions, wide_of(embedded.dtype));
  Residual residual{Tape::reshaped(embedded, {ids.shape[0], ids.shape[1], config_.hidden_size}), {}};
  if (observer) observer(extras.inject ? "thinker.input" : "thinker.embed", residual.stream);
  Output out;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    tape.milestone(layers_[i].first_parameter());
    const bool behind_bridge = extras.bridge_layer == static_cast<std::int64_t>(i) - 1;
    if (behind_bridge && (extras.upper_time > 0 || extras.ends_at_bridge)) {
      const Tape::Pause pause(tape, !residual.needs_gradient());
      // The bridge goes on in full to the Talker, so it is not left to the next block to add it up.
      out.bridge = residual.branch ? add(tape, residual.stream, residual.branch) : residual.stream;
      if (extras.ends_at_bridge) return out;
      const Tensor rows = Tape::reshaped(out.bridge, {out.bridge.rows(), out.bridge.width()});
      residual = {Tape::reshaped(gather_rows(tape, rows, extras.upper.source, extras.upper.inverse),
                                 {ids.shape[0], extras.upper_time, config_.hidden_size}),
                  {}};
    }
    const auto [x, y, aux_loss] =
        layers_[i](tape, residual, angles, caches.empty() ? nullptr : &caches[i], extras.packed);
    // The output of a block exists as one tensor when the next one has begun.
    if (observer && i > 0) observer("thinker.layers." + std::to_string(i - 1), x);
    if (behind_bridge && extras.upper_time == 0) out.bridge = x;
    if (aux_loss) out.aux_loss = out.aux_loss ? add(tape, out.aux_loss, aux_loss) : aux_loss;
    residual = y;
  }
  const Tape::Pause pause(tape, !norm_.trainable && !residual.needs_gradient());
  const auto [sum, normed] = final_norm(tape, residual, norm_, config_.rms_norm_eps);
  if (observer) observer("thinker.layers." + std::to_string(layers_.size() - 1), sum);
  if (extras.bridge_layer == static_cast<std::int64_t>(layers_.size()) - 1) out.bridge = sum;
  out.hidden = normed;
  return out;
}

std::vector<const Parameter*> Thinker::milestones() const {
  std::vector<const Parameter*> out;
  for (const MiniMindBlock& layer : layers_) out.push_back(&layer.first_parameter());
  return out;
}

Tensor Thinker::logits(Tape& tape, const Tensor& hidden) {
  const Tape::Pause pause(tape, !head_weight().trainable && !hidden.needs_gradient());
  return linear_in_gradient(tape, hidden, head_weight());
}

}  // namespace omni
