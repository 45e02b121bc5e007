#pragma once
// The transformer block of MiniMind: grouped-query attention with normalised, rotated queries and keys, and a SwiGLU
// feed-forward part, dense or a mixture of experts. The Thinker and the Talker are made of it.

#include <optional>

#include "autograd/module.h"
#include "autograd/ops/attention.h"
#include "models/config.h"

namespace omni {

// Names in a checkpoint: self_attn.{q,k,v,o}_proj.weight, self_attn.{q,k}_norm.weight.
struct SelfAttention {
  SelfAttention(const Scope& scope, const ThinkerConfig& config);
  // x [batch, time, hidden] -> [batch, time, hidden]. With a cache, x follows the cached positions.
  Tensor operator()(Tape& tape, const Tensor& x, const RopeAngles& angles, const KeyValueCache* cache) const;

  std::int64_t heads, kv_heads, head_dim;
  double eps;
  Parameter &qkv_proj, &o_proj;  // [(heads + 2 kv_heads) head_dim, hidden], [hidden, heads * head_dim]
  Parameter &q_norm, &k_norm;    // [head_dim]
};

// y = down(silu(gate(x)) * up(x)).   mlp.{gate,up,down}_proj.weight
struct DenseFeedForward {
  DenseFeedForward(const Scope& scope, const ThinkerConfig& config);
  Tensor operator()(Tape& tape, const Tensor& x) const;

  Parameter &gate_up_proj, &down_proj;  // [2 * intermediate, hidden], [hidden, intermediate]
};

// y = sum over the chosen experts of weight * expert(x).   mlp.gate.weight, mlp.experts.{e}.{gate,up,down}_proj.weight
struct MoeFeedForward {
  MoeFeedForward(const Scope& scope, const ThinkerConfig& config);
  struct Output {
    Tensor y, aux_loss;
  };
  Output operator()(Tape& tape, const Tensor& x) const;

  std::int64_t experts, top_k;
  bool normalize;
  double coefficient;
  Parameter& router;                    // [experts, hidden]
  Parameter &gate_up_proj, &down_proj;  // [experts * 2 * intermediate, hidden], [experts * hidden, intermediate]
};

// u = x + attention(norm(x)),  y = u + feed_forward(norm(u)). The sums are fused with the norms that follow them, so the
// block's parts are called by the stack that knows the next norm (models/thinker.cpp).
struct MiniMindBlock {
  MiniMindBlock(const Scope& scope, const ThinkerConfig& config);

  Parameter& input_layernorm;
  SelfAttention self_attn;
  Parameter& post_attention_layernorm;
  std::optional<DenseFeedForward> dense;  // exactly one of the two
  std::optional<MoeFeedForward> moe;
};

}  // namespace omni
