#include "trainers/omni_plan.h"

#include "models/talker.h"

namespace omni {
namespace {

// Numbers in the parts of the Talker that stand around its blocks.
struct TalkerParts {
  std::int64_t embed_tables, embed_per_token, projectors, heads, speaker;
};

TalkerParts parts_of(const OmniConfig& c) {
  const std::int64_t width = c.talker_hidden_size, hidden = c.thinker.hidden_size, codes = c.audio_vocab_size,
                     rank = c.adapter_rank;
  return {.embed_tables = codes * width + kCodebooks * codes * rank,
          .embed_per_token = kCodebooks * width * rank,
          .projectors = width * width + width + width * width + width + width +     // codec_proj with its norm
                        hidden * hidden + hidden + hidden * width + width + width,  // embed_proj
          .heads = codes * width + kCodebooks * (rank * width + codes * rank),
          .speaker = c.spk_emb_size * width + 2};
}

std::int64_t projector_count(std::int64_t in, std::int64_t hidden) {
  return 2 * in + in * hidden + hidden + hidden * hidden + hidden;
}

// The blocks alone and the final norm, without embedding and head.
ParameterCounts blocks_of(ThinkerConfig config) {
  config.vocab_size = 0;
  return count_parameters(config);
}

}  // namespace

ParameterCounts count_parameters(const OmniConfig& config) {
  const ParameterCounts thinker = count_parameters(config.thinker), talker = blocks_of(config.talker());
  const TalkerParts parts = parts_of(config);
  const std::int64_t hidden = config.thinker.hidden_size;
  ParameterCounts out;
  out.per_token = thinker.per_token + talker.per_token + parts.embed_per_token + parts.projectors;
  out.head = thinker.head + parts.heads;
  out.all = thinker.all + talker.all + parts.embed_tables + parts.embed_per_token + parts.projectors + parts.heads +
            parts.speaker + projector_count(config.audio_hidden_size, hidden) +
            projector_count(config.image_hidden_size, hidden);
  return out;
}

double training_flops(const OmniConfig& config, const OmniTrained& trained, const Batch& batch) {
  const ParameterCounts thinker = count_parameters(config.thinker), talker = blocks_of(config.talker());
  const TalkerParts parts = parts_of(config);
  const auto number = [](std::int64_t value) { return static_cast<double>(value); };
  // Forward and the gradient of the input; of the weights where they learn.
  const double thinker_factor = trained.thinker ? 6 : 4, talker_factor = trained.talker ? 6 : 4;
  const double spoken = number(batch.predictions() - batch.labelled[0]) / static_cast<double>(kCodebooks);
  const auto attention = [](const ThinkerConfig& c) {
    return 12.0 * static_cast<double>(c.num_hidden_layers * c.num_attention_heads * c.head_dim);
  };
  return number(batch.tokens) * (thinker_factor * number(thinker.per_token) +
                                 talker_factor * number(talker.per_token + parts.embed_per_token + parts.projectors)) +
         thinker_factor * number(thinker.head) * number(batch.labelled[0]) +
         talker_factor * number(parts.heads) * spoken +
         (attention(config.thinker) + attention(config.talker())) * number(batch.attention_pairs);
}

std::int64_t activation_bytes(const OmniConfig& config, DType dtype, std::int64_t rows, std::int64_t length,
                              std::int64_t labelled, bool recompute) {
  const std::int64_t positions = (labelled + kCodebooks) / (kCodebooks + 1), width = config.talker_hidden_size;
  const std::int64_t embedding = 3 * width + kCodebooks * (2 * config.adapter_rank + width);
  const std::int64_t projectors = 4 * (width + config.thinker.hidden_size);
  const std::int64_t heads = 2 * width + kCodebooks * (3 * config.adapter_rank + 2 * config.audio_vocab_size);
  return activation_bytes(config.thinker, dtype, rows, length, positions, recompute) +
         activation_bytes(config.talker(), dtype, rows, length, 0, recompute) +
         static_cast<std::int64_t>(size_of(dtype)) * (rows * length * (embedding + projectors) + positions * heads);
}

}  // namespace omni
