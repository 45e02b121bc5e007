#pragma once
// Dense matrix product, the instruction in which a training step spends nine tenths of its time.

#include "kernels/instruction.h"
#include "kernels/matmul/packed.h"

namespace omni {

// c = A B (+ bias) (+ c), with fp32 accumulation.
//   c      [m, n]
//   a      [m, k], or [k, m] with transpose_a      A is the m x k matrix that it stands for
//   b      [k, n], or [n, k] with transpose_b      B is the k x n matrix that it stands for
//   bias   [n], optional, f32 (f64 beside f64)
// On the CPU, with transpose_b, there may be beside b
//   b_scale   f32 [n], for b of i8 and a of f32: B^T is then row j of b times b_scale[j]
//   b_packed  for a and b of bf16, the same numbers packed (kernels/matmul/packed.h), read instead where a has few rows
// a, b of one dtype: f32, bf16 or f64; c of the same, or f32 beside bf16. Dimensions before the last are joined, so
// activations [batch, time, width] serve as [batch * time, width].
//
// A linear layer y = x W^T with W [out, in] and its gradients are
//   y  = Matmul{.c = y,  .a = x,  .b = W, .transpose_b = true}
//   dx = Matmul{.c = dx, .a = dy, .b = W}
//   dW = Matmul{.c = dW, .a = dy, .b = x, .transpose_a = true, .accumulate = ...}
struct Matmul {
  static constexpr const char* name = "matmul";
  // On the CPU so many rows of a share a pass over the weights; with more, oneDNN's product is faster.
  static constexpr std::int64_t kFewRows = 4;
  View c;
  ConstView a, b;
  ConstView bias = {}, b_scale = {};
  PackedMatrix b_packed = {};
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;

  std::int64_t m() const { return c.rows(); }
  std::int64_t n() const { return c.width(); }
  std::int64_t k() const { return transpose_a ? a.rows() : a.width(); }

  void check(Check& that) const {
    that.that(a && b && c, "operands a, b and c are all needed");
    that.matrix("c", c, c.dtype, m(), n());
    that.matrix("a", a, a.dtype, transpose_a ? k() : m(), transpose_a ? m() : k());
    that.matrix("b", b, b_scale ? DType::i8 : a.dtype, transpose_b ? n() : k(), transpose_b ? k() : n());
    that.that(c.dtype == a.dtype || (c.dtype == DType::f32 && a.dtype == DType::bf16),
              "c must have the dtype of a and b, or be f32 beside bf16");
    that.optional("b_scale", b_scale, DType::f32, {n()});
    that.that(!b_scale || (a.dtype == DType::f32 && transpose_b && !transpose_a && c.place != Place::cuda),
              "b of i8 needs a of f32, transpose_b and the CPU");
    that.that(!b_packed || (b.dtype == DType::bf16 && transpose_b && !transpose_a && c.place != Place::cuda &&
                            b_packed.rows == n() && b_packed.width == k()),
              "b_packed must be b of bf16, with transpose_b, on the CPU");
    that.optional("bias", bias, wide_of(a.dtype), {n()});
  }
  Work work() const {
    const std::int64_t b_bytes = b_packed && m() <= kFewRows ? b_packed.bytes() : b.bytes();
    return {.bytes = a.bytes() + b_bytes + c.bytes() * (accumulate ? 2 : 1) + bias.bytes() + b_scale.bytes(),
            .flops = 2 * m() * n() * k(),
            .unit = a.dtype};
  }
};

void run(const CpuContext&, const Matmul&);
void run(const CudaContext&, const Matmul&);

}  // namespace omni
