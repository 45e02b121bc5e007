#include "models/minimind_block.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/feed_forward.h"
#include "autograd/ops/gather_rows.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/moe.h"
#include "autograd/ops/norm_linear.h"
#include "autograd/ops/recomputed.h"
#include "autograd/ops/swiglu.h"

namespace omni {
namespace {

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

AddRmsNormResult final_norm(Tape& tape, const Residual& residual, Parameter& weight, double eps) {
  const float epsilon = static_cast<float>(eps);
  if (!residual.branch) return {residual.stream, rms_norm(tape, residual.stream, weight, epsilon)};
  return add_rms_norm(tape, residual.stream, residual.branch, weight, epsilon);
}

Initializer initializer_of(MatrixInit init, std::int64_t fan_in) {
  return init == MatrixInit::normal ? Initializer::normal(0.02)
                                    : Initializer::uniform(1 / std::sqrt(static_cast<double>(fan_in)));
}

SelfAttention::SelfAttention(const Scope& scope, const ThinkerConfig& config, MatrixInit init)
    : shape{config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps},
      qkv_proj(scope.joined_matrices({{"q_proj.weight", config.num_attention_heads * config.head_dim},
                                      {"k_proj.weight", config.num_key_value_heads * config.head_dim},
                                      {"v_proj.weight", config.num_key_value_heads * config.head_dim}},
                                     config.hidden_size, initializer_of(init, config.hidden_size))),
      o_proj(scope.matrix("o_proj.weight", config.hidden_size, config.num_attention_heads * config.head_dim,
                          initializer_of(init, config.num_attention_heads * config.head_dim))),
      q_norm(scope.vector("q_norm.weight", config.head_dim, kNorm)),
      k_norm(scope.vector("k_norm.weight", config.head_dim, kNorm)) {}

DenseFeedForward::DenseFeedForward(const Scope& scope, const ThinkerConfig& config, MatrixInit init)
    : gate_up_proj(scope.joined_matrices(
          {{"gate_proj.weight", config.intermediate_size}, {"up_proj.weight", config.intermediate_size}},
          config.hidden_size, initializer_of(init, config.hidden_size))),
      down_proj(scope.matrix("down_proj.weight", config.hidden_size, config.intermediate_size,
                             initializer_of(init, config.intermediate_size))) {}

MoeFeedForward::MoeFeedForward(const Scope& scope, const ThinkerConfig& config, MatrixInit init)
    : top_k(config.num_experts_per_tok),
      normalize(config.norm_topk_prob),
      coefficient(config.router_aux_loss_coef),
      router(scope.matrix("gate.weight", config.num_experts, config.hidden_size,
                          initializer_of(init, config.hidden_size))),
      gate_up_proj(scope.joined_matrices(
          expert_matrices(config.num_experts, config.moe_intermediate_size, {"gate_proj", "up_proj"}),
          config.hidden_size, initializer_of(init, config.hidden_size))),
      down_proj(scope.joined_matrices(expert_matrices(config.num_experts, config.hidden_size, {"down_proj"}),
                                      config.moe_intermediate_size,
                                      initializer_of(init, config.moe_intermediate_size))) {}

MoeFeedForward::Output MoeFeedForward::operator()(Tape& tape, const Tensor& x) const {
  const Tensor rows = Tape::reshaped(x, {x.rows(), x.width()});
  const Routing routing = [&] {
    const Tape::Transient balance_is_read_later(tape, false);
    // Balance is asked for in training only.
    return moe_route(tape, linear(tape, rows, router), top_k, normalize, tape.training() ? coefficient : 0);
  }();
  const Tensor sorted = moe_gather(tape, rows, routing);                               // [capacity, hidden]
  const Tensor gate_up = grouped_linear(tape, sorted, gate_up_proj, routing);          // [capacity, 2 * intermediate]
  const Tensor out = grouped_linear(tape, swiglu(tape, gate_up), down_proj, routing);  // [capacity, hidden]
  return {Tape::reshaped(moe_combine(tape, out, routing), x.shape), routing.aux_loss};
}

MiniMindBlock::MiniMindBlock(const Scope& scope, const ThinkerConfig& config, MatrixInit init)
    : eps(config.rms_norm_eps),
      input_layernorm(scope.vector("input_layernorm.weight", config.hidden_size, kNorm)),
      self_attn(scope / "self_attn", config, init),
      post_attention_layernorm(scope.vector("post_attention_layernorm.weight", config.hidden_size, kNorm)) {
  if (config.use_moe)
    moe.emplace(scope / "mlp", config, init);
  else
    dense.emplace(scope / "mlp", config, init);
}

std::vector<const Parameter*> MiniMindBlock::parameters() const {
  std::vector<const Parameter*> all{&input_layernorm,  &self_attn.qkv_proj, &self_attn.o_proj,
                                    &self_attn.q_norm, &self_attn.k_norm,   &post_attention_layernorm};
  if (dense) all.insert(all.end(), {&dense->gate_up_proj, &dense->down_proj});
  if (moe) all.insert(all.end(), {&moe->router, &moe->gate_up_proj, &moe->down_proj});
  return all;
}

bool MiniMindBlock::learns() const {
  const std::vector<const Parameter*> all = parameters();
  return std::any_of(all.begin(), all.end(), [](const Parameter* parameter) { return parameter->trainable; });
}

MiniMindBlock::Output MiniMindBlock::operator()(Tape& tape, const Residual& input, const RopeAngles& angles,
                                                const KeyValueCache* cache, const PackedRows& packed) const {
  const Tape::Pause pause(tape, !learns() && !input.needs_gradient());
  const Output out = moe && tape.recompute() && tape.recording() ? compute_again(tape, input, angles, packed)
                                                                 : compute(tape, input, angles, cache, packed);
  tape.lend_gradients(parameters());
  return out;
}

// Experts keep so much that a block is made again as a whole.
MiniMindBlock::Output MiniMindBlock::compute_again(Tape& tape, const Residual& input, const RopeAngles& angles,
                                                   const PackedRows& packed) const {
  const Tensor x = input.branch ? add(tape, input.stream, input.branch) : input.stream;
  const auto [y, aux_loss] = recomputed(tape, x, [this, angles, packed](Tape& inner, const Tensor& again) {
    const Output out = compute(inner, {again, {}}, angles, nullptr, packed);
    return Recomputed{add(inner, out.y.stream, out.y.branch), out.aux_loss};
  });
  return {x, {y, {}}, aux_loss};
}

// Packed rows go back to their places in the padded batch for as long as attention takes.
Tensor MiniMindBlock::attend(Tape& tape, const Tensor& qkv, const RopeAngles& angles, const PackedRows& packed) const {
  const SelfAttention& attn = self_attn;
  if (!packed.row_at) return self_attention(tape, qkv, attn.q_norm, attn.k_norm, angles, attn.shape);
  const Tensor padded =
      gather_rows(tape, Tape::reshaped(qkv, {qkv.rows(), qkv.width()}), packed.row_at, packed.position_of);
  const Tensor o = self_attention(tape, Tape::reshaped(padded, {packed.batch, packed.time, qkv.width()}), attn.q_norm,
                                  attn.k_norm, angles, attn.shape);
  const Tensor rows = gather_rows(tape, Tape::reshaped(o, {o.rows(), o.width()}), packed.position_of, packed.row_at);
  return Tape::reshaped(rows, {1, rows.rows(), rows.width()});
}

MiniMindBlock::Output MiniMindBlock::compute(Tape& tape, const Residual& input, const RopeAngles& angles,
                                             const KeyValueCache* cache, const PackedRows& packed) const {
  const Tape::Transient transient(tape);
  const SelfAttention& attn = self_attn;
  const auto [x, qkv] = norm_linear(tape, input.stream, input.branch, input_layernorm, eps, attn.qkv_proj);
  const Tensor o = cache ? cached_attention(tape, qkv, attn.q_norm, attn.k_norm, angles, attn.shape, *cache)
                         : attend(tape, qkv, angles, packed);
  const Tensor attended = linear(tape, o, attn.o_proj);
  if (dense) {
    const auto [u, fed] =
        feed_forward(tape, x, attended, post_attention_layernorm, eps, dense->gate_up_proj, dense->down_proj);
    return {x, {u, fed}, {}};
  }
  const auto [u, normed] = add_rms_norm(tape, x, attended, post_attention_layernorm, static_cast<float>(eps));
  const auto [fed, aux_loss] = (*moe)(tape, normed);
  return {x, {u, fed}, aux_loss};
}

}  // namespace omni
