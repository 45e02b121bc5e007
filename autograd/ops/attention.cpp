#include "autograd/ops/attention.h"

#include "kernels/qk_norm_rope/qk_norm_rope.h"

namespace omni {

Tensor self_attention(Tape& tape, const Tensor& qkv, Parameter& q_weight, Parameter& k_weight, const RopeAngles& angles,
                      const AttentionShape& shape, const AttentionMask& mask) {
  const std::int64_t batch = qkv.shape[0], time = qkv.shape[1], head_dim = q_weight.value.count();
  const Shape q_shape{batch, time, shape.heads, head_dim}, kv_shape{batch, time, shape.kv_heads, head_dim};
  const auto split = [=, q_weight = &q_weight, k_weight = &k_weight](const View& q, const View& k, const View& v) {
    return QkNormRope{.q = q,
                      .k = k,
                      .v = v,
                      .qkv = qkv,
                      .q_weight = *q_weight,
                      .k_weight = *k_weight,
                      .cosine = angles.cosine,
                      .sine = angles.sine,
                      .eps = shape.eps};
  };
  Tensor o = tape.empty(qkv.dtype, q_shape);
  const Tensor lse = tape.constant(wide_of(qkv.dtype), {batch, shape.heads, time});
  const View q = tape.borrow(qkv.dtype, q_shape), k = tape.borrow(qkv.dtype, kv_shape),
             v = tape.borrow(qkv.dtype, kv_shape);
  tape.run(split(q, k, v));
  tape.run(Attention{.o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = mask});
  for (const View& view : {q, k, v}) tape.give_back(view);

  tape.on_backward([=, q_weight = &q_weight, k_weight = &k_weight](Gradients& d) {
    const View q = d.scratch(qkv.dtype, q_shape), k = d.scratch(qkv.dtype, kv_shape),
               v = d.scratch(qkv.dtype, kv_shape);
    const View dq = d.scratch(qkv.dtype, q_shape), dk = d.scratch(qkv.dtype, kv_shape),
               dv = d.scratch(qkv.dtype, kv_shape);
    d.run(split(q, k, v));
    d.run(AttentionBackward{
        .dq = dq, .dk = dk, .dv = dv, .do_ = d[o], .o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = mask});
    const ParameterGradient dq_weight = d[*q_weight], dk_weight = d[*k_weight];
    d.run(QkNormRopeBackward{.dqkv = d[qkv],
                             .dq_weight = dq_weight.view,
                             .dk_weight = dk_weight.view,
                             .dq = dq,
                             .dk = dk,
                             .dv = dv,
                             .qkv = qkv,
                             .q_weight = *q_weight,
                             .k_weight = *k_weight,
                             .cosine = angles.cosine,
                             .sine = angles.sine,
                             .eps = shape.eps,
                             .accumulate = dq_weight.accumulate});
  });
  return Tape::reshaped(o, {batch, time, shape.heads * head_dim});
}

Tensor cached_attention(Tape& tape, const Tensor& qkv, Parameter& q_weight, Parameter& k_weight,
                        const RopeAngles& angles, const AttentionShape& shape, const KeyValueCache& cache) {
  const std::int64_t head_dim = q_weight.value.count();
  const Tensor q = tape.empty(qkv.dtype, {qkv.shape[0], qkv.shape[1], shape.heads, head_dim});
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
                      .eps = shape.eps,
                      .into_cache = true});
  tape.run(Attention{.o = o,
                     .q = q,
                     .k = cache.k,
                     .v = cache.v,
                     .mask = {.causal = true, .lengths = cache.lengths, .starts = cache.starts}});
  return Tape::reshaped(o, {qkv.shape[0], qkv.shape[1], shape.heads * head_dim});
}

}  // namespace omni
