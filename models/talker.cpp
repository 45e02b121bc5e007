#include "models/talker.h"

#include <cmath>

#include "autograd/ops/activation.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/gather_rows.h"
#include "autograd/ops/groups.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/moe.h"
#include "autograd/ops/scaled_sum.h"
#include "autograd/ops/select_rows.h"

namespace omni {
namespace {

// adapters.{c}.{layer}.weight of all codebooks as one parameter.
Parameter& adapters(const Scope& scope, const char* layer, std::int64_t rows, std::int64_t width,
                    const Initializer& initializer) {
  std::vector<std::pair<std::string, std::int64_t>> names;
  for (std::int64_t c = 0; c < kCodebooks; ++c)
    names.emplace_back("adapters." + std::to_string(c) + "." + layer + ".weight", rows);
  return scope.joined_matrices(names, width, initializer);
}

Initializer uniform(std::int64_t fan_in) { return initializer_of(MatrixInit::uniform, fan_in); }

}  // namespace

Talker::Talker(const Scope& scope, const OmniConfig& config)
    : config_(config.talker()),
      rope_(config_.head_dim, config_.rope_theta, config_.max_position_embeddings, config_.rope_scaling()),
      text_scale_(scope.scalar("text_scale", Initializer::constant(3))),
      audio_scale_(scope.scalar("audio_scale", Initializer::constant(1))),
      norm_([&]() -> Parameter& {
        for (std::int64_t i = 0; i < config_.num_hidden_layers; ++i)
          layers_.emplace_back(scope / "layers" / i, config_, MatrixInit::uniform);
        return scope.vector("norm.weight", config_.hidden_size, Initializer::constant(1));
      }()),
      head_base_(
          (scope / "lm_head")
              .matrix("base.weight", config.audio_vocab_size, config_.hidden_size, uniform(config_.hidden_size))),
      head_down_(
          adapters(scope / "lm_head", "0", config.adapter_rank, config_.hidden_size, uniform(config_.hidden_size))),
      head_up_(
          adapters(scope / "lm_head", "2", config.audio_vocab_size, config.adapter_rank, uniform(config.adapter_rank))),
      codes_base_((scope / "embed_tokens")
                      .matrix("base.weight", config.audio_vocab_size, config_.hidden_size, Initializer::normal(1))),
      codes_table_(
          adapters(scope / "embed_tokens", "0", config.audio_vocab_size, config.adapter_rank, Initializer::normal(1))),
      codes_up_(adapters(scope / "embed_tokens", "2", config_.hidden_size, config.adapter_rank,
                         uniform(config.adapter_rank))),
      codec_proj_(scope / "codec_proj", config_.hidden_size, config_.hidden_size, config.thinker.rms_norm_eps),
      embed_proj_(scope / "embed_proj", config.thinker.hidden_size, config_.hidden_size, config.thinker.rms_norm_eps),
      spk_proj_(
          scope.matrix("spk_proj.weight", config_.hidden_size, config.spk_emb_size, uniform(config.spk_emb_size))),
      eps_(config.thinker.rms_norm_eps) {}

Tensor Talker::embed(Tape& tape, const TalkerInput& input) const {
  const Tensor base = embedding(tape, input.codes, codes_base_, kCodebooks, 1.0 / kCodebooks);  // [rows, width]
  const Tensor low_rank = gelu(tape, embedding(tape, input.codes_in_tables, codes_table_));     // [8 * rows, rank]
  Routing by_codebook;
  by_codebook.offset = input.codebook_starts;
  const Tensor raised = grouped_linear(tape, low_rank, codes_up_, by_codebook);  // [8 * rows, width]
  const Tensor codes = add(tape, base, sum_groups(tape, raised, kCodebooks, 1.0 / kCodebooks));
  if (!input.speaker) return codes;
  return select_rows(tape, codes, linear(tape, input.speaker, spk_proj_), input.speaker_source);
}

Thinker::Output Talker::operator()(Tape& tape, const TalkerInput& input, const std::vector<KeyValueCache>& caches,
                                   std::int64_t positions, const Observer& observer) {
  const Shape shape = input.bridge.shape.with_width(config_.hidden_size);  // [batch, time, width]
  const Tensor bridge = Tape::reshaped(input.bridge, {input.bridge.rows(), input.bridge.width()});
  const Tensor fused =
      scaled_sum(tape, embed_proj_(tape, bridge), text_scale_, codec_proj_(tape, embed(tape, input)), audio_scale_);
  const RopeAngles angles = rope_.angles(tape.device(), caches.empty() ? shape[1] : positions, wide_of(fused.dtype));
  Residual residual{Tape::reshaped(fused, shape), {}};
  if (observer) observer("talker.input", residual.stream);
  Thinker::Output out;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    tape.milestone(layers_[i].first_parameter());
    const auto [x, y, aux_loss] = layers_[i](tape, residual, angles, caches.empty() ? nullptr : &caches[i]);
    if (observer && i > 0) observer("talker.layers." + std::to_string(i - 1), x);
    if (aux_loss) out.aux_loss = out.aux_loss ? add(tape, out.aux_loss, aux_loss) : aux_loss;
    residual = y;
  }
  const auto [sum, normed] = final_norm(tape, residual, norm_, eps_);
  if (observer) observer("talker.layers." + std::to_string(layers_.size() - 1), sum);
  out.hidden = normed;
  return out;
}

Tensor Talker::logits(Tape& tape, const Tensor& hidden, const CodebookMaps& maps) const {
  const Tensor low_rank = gelu(tape, linear(tape, hidden, head_down_));  // [rows, 8 * rank]
  const Tensor sorted =
      gather_rows(tape, Tape::reshaped(low_rank, {hidden.rows() * kCodebooks, low_rank.width() / kCodebooks}),
                  maps.by_codebook, maps.by_position);
  Routing routing;
  routing.offset = maps.starts;
  const Tensor own = grouped_linear_in_gradient(tape, sorted, head_up_, routing);  // [8 * rows, audio_vocab_size]
  return add_groups(tape, own, linear(tape, hidden, head_base_));
}

}  // namespace omni
