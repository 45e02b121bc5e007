#include "kernels/matmul/matvec.h"

#include <algorithm>

#include "kernels/matmul/packed_dots.h"

namespace omni {
namespace {

// Weight rows read side by side, far apart in memory: that many streams keep enough requests in flight to use the
// memory's bandwidth, where a single one waits for its latency.
constexpr int kColumns = 4;

// Weights as they are stored, and what multiplies them: A, a number of an activation row.
template <class T>
struct PlainDots {
  using A = float;
  const T* w;          // [n, k]
  const float* scale;  // [n] or null
  std::int64_t k;

  // The dot products of `rows` activation rows with `columns` rows of weights that lie `stride` rows apart.
  //   sums [rows, columns], x [rows, k]
  template <int rows, int columns>
  void dots(float* sums, const float* x, std::int64_t first, std::int64_t stride) const {
    constexpr std::int64_t lanes = Lanes<float>::count, line = 64 / static_cast<std::int64_t>(sizeof(T));
    const T* from = w + first * k;
    Vector<float> partial[rows][columns] = {};
    std::int64_t i = 0;
    while (i + lanes <= k) {
      for (int c = 0; c < columns; ++c) prefetch<rows>(from + c * stride * k + i);
      for (const std::int64_t end = std::min(i + line, k); i + lanes <= end; i += lanes) {
        Vector<float> weights[columns];
        for (int c = 0; c < columns; ++c) weights[c] = load_vector<float>(from + c * stride * k + i);
        for (int r = 0; r < rows; ++r) {
          const Vector<float> activations = load_vector<float>(x + r * k + i);
          for (int c = 0; c < columns; ++c) partial[r][c] += activations * weights[c];
        }
      }
    }
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) {
        float sum = sum_lanes<float>(partial[r][c]);
        for (std::int64_t tail = i; tail < k; ++tail) sum += x[r * k + tail] * to_float(from[c * stride * k + tail]);
        sums[r * columns + c] = scale ? sum * scale[first + c * stride] : sum;
      }
  }
};

template <class Weights, class C>
struct Matvec {
  using A = typename Weights::A;
  Weights weights;
  C* c;               // [m, n]
  const A* x;         // [m, weights.k]
  const float* bias;  // [n] or null
  std::int64_t m, n;
  bool accumulate;

  void run() const {
    const std::int64_t stride = n / kColumns;
#pragma omp parallel
    {
#pragma omp for schedule(static) nowait
      for (std::int64_t first = 0; first < stride; ++first) run_columns<kColumns>(first, stride);
#pragma omp for schedule(static)
      for (std::int64_t column = stride * kColumns; column < n; ++column) run_columns<1>(column, 1);
    }
  }

 private:
  // Columns first, first + stride, ... of all rows. What the first kFewRows have read of w is in cache for the others.
  template <int columns>
  void run_columns(std::int64_t first, std::int64_t stride) const {
    constexpr int kMost = static_cast<int>(Matmul::kFewRows);
    std::int64_t row = 0;
    for (; row + kMost <= m; row += kMost) run_rows<kMost, columns>(row, first, stride);
    if (m - row == 3) run_rows<3, columns>(row, first, stride);
    if (m - row == 2) run_rows<2, columns>(row, first, stride);
    if (m - row == 1) run_rows<1, columns>(row, first, stride);
  }

  template <int rows, int columns>
  void run_rows(std::int64_t row, std::int64_t first, std::int64_t stride) const {
    float sums[rows * columns];
    weights.template dots<rows, columns>(sums, x + row * weights.k, first, stride);
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < columns; ++i) {
        const std::int64_t column = first + i * stride;
        C& out = c[(row + r) * n + column];
        float sum = sums[r * columns + i];
        if (bias) sum += bias[column];
        if (accumulate) sum += to_float(out);
        out = round_to<C>(sum);
      }
  }
};

// The activations in the type that the weights want, each row `width` wide with zeros at its end.
template <class To, class From>
const To* converted(const CpuContext& cpu, const From* a, std::int64_t m, std::int64_t k, std::int64_t width) {
  if constexpr (std::is_same_v<To, From>)
    if (k == width) return a;
  To* out = cpu.scratch<To>(1, m * width).data;  // [m, width]
  for (std::int64_t row = 0; row < m; ++row) {
    std::fill_n(out + row * width + k, width - k, To{});
    for (std::int64_t i = 0; i < k; ++i) out[row * width + i] = round_to<To>(to_float(a[row * k + i]));
  }
  return out;
}

template <class A, class C, class Weights>
void run_typed(const CpuContext& cpu, const Matmul& op, const Weights& weights) {
  const auto* x = converted<typename Weights::A>(cpu, op.a.as<A>(), op.m(), op.k(), weights.k);
  Matvec<Weights, C>{weights, op.c.as<C>(), x, op.bias.as<float>(), op.m(), op.n(), op.accumulate}.run();
}

template <class A, class C>
void run_plain(const CpuContext& cpu, const Matmul& op) {
  run_typed<A, C>(cpu, op, PlainDots<A>{op.b.as<A>(), nullptr, op.k()});
}

}  // namespace

bool prefers_matvec(const Matmul& op) {
  return op.b.dtype == DType::i8 || (op.m() <= Matmul::kFewRows && op.transpose_b && !op.transpose_a);
}

void matvec(const CpuContext& cpu, const Matmul& op) {
  const bool to_f32 = op.c.dtype == DType::f32;
  if (op.b.dtype == DType::i8)
    return run_typed<float, float>(cpu, op,
                                   PlainDots<std::int8_t>{op.b.as<std::int8_t>(), op.b_scale.as<float>(), op.k()});
  if (op.a.dtype == DType::f32) return run_plain<float, float>(cpu, op);
  if (op.b_packed) {
    const PackedDots packed{op.b_packed, op.b_packed.blocks() * PackedMatrix::kBlock};
    return to_f32 ? run_typed<bf16, float>(cpu, op, packed) : run_typed<bf16, bf16>(cpu, op, packed);
  }
  to_f32 ? run_plain<bf16, float>(cpu, op) : run_plain<bf16, bf16>(cpu, op);
}

}  // namespace omni
