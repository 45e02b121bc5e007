#include "models/minimind_block.h"

#include "autograd/ops/linear.h"
#include "autograd/ops/moe.h"
#include "autograd/ops/swiglu.h"
#include "autograd/ops/swiglu_linear.h"

namespace omni {
namespace {

const Initializer kMatrix = Initializer::normal(0.02);
const Initializer kNorm = Initializer::constant(1);

std::vector<std::pair<std::string, std::int64_t>> expert_matrices(std::int64_t experts, std::int64_t rows,
                                                                  const std::vector<std::string>& names) {
  std::vector<std::pair<std::string, std::int64_t>> out;
  for (std::int64_t e = 0; e < experts; ++e)
    for (const std::string& name : names)
      out.emplace_back("experts." + std::to_string(e) + "." + name + ".weight", rows);
  return out;
}

}  // namespace

SelfAttention::SelfAttention(const Scope& scope, const ThinkerConfig& config)
    : heads(config.num_attention_heads),
      kv_heads(config.num_key_value_heads),
      head_dim(config.head_dim),
      eps(config.rms_norm_eps),
      qkv_proj(scope.joined_matrices({{"q_proj.weight", heads * head_dim},
                                      {"k_proj.weight", kv_heads * head_dim},
                                      {"v_proj.weight", kv_heads * head_dim}},
                                     config.hidden_size, kMatrix)),
      o_proj(scope.matrix("o_proj.weight", config.hidden_size, heads * head_dim, kMatrix)),
      q_norm(scope.vector("q_norm.weight", head_dim, kNorm)),
      k_norm(scope.vector("k_norm.weight", head_dim, kNorm)) {}

Tensor SelfAttention::operator()(Tape& tape, const Tensor& x, const RopeAngles& angles,
                                 const KeyValueCache* cache) const {
  const Tensor qkv = linear(tape, x, qkv_proj);  // [batch, time, (heads + 2 kv_heads) head_dim]
  const Tensor o = cache ? cached_attention(tape, qkv, q_norm, k_norm, angles, *cache, heads, eps)
                         : attention(tape, qk_norm_rope(tape, qkv, q_norm, k_norm, angles, heads, kv_heads, eps), {});
  return linear(tape, Tape::reshaped(o, x.shape.with_width(heads * head_dim)), o_proj);
}

DenseFeedForward::DenseFeedForward(const Scope& scope, const ThinkerConfig& config)
    : gate_up_proj(scope.joined_matrices(
          {{"gate_proj.weight", config.intermediate_size}, {"up_proj.weight", config.intermediate_size}},
          config.hidden_size, kMatrix)),
      down_proj(scope.matrix("down_proj.weight", config.hidden_size, config.intermediate_size, kMatrix)) {}

Tensor DenseFeedForward::operator()(Tape& tape, const Tensor& x) const {
  return swiglu_linear(tape, linear(tape, x, gate_up_proj), down_proj);
}

MoeFeedForward::MoeFeedForward(const Scope& scope, const ThinkerConfig& config)
    : experts(config.num_experts),
      top_k(config.num_experts_per_tok),
      normalize(config.norm_topk_prob),
      coefficient(config.router_aux_loss_coef),
      router(scope.matrix("gate.weight", experts, config.hidden_size, kMatrix)),
      gate_up_proj(
          scope.joined_matrices(expert_matrices(experts, config.moe_intermediate_size, {"gate_proj", "up_proj"}),
                                config.hidden_size, kMatrix)),
      down_proj(scope.joined_matrices(expert_matrices(experts, config.hidden_size, {"down_proj"}),
                                      config.moe_intermediate_size, kMatrix)) {}

MoeFeedForward::Output MoeFeedForward::operator()(Tape& tape, const Tensor& x) const {
  const Tensor rows = Tape::reshaped(x, {x.rows(), x.width()});
  // Balance is asked for in training only.
  const Routing routing =
      moe_route(tape, linear(tape, rows, router), top_k, normalize, tape.recording() ? coefficient : 0);
  const Tensor sorted = moe_gather(tape, rows, routing);                               // [capacity, hidden]
  const Tensor gate_up = grouped_linear(tape, sorted, gate_up_proj, routing);          // [capacity, 2 * intermediate]
  const Tensor out = grouped_linear(tape, swiglu(tape, gate_up), down_proj, routing);  // [capacity, hidden]
  return {Tape::reshaped(moe_combine(tape, out, routing), x.shape), routing.aux_loss};
}

MiniMindBlock::MiniMindBlock(const Scope& scope, const ThinkerConfig& config)
    : input_layernorm(scope.vector("input_layernorm.weight", config.hidden_size, kNorm)),
      self_attn(scope / "self_attn", config),
      post_attention_layernorm(scope.vector("post_attention_layernorm.weight", config.hidden_size, kNorm)) {
  if (config.use_moe)
    moe.emplace(scope / "mlp", config);
  else
    dense.emplace(scope / "mlp", config);
}

}  // namespace omni
