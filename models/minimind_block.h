#pragma once
// The transformer block of MiniMind: grouped-query attention with normalised, rotated queries and keys, and a SwiGLU
// feed-forward part, dense or a mixture of experts. The Thinker and the Talker are made of it.

#include <optional>

#include "autograd/module.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/norm.h"
#include "models/config.h"
#include "models/padding.h"

namespace omni {

// The residual stream between two halves of a block: its value is stream + branch. The sum is left to the norm that
// follows, which computes it on the way. An absent branch adds nothing.
struct Residual {
  Tensor stream, branch;  // [batch, time, hidden]
  bool needs_gradient() const { return stream.needs_gradient() || branch.needs_gradient(); }
};

// The norm behind the last block: the sum of both halves, and that normalised.
AddRmsNormResult final_norm(Tape& tape, const Residual& residual, Parameter& weight, double eps);

// Initial values of a block's matrices: those of the Thinker, or PyTorch's default for linear layers, which the Talker
// has.
enum class MatrixInit { normal, uniform };  // N(0, 0.02^2), U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))
Initializer initializer_of(MatrixInit init, std::int64_t fan_in);

// Names in a checkpoint: self_attn.{q,k,v,o}_proj.weight, self_attn.{q,k}_norm.weight.
struct SelfAttention {
  SelfAttention(const Scope& scope, const ThinkerConfig& config, MatrixInit init);

  AttentionShape shape;
  Parameter &qkv_proj, &o_proj;  // [(heads + 2 kv_heads) head_dim, hidden], [hidden, heads * head_dim]
  Parameter &q_norm, &k_norm;    // [head_dim]
};

// down(silu(gate(x)) * up(x)).   mlp.{gate,up,down}_proj.weight
struct DenseFeedForward {
  DenseFeedForward(const Scope& scope, const ThinkerConfig& config, MatrixInit init);

  Parameter &gate_up_proj, &down_proj;  // [2 * intermediate, hidden], [hidden, intermediate]
};

// The sum over the chosen experts of weight * expert(x).   mlp.gate.weight, mlp.experts.{e}.{gate,up,down}_proj.weight
struct MoeFeedForward {
  MoeFeedForward(const Scope& scope, const ThinkerConfig& config, MatrixInit init);
  struct Output {
    Tensor y, aux_loss;
  };
  Output operator()(Tape& tape, const Tensor& x) const;  // x, y [batch, time, hidden]

  std::int64_t top_k;
  bool normalize;
  double coefficient;
  Parameter& router;                    // [experts, hidden]
  Parameter &gate_up_proj, &down_proj;  // [experts * 2 * intermediate, hidden], [experts * hidden, intermediate]
};

// u = x + attention(norm(x)),  y = u + feed_forward(norm(u))
struct MiniMindBlock {
  MiniMindBlock(const Scope& scope, const ThinkerConfig& config, MatrixInit init = MatrixInit::normal);

  struct Output {
    Tensor x;         // the block's input as one sum
    Residual y;       // the block's output
    Tensor aux_loss;  // [1], absent without experts
  };
  // With a cache, the input follows the cached positions. Packed input is [1, rows, hidden]. Where neither the block
  // nor anything before it learns, it records nothing for the backward pass.
  Output operator()(Tape& tape, const Residual& input, const RopeAngles& angles, const KeyValueCache* cache,
                    const PackedRows& packed = {}) const;

  std::vector<const Parameter*> parameters() const;  // in the order of declaration
  bool learns() const;                               // any of them does
  const Parameter& first_parameter() const { return input_layernorm; }

  double eps;
  Parameter& input_layernorm;
  SelfAttention self_attn;
  Parameter& post_attention_layernorm;
  std::optional<DenseFeedForward> dense;  // exactly one of the two
  std::optional<MoeFeedForward> moe;

 private:
  Output compute(Tape& tape, const Residual& input, const RopeAngles& angles, const KeyValueCache* cache,
                 const PackedRows& packed) const;
  Output compute_again(Tape& tape, const Residual& input, const RopeAngles& angles, const PackedRows& packed) const;
  Tensor attend(Tape& tape, const Tensor& qkv, const RopeAngles& angles, const PackedRows& packed) const;
};

}  // namespace omni
