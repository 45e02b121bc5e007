#pragma once
// A mixture of experts in five instructions: route tokens, gather their rows expert by expert, multiply each expert's
// rows with its own weights, combine the results (Fedus et al., "Switch Transformers", arXiv 2101.03961, for the
// balancing loss).
//
// Sorted order: the rows of expert 0, then of expert 1, ... Each expert's segment starts at a multiple of `alignment`
// rows and is padded with zero rows, so that segments have few different sizes. All shapes follow from rows, experts
// and top_k alone: no device needs to tell the host how many tokens an expert got.

#include "kernels/instruction.h"
#include "kernels/matmul/matmul.h"
#include "kernels/rounding.h"

namespace omni {

// Rows to which segments are aligned, and rows of a sorted buffer, for `slots` = rows * top_k routed rows.
constexpr std::int64_t moe_alignment(std::int64_t slots) { return slots < 256 ? 1 : 32; }
constexpr std::int64_t moe_capacity(std::int64_t slots, std::int64_t experts) {
  const std::int64_t unit = moe_alignment(slots);
  return round_up(slots + experts * (unit - 1), unit);
}

// p = softmax(logits); each row takes its top_k largest p (ties: the lower expert) as weights, divided by (their sum +
// 1e-20) if normalize. aux_loss = coefficient * experts * sum_e f_e mean(p_e), f_e = slots of expert e / rows.
//   logits        [rows, experts]
//   probability   [rows, experts], f32 (f64)      weight   [rows, top_k], f32 (f64)
//   expert, slot  i64 [rows, top_k]: the expert, and the row of the sorted buffer that belongs to it
//   source        i64 [capacity]: the row that each sorted row comes from, -1 for padding
//   offset        i64 [experts + 1]: where segments start; the last one ends the last segment
//   aux_loss      f32 (f64) [1], optional
struct MoeRoute {
  static constexpr const char* name = "moe_route";
  View probability, weight, expert, slot, source, offset, aux_loss;
  ConstView logits;
  bool normalize = true;
  double coefficient = 0;

  std::int64_t rows() const { return logits.rows(); }
  std::int64_t experts() const { return logits.width(); }
  std::int64_t top_k() const { return weight.width(); }
  void check(Check& that) const;
  Work work() const {
    return {
        .bytes = logits.bytes() + probability.bytes() + weight.bytes() + expert.bytes() + slot.bytes() + source.bytes(),
        .flops = 10 * logits.count()};
  }
};

// dlogits from the gradients of the weights and of the balancing loss (f_e counts as constant).
struct MoeRouteBackward {
  static constexpr const char* name = "moe_route_backward";
  static constexpr std::int64_t kMaxExperts = 256;
  View dlogits;
  ConstView dweight, daux_loss;  // each may be absent
  ConstView probability, weight, expert;
  bool normalize = true;
  double coefficient = 0;

  void check(Check& that) const;
  Work work() const { return {.bytes = dlogits.bytes() + 2 * probability.bytes(), .flops = 10 * dlogits.count()}; }
};

// The gradient of GatherRows by `source`: dx[r] = sum_k dy[slot[r, k]].   dx [rows, width], dy [capacity, width]
struct MoeGatherBackward {
  static constexpr const char* name = "moe_gather_backward";
  View dx;
  ConstView dy, slot;

  void check(Check& that) const;
  Work work() const { return {.bytes = dx.bytes() + dy.bytes() + slot.bytes(), .flops = dy.count()}; }
};

// For each expert e and its rows: c = a W_e^T, or c = a W_e without transpose_b. Rows of c past the last segment keep
// what they hold.
//   c [capacity, n], a [capacity, k], b [experts * n, k] (without transpose_b: [experts * k, n]), offset i64 [experts +
//   1]; b_scale f32 [experts * n], b_packed as in Matmul
struct GroupedMatmul {
  static constexpr const char* name = "grouped_matmul";
  View c;
  ConstView a, b, offset;
  ConstView b_scale = {};
  PackedMatrix b_packed = {};
  bool transpose_b = true;

  std::int64_t experts() const { return offset.count() - 1; }
  void check(Check& that) const;
  Work work() const {
    const std::int64_t b_bytes = b_packed && a.rows() <= experts() * Matmul::kFewRows ? b_packed.bytes() : b.bytes();
    return {.bytes = a.bytes() + b_bytes + b_scale.bytes() + c.bytes(),
            .flops = 2 * c.count() * a.width(),
            .unit = a.dtype};
  }
};

// For each expert e and its rows: dw_e = dy^T x.   dw [experts * n, k], dy [capacity, n], x [capacity, k]
// dw is f32 beside bf16, else of their dtype. An expert without rows gets zeros (or keeps what it has with accumulate).
struct GroupedMatmulWeightGradient {
  static constexpr const char* name = "grouped_matmul_weight_gradient";
  View dw;
  ConstView dy, x, offset;
  bool accumulate = false;

  std::int64_t experts() const { return offset.count() - 1; }
  void check(Check& that) const;
  Work work() const {
    return {.bytes = dy.bytes() + x.bytes() + dw.bytes(), .flops = 2 * dy.count() * x.width(), .unit = x.dtype};
  }
};

// y[r] = sum_k weight[r, k] x[slot[r, k]].   y [rows, width], x [capacity, width]
struct MoeCombine {
  static constexpr const char* name = "moe_combine";
  View y;
  ConstView x, weight, slot;

  void check(Check& that) const;
  Work work() const { return {.bytes = y.bytes() + x.bytes() + weight.bytes() + slot.bytes(), .flops = 2 * x.count()}; }
};

// dx[slot[r, k]] = weight[r, k] dy[r], zero in padding rows;   dweight[r, k] = dy[r] . x[slot[r, k]]
struct MoeCombineBackward {
  static constexpr const char* name = "moe_combine_backward";
  View dx, dweight;
  ConstView dy, x, weight, slot;

  void check(Check& that) const;
  Work work() const { return {.bytes = 2 * dx.bytes() + dy.bytes(), .flops = 3 * dx.count()}; }
};

void run(const CpuContext&, const MoeRoute&);
void run(const CpuContext&, const MoeRouteBackward&);
void run(const CpuContext&, const MoeGatherBackward&);
void run(const CpuContext&, const GroupedMatmul&);
void run(const CpuContext&, const GroupedMatmulWeightGradient&);
void run(const CpuContext&, const MoeCombine&);
void run(const CpuContext&, const MoeCombineBackward&);
void run(const CudaContext&, const MoeRoute&);
void run(const CudaContext&, const MoeRouteBackward&);
void run(const CudaContext&, const MoeGatherBackward&);
void run(const CudaContext&, const GroupedMatmul&);
void run(const CudaContext&, const GroupedMatmulWeightGradient&);
void run(const CudaContext&, const MoeCombine&);
void run(const CudaContext&, const MoeCombineBackward&);

}  // namespace omni
