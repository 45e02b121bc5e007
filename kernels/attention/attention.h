#pragma once
// Scaled dot-product attention that never stores a [time, time] matrix (Dao, "FlashAttention-2", arXiv 2307.08691):
// scores are made block by block, with a running maximum and sum per query.

#include <cmath>

#include "kernels/instruction.h"

namespace omni {

// Which keys a query sees. Query i of sequence b stands at position starts[b] + i, key j at position j.
struct AttentionMask {
  bool causal = true;       // keys after the query's position are hidden
  std::int64_t window = 0;  // > 0: only keys closer than this many positions
  ConstView lengths = {};   // i64 [batch], optional: keys at and after lengths[b] are hidden
  ConstView starts = {};    // i64 [batch], optional: position of the first query, else 0
};

// o = softmax(q k^T / sqrt(head_dim)) v, per query head; query head h reads key-value head h / (heads / kv_heads).
//   o, q   [batch, queries, heads, head_dim]
//   k, v   [batch, keys, kv_heads, head_dim]      for a cache: keys is its capacity, lengths tells how many are filled
//   lse    [batch, heads, queries], optional      log of the sum of exponentials, for the backward pass; f32 (f64)
// One dtype: f32, bf16 (computed in f32; matrix units take the weights in bf16) or f64. A query that sees no key gives
// zeros.
struct Attention {
  static constexpr const char* name = "attention";
  static constexpr std::int64_t kMaxHeadDim = 128;
  View o;
  View lse = {};
  ConstView q, k, v;
  AttentionMask mask = {};

  std::int64_t batch() const { return q.shape[0]; }
  std::int64_t queries() const { return q.shape[1]; }
  std::int64_t heads() const { return q.shape[2]; }
  std::int64_t head_dim() const { return q.shape[3]; }
  std::int64_t keys() const { return k.shape[1]; }
  std::int64_t kv_heads() const { return k.shape[2]; }
  DType wide() const { return wide_of(q.dtype); }
  // Whether matrix units, where there are some, take the operands as they are: on the CPU and on a GPU alike, so that
  // both round the same.
  bool fits_matrix_units() const { return q.dtype == DType::bf16 && head_dim() % 16 == 0; }
  double score_scale() const { return 1 / std::sqrt(static_cast<double>(head_dim())); }

  void check(Check& that) const;
  Work work() const;
};

// The gradients, with p = exp(q k^T / sqrt(head_dim) - lse) made again block by block:
//   dv = p^T do,   ds = p * (do v^T - rowsum(do * o)),   dq = ds k / sqrt(head_dim),   dk = ds^T q / sqrt(head_dim)
// Shapes and dtypes as in the forward instruction; dq, dk and dv are overwritten. A group of query heads adds into its
// key-value head.
struct AttentionBackward {
  static constexpr const char* name = "attention_backward";
  View dq, dk, dv;
  ConstView do_, o, lse, q, k, v;  // do_: the gradient of o
  AttentionMask mask = {};

  Attention forward() const { return {.o = {}, .q = q, .k = k, .v = v, .mask = mask}; }
  void check(Check& that) const;
  Work work() const;
};

void run(const CpuContext&, const Attention&);
void run(const CpuContext&, const AttentionBackward&);
void run(const CudaContext&, const Attention&);
void run(const CudaContext&, const AttentionBackward&);

}  // namespace omni
