#pragma once
// Attention and what prepares its operands.

#include "autograd/tape.h"
#include "kernels/attention/attention.h"

namespace omni {

struct Qkv {
  Tensor q, k, v;  // [batch, time, heads | kv_heads | kv_heads, head_dim]
};

// The angles that rotate queries and keys: cosine and sine [positions, head_dim / 2].
struct RopeAngles {
  ConstView cosine, sine;
};

// RMS-normalises and rotates the query and key heads of qkv [batch, time, (heads + 2 kv_heads) head_dim] and splits it.
// Positions count from 0. See kernels/qk_norm_rope.
Qkv qk_norm_rope(Tape& tape, const Tensor& qkv, Parameter& q_weight, Parameter& k_weight, const RopeAngles& angles,
                 std::int64_t heads, std::int64_t kv_heads, double eps);

// o = softmax(q k^T / sqrt(head_dim)) v   [batch, time, heads, head_dim]. See kernels/attention.
Tensor attention(Tape& tape, const Qkv& qkv, const AttentionMask& mask);

// The keys and values of earlier positions of one layer, for generation.
struct KeyValueCache {
  View k, v;          // [batch, capacity, kv_heads, head_dim]
  ConstView starts;   // i64 [batch]: positions that are filled
  ConstView lengths;  // i64 [batch]: positions that will be filled after this step, starts + time
};

// Both ops at once on a cache: rotates at the positions that follow the cached ones, appends keys and values, attends
// causally to all. No gradient.
Tensor cached_attention(Tape& tape, const Tensor& qkv, Parameter& q_weight, Parameter& k_weight, const RopeAngles& angles,
                        const KeyValueCache& cache, std::int64_t heads, double eps);

}  // namespace omni
