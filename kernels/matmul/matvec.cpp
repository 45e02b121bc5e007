#include "kernels/matmul/matvec.h"

#include "kernels/vector.h"

namespace omni {
namespace {

constexpr int kMaxRows = 4;
// Weight rows read side by side, far apart in memory: that many streams keep enough requests in flight to use the
// memory's bandwidth, where a single one waits for its latency.
constexpr int kColumns = 4;

// The dot products of `rows` activation rows with `columns` rows of weights that lie `stride` rows apart.
//   sums [rows, columns], x [rows, k], w [.., k]
template <class T, int rows, int columns>
void dots(float* sums, const float* x, const T* w, std::int64_t stride, std::int64_t k) {
  constexpr std::int64_t lanes = Lanes<float>::count;
  Vector<float> partial[rows][columns] = {};
  std::int64_t i = 0;
  for (; i + lanes <= k; i += lanes) {
    Vector<float> weights[columns];
    for (int c = 0; c < columns; ++c) weights[c] = load_vector<float>(w + c * stride * k + i);
    for (int r = 0; r < rows; ++r) {
      const Vector<float> activations = load_vector<float>(x + r * k + i);
      for (int c = 0; c < columns; ++c) partial[r][c] += activations * weights[c];
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      float sum = sum_lanes<float>(partial[r][c]);
      for (std::int64_t tail = i; tail < k; ++tail) sum += x[r * k + tail] * to_float(w[c * stride * k + tail]);
      sums[r * columns + c] = sum;
    }
}

template <class T, class C>
struct Matvec {
  C* c;                // [m, n]
  const float* x;      // [m, k]
  const T* w;          // [n, k]
  const float* scale;  // [n] or null
  const float* bias;   // [n] or null
  std::int64_t m, n, k;
  bool accumulate;

  // Columns first, first + stride, ... of all rows. What the first kMaxRows have read of w is in cache for the others.
  template <int columns>
  void run(std::int64_t first, std::int64_t stride) const {
    std::int64_t row = 0;
    for (; row + kMaxRows <= m; row += kMaxRows) run_rows<kMaxRows, columns>(row, first, stride);
    if (m - row == 3) run_rows<3, columns>(row, first, stride);
    if (m - row == 2) run_rows<2, columns>(row, first, stride);
    if (m - row == 1) run_rows<1, columns>(row, first, stride);
  }

 private:
  template <int rows, int columns>
  void run_rows(std::int64_t row, std::int64_t first, std::int64_t stride) const {
    float sums[rows * columns];
    dots<T, rows, columns>(sums, x + row * k, w + first * k, stride, k);
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < columns; ++i) {
        const std::int64_t column = first + i * stride;
        C& out = c[(row + r) * n + column];
        float sum = sums[r * columns + i];
        if (scale) sum *= scale[column];
        if (bias) sum += bias[column];
        if (accumulate) sum += to_float(out);
        out = round_to<C>(sum);
      }
  }
};

template <class A, class T, class C>
void matvec_typed(const CpuContext& cpu, const Matmul& op) {
  const std::int64_t m = op.m(), n = op.n(), k = op.k();
  const A* a = op.a.as<A>();
  const float* x = op.a.dtype == DType::f32 ? op.a.as<float>() : nullptr;
  if constexpr (!std::is_same_v<A, float>) {
    float* widened = cpu.scratch<float>(1, m * k).data;  // [m, k], once
    for (std::int64_t i = 0; i < m * k; ++i) widened[i] = to_float(a[i]);
    x = widened;
  }
  const Matvec<T, C> product{op.c.as<C>(), x, op.b.as<T>(), op.b_scale.as<float>(), op.bias.as<float>(), m, n, k,
                             op.accumulate};
  const std::int64_t stride = n / kColumns;
#pragma omp parallel
  {
#pragma omp for schedule(static) nowait
    for (std::int64_t first = 0; first < stride; ++first) product.template run<kColumns>(first, stride);
#pragma omp for schedule(static)
    for (std::int64_t column = stride * kColumns; column < n; ++column) product.template run<1>(column, 1);
  }
}

}  // namespace

bool prefers_matvec(const Matmul& op) {
  return op.b.dtype == DType::i8 || (op.m() <= kMaxRows && op.transpose_b && !op.transpose_a);
}

void matvec(const CpuContext& cpu, const Matmul& op) {
  if (op.b.dtype == DType::i8) return matvec_typed<float, std::int8_t, float>(cpu, op);
  if (op.a.dtype == DType::f32) return matvec_typed<float, float, float>(cpu, op);
  if (op.c.dtype == DType::f32) return matvec_typed<bf16, bf16, float>(cpu, op);
  matvec_typed<bf16, bf16, bf16>(cpu, op);
}

}  // namespace omni
