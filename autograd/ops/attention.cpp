#include "autograd/ops/attention.h"

#include "kernels/qk_norm_rope/qk_norm_rope.h"

namespace omni {

Qkv qk_norm_rope(Tape& tape, const Tensor& qkv, Parameter& q_weight, Parameter& k_weight, const RopeAngles& angles,
                 std::int64_t heads, std::int64_t kv_heads, double eps) {
  const std::int64_t batch = qkv.shape[0], time = qkv.shape[1], head_dim = q_weight.value.count();
  Qkv out;
  out.q = tape.empty(qkv.dtype, {batch, time, heads, head_dim});
  out.k = tape.empty(qkv.dtype, {batch, time, kv_heads, head_dim});
  out.v = tape.empty(qkv.dtype, {batch, time, kv_heads, head_dim});
  tape.run(QkNormRope{.q = out.q,
                      .k = out.k,
                      .v = out.v,
                      .qkv = qkv,
                      .q_weight = q_weight,
                      .k_weight = k_weight,
                      .cosine = angles.cosine,
                      .sine = angles.sine,
                      .starts = {},
                      .eps = eps});
  tape.on_backward([=, q_weight = &q_weight, k_weight = &k_weight](Gradients& d) {
    const ParameterGradient dq_weight = d[*q_weight], dk_weight = d[*k_weight];
    d.run(QkNormRopeBackward{.dqkv = d[qkv],
                             .dq_weight = dq_weight.view,
                             .dk_weight = dk_weight.view,
                             .dq = d[out.q],
                             .dk = d[out.k],
                             .dv = d[out.v],
                             .qkv = qkv,
                             .q_weight = *q_weight,
                             .k_weight = *k_weight,
                             .cosine = angles.cosine,
                             .sine = angles.sine,
                             .starts = {},
                             .eps = eps,
                             .accumulate = dq_weight.accumulate});
  });
  return out;
}

Tensor attention(Tape& tape, const Qkv& qkv, const AttentionMask& mask) {
  const auto [q, k, v] = qkv;
  Tensor o = tape.like(q);
  const Tensor lse = tape.constant(wide_of(q.dtype), {q.shape[0], q.shape[2], q.shape[1]});
  tape.run(Attention{.o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = mask});
  tape.on_backward([=](Gradients& d) {
    d.run(AttentionBackward{.dq = d[q],
                            .dk = d[k],
                            .dv = d[v],
                            .do_ = d[o],
                            .o = o,
                            .lse = lse,
                            .q = q,
                            .k = k,
                            .v = v,
                            .mask = mask});
  });
  return o;
}

Tensor cached_attention(Tape& tape, const Tensor& qkv, Parameter& q_weight, Parameter& k_weight, const RopeAngles& angles,
                        const KeyValueCache& cache, std::int64_t heads, double eps) {
  const Tensor q = tape.empty(qkv.dtype, {qkv.shape[0], qkv.shape[1], heads, q_weight.value.count()});
  Tensor o = tape.like(q);
  tape.run(QkNormRope{.q = q,
                      .k = cache.k,
                      .v = cache.v,
                      .qkv = qkv,
                      .q_weight = q_weight,
                      .k_weight = k_weight,
                      .cosine = angles.cosine,
                      .sine = angles.sine,
                      .starts = cache.starts,
                      .eps = eps,
                      .into_cache = true});
  tape.run(Attention{.o = o,
                     .lse = {},
                     .q = q,
                     .k = cache.k,
                     .v = cache.v,
                     .mask = {.causal = true, .lengths = cache.lengths, .starts = cache.starts}});
  return o;
}

}  // namespace omni
