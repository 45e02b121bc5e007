#pragma once
// The softmax of a block of queries on the CPU, made while blocks of keys go by (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", arXiv 1805.02867).

#include <cmath>
#include <limits>

#include "kernels/attention/mask.h"
#include "kernels/rounding.h"
#include "kernels/simd.h"
#include "kernels/vector.h"

namespace omni {

// What a query has seen: the largest score q k, and the sum of exp(scale (score - maximum)).
template <class W>
struct SoftmaxState {
  W maximum = -std::numeric_limits<W>::infinity(), sum = 0;
};

// The columns [begin, end) and those around them that share a vector with one. Loops go over whole vectors and set to
// zero what is masked: what is left beside vectors would be done one by one, at a vector's cost each.
template <class W>
IndexRange whole_vectors(std::int64_t begin, std::int64_t end, std::int64_t columns) {
  constexpr std::int64_t lanes = Lanes<W>::count;
  if (begin >= end) return {columns, columns};
  return {begin / lanes * lanes, std::min(round_up(end, lanes), columns)};
}

// The scores [columns] of one query's next keys, of which it sees [begin, end), become exp(scale (score - maximum)),
// zero where masked; its earlier sums, in state and in o [width], are brought to the new maximum.
template <class W>
void softmax_row(W* scores, W scale, std::int64_t begin, std::int64_t end, std::int64_t columns, SoftmaxState<W>& state,
                 W* o, std::int64_t width) {
  const IndexRange whole = whole_vectors<W>(begin, end, columns);
  std::fill(scores, scores + whole.begin, W{0});
  std::fill(scores + whole.end, scores + columns, W{0});
  if (begin >= end) return;
  W maximum = state.maximum, sum = 0;
#pragma omp simd reduction(max : maximum)
  for (std::int64_t j = whole.begin; j < whole.end; ++j)
    maximum = std::max(maximum, j >= begin && j < end ? scores[j] : -std::numeric_limits<W>::infinity());
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = whole.begin; j < whole.end; ++j) {
    const W weight = fast_exp((scores[j] - maximum) * scale);
    scores[j] = j >= begin && j < end ? weight : 0;
    sum += scores[j];
  }
  const W correction = fast_exp((state.maximum - maximum) * scale);
  state.sum = state.sum * correction + sum;
  state.maximum = maximum;
  if (correction != 1) {
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d) o[d] *= correction;
  }
}

// Divides a query's sum of p v, o [head_dim], by its sum of p and writes it to op.o and op.lse.
template <class T, class W>
void write_query(const Attention& op, std::int64_t b, std::int64_t head, std::int64_t query,
                 const SoftmaxState<W>& state, const W* o) {
  const W inverse = state.sum > 0 ? 1 / state.sum : (state.sum == 0 ? W{0} : state.sum);
  T* to = op.o.as<T>() + ((b * op.queries() + query) * op.heads() + head) * op.head_dim();
  for (std::int64_t d = 0; d < op.head_dim(); ++d) to[d] = round_to<T>(o[d] * inverse);
  if (!op.lse) return;
  op.lse.as<W>()[(b * op.heads() + head) * op.queries() + query] =
      state.maximum * static_cast<W>(op.score_scale()) + std::log(state.sum);
}

}  // namespace omni
