#pragma once
// The Thinker: MiniMind's causal language model, alone or as the first half of the omni model.

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "models/minimind_block.h"
#include "models/padding.h"
#include "models/rope.h"

namespace omni {

// Called with the name and value of intermediate results: "thinker.embed" ("thinker.input" after an injection),
// "thinker.layers.N", "text_logits".
using Observer = std::function<void(const std::string&, const ConstView&)>;

// What the omni model adds to a pass.
struct ThinkerExtras {
  std::function<Tensor(const Tensor&)> inject;  // writes features over embedded placeholders, [batch * time, hidden]
  std::optional<std::int64_t> bridge_layer;     // -1: the embeddings after injection
  // What the blocks behind the bridge go on with: the first upper_time positions of each row. 0: all.
  PickedRows upper;
  std::int64_t upper_time = 0;
  bool ends_at_bridge = false;  // no block behind the bridge runs, and nothing but the bridge comes out
  PackedRows packed = {};       // ids are [1, rows] then
};

// Names in a checkpoint: model.embed_tokens.weight, model.layers.{i}.*, model.norm.weight, and lm_head.weight where it
// is not tied to the embedding.
class Thinker {
 public:
  Thinker(const Scope& scope, const ThinkerConfig& config);

  struct Output {
    Tensor hidden;    // [batch, time or upper_time, hidden], after the final norm
    Tensor aux_loss;  // [1], the sum of the balancing losses; absent without experts
    Tensor bridge;    // [batch, time, hidden], the residual stream after the block that Extras names
  };
  using Extras = ThinkerExtras;
  // ids i64 [batch, time] in the device's memory. `caches` holds one cache per layer, or none; with caches, ids follow
  // the cached positions and `positions` is the largest position of the batch plus one.
  Output operator()(Tape& tape, const ConstView& ids, const std::vector<KeyValueCache>& caches = {},
                    std::int64_t positions = 0, const Observer& observer = {}, const Extras& extras = {});

  // hidden [..., hidden] -> logits [..., vocab_size], which cross_entropy may turn into their gradient
  Tensor logits(Tape& tape, const Tensor& hidden);
  // The places that the tape hears of as milestones, from the first block to the last.
  std::vector<const Parameter*> milestones() const;
  Parameter& head_weight() { return lm_head_ ? *lm_head_ : embed_tokens_; }
  const ThinkerConfig& config() const { return config_; }

 private:
  ThinkerConfig config_;
  RopeTable rope_;
  Parameter& embed_tokens_;  // [vocab_size, hidden]
  std::deque<MiniMindBlock> layers_;
  Parameter& norm_;               // [hidden]
  Parameter* lm_head_ = nullptr;  // [vocab_size, hidden], null when tied
};

}  // namespace omni
