#pragma once
// Attention and what prepares its operands.

#include "autograd/tape.h"
#include "kernels/attention/attention.h"

namespace omni {

// The angles that rotate queries and keys: cosine and sine [positions, head_dim / 2].
struct RopeAngles {
  ConstView cosine, sine;
};

// What distinguishes the attention layers of a model.
struct AttentionShape {
  std::int64_t heads, kv_heads;
  double eps;  // of the q and k norms
};

// o = softmax(q k^T / sqrt(head_dim)) v with q, k, v from qkv [batch, time, (heads + 2 kv_heads) head_dim]: every query
// and key head is RMS-normalised and rotated to its position, counted from 0. o [batch, time, heads * head_dim]. See
// kernels/qk_norm_rope and kernels/attention. q, k and v are not kept: the backward pass makes them again from qkv.
Tensor self_attention(Tape& tape, const Tensor& qkv, Parameter& q_weight, Parameter& k_weight, const RopeAngles& angles,
                      const AttentionShape& shape, const AttentionMask& mask = {});

// The keys and values of earlier positions of one layer, for generation.
struct KeyValueCache {
  View k, v;          // [batch, capacity, kv_heads, head_dim]
  ConstView starts;   // i64 [batch]: positions that are filled
  ConstView lengths;  // i64 [batch]: positions that will be filled after this step, starts + time
};

// The same on a cache: rotates to the positions that follow the cached ones, appends keys and values, attends causally
// to all. No gradient.
Tensor cached_attention(Tape& tape, const Tensor& qkv, Parameter& q_weight, Parameter& k_weight,
                        const RopeAngles& angles, const AttentionShape& shape, const KeyValueCache& cache);

}  // namespace omni
