#include "models/thinker.h"

#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/norm.h"

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
                                    std::int64_t positions, const Observer& observer) {
  const double eps = config_.rms_norm_eps;
  Output out;
  // The residual stream, [batch, time, hidden].
  Tensor x = Tape::reshaped(embedding(tape, ids, embed_tokens_), {ids.shape[0], ids.shape[1], config_.hidden_size});
  const RopeAngles angles = rope_.angles(caches.empty() ? ids.shape[1] : positions, wide_of(x.dtype));
  if (observer) observer("thinker.embed", x);
  Tensor normed = rms_norm(tape, x, layers_.front().input_layernorm, eps);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const MiniMindBlock& layer = layers_[i];
    const Tensor attended = layer.self_attn(tape, normed, angles, caches.empty() ? nullptr : &caches[i]);
    const auto after_attention = add_rms_norm(tape, x, attended, layer.post_attention_layernorm, eps);
    Tensor fed;
    if (layer.dense) {
      fed = (*layer.dense)(tape, after_attention.normed);
    } else {
      const auto [y, aux_loss] = (*layer.moe)(tape, after_attention.normed);
      fed = y;
      out.aux_loss = out.aux_loss ? add(tape, out.aux_loss, aux_loss) : aux_loss;
    }
    Parameter& next_norm = i + 1 < layers_.size() ? layers_[i + 1].input_layernorm : norm_;
    const auto after_block = add_rms_norm(tape, after_attention.sum, fed, next_norm, eps);
    x = after_block.sum;
    normed = after_block.normed;
    if (observer) observer("thinker.layers." + std::to_string(i), x);
  }
  out.hidden = normed;
  return out;
}

Tensor Thinker::logits(Tape& tape, const Tensor& hidden) { return linear(tape, hidden, head_weight()); }

}  // namespace omni
