#pragma once
// What stands between the fused q/k/v projection and attention: RMS normalisation of every query and key head, rotary
// position embedding, and the split into three operands, in one pass over memory.

#include "kernels/instruction.h"

namespace omni {

// For every query head x of qkv, with n = x / sqrt(mean(x^2) + eps) * q_weight and halves n1, n2:
//   q1 = n1 cos - n2 sin,   q2 = n2 cos + n1 sin      (half rotation; Su et al., "RoFormer", arXiv 2104.09864)
// Keys likewise with k_weight. v is copied.
//   q          [batch, time, heads, head_dim]
//   k, v       [batch, capacity, kv_heads, head_dim]; capacity is time, or any more with into_cache
//   qkv        [batch, time, (heads + 2 kv_heads) head_dim]: all query heads, then keys, then values
//   weights    [head_dim], f32 (f64)
//   cosine, sine   [positions, head_dim / 2], f32 (f64): the angles of position p in row p (models/rope.h)
//   starts     i64 [batch], optional: position of the first time step of each sequence, else 0. Positions must lie
//              inside the tables and the cache, which is not checked for starts in GPU memory.
// With into_cache, k and v of position p are written at time p of their operand and the rest of it stays as it is.
struct QkNormRope {
  static constexpr const char* name = "qk_norm_rope";
  View q, k, v;
  ConstView qkv, q_weight, k_weight, cosine, sine;
  ConstView starts = {};
  double eps = 1e-6;
  bool into_cache = false;

  void check(Check& that) const;
  Work work() const { return {.bytes = 2 * qkv.bytes(), .flops = 10 * qkv.count()}; }
};

// The mirror of QkNormRope without a cache. Parameter gradients follow `accumulate`.
struct QkNormRopeBackward {
  static constexpr const char* name = "qk_norm_rope_backward";
  View dqkv, dq_weight, dk_weight;
  ConstView dq, dk, dv, qkv, q_weight, k_weight, cosine, sine;
  ConstView starts = {};
  double eps = 1e-6;
  bool accumulate = false;

  void check(Check& that) const;
  Work work() const { return {.bytes = 3 * qkv.bytes(), .flops = 20 * qkv.count()}; }
};

void run(const CpuContext&, const QkNormRope&);
void run(const CpuContext&, const QkNormRopeBackward&);
void run(const CudaContext&, const QkNormRope&);
void run(const CudaContext&, const QkNormRopeBackward&);

}  // namespace omni
