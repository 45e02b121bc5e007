#include <algorithm>

#include "kernels/moe/moe.h"

namespace omni {
namespace {

// y[r] = sum_k weight[r, k] x[slot[r, k]]; a weight of one where there are none.
template <class T>
void weighted_sum(const View& y, const ConstView& x, const ConstView& slots, const ConstView& weights) {
  using W = Wide<T>;
  const std::int64_t width = y.width(), top_k = slots.width();
  const std::int64_t* slot = slots.as<std::int64_t>();
  const W* weight = weights.as<W>();
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < y.rows(); ++row) {
    T* out = y.as<T>() + row * width;
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d) {
      W sum = 0;
      for (std::int64_t k = 0; k < top_k; ++k)
        sum += (weight ? weight[row * top_k + k] : W{1}) * to_float(x.as<T>()[slot[row * top_k + k] * width + d]);
      out[d] = round_to<T>(sum);
    }
  }
}

template <class T>
void combine_backward(const MoeCombineBackward& op) {
  using W = Wide<T>;
  const std::int64_t width = op.dy.width(), top_k = op.weight.width(), slots = op.slot.count();
  const std::int64_t* slot = op.slot.as<std::int64_t>();
  std::fill_n(op.dx.as<T>(), op.dx.count(), T{});
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < slots; ++i) {
    const T *dy = op.dy.as<T>() + i / top_k * width, *x = op.x.as<T>() + slot[i] * width;
    T* dx = op.dx.as<T>() + slot[i] * width;
    const W weight = op.weight.as<W>()[i];
    W dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t d = 0; d < width; ++d) {
      dx[d] = round_to<T>(weight * to_float(dy[d]));
      dot += to_float(dy[d]) * to_float(x[d]);
    }
    op.dweight.as<W>()[i] = dot;
  }
}

}  // namespace

void MoeGatherBackward::check(Check& that) const {
  that.same("dy", dy);
  that.matrix("dx", dx, dy.dtype, slot.rows(), dy.width());
  that.operand("slot", slot, DType::i64, slot.shape);
}

void MoeCombine::check(Check& that) const {
  that.same("x", x);
  that.same("weight", weight);
  that.matrix("y", y, x.dtype, slot.rows(), x.width());
  that.matrix("slot", slot, DType::i64, weight.rows(), weight.width());
}

void MoeCombineBackward::check(Check& that) const {
  that.same("dx, x", dx, x);
  that.same("weight", weight);
  that.matrix("dy", dy, x.dtype, slot.rows(), x.width());
  that.matrix("slot", slot, DType::i64, weight.rows(), weight.width());
  that.matrix("dweight", dweight, weight.dtype, weight.rows(), weight.width());
}

void run(const CpuContext&, const MoeGatherBackward& op) {
  dispatch(op.dx.dtype, [&]<class T>() { weighted_sum<T>(op.dx, op.dy, op.slot, {}); });
}

void run(const CpuContext&, const MoeCombine& op) {
  dispatch(op.y.dtype, [&]<class T>() { weighted_sum<T>(op.y, op.x, op.slot, op.weight); });
}

void run(const CpuContext&, const MoeCombineBackward& op) {
  dispatch(op.dx.dtype, [&]<class T>() { combine_backward<T>(op); });
}

}  // namespace omni
