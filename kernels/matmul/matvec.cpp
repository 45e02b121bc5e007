#include "kernels/matmul/matvec.h"

#include "kernels/vector.h"

namespace omni {
namespace {

constexpr std::int64_t kMaxRows = 4;
// Weight rows read side by side, far apart in memory: that many streams keep enough requests in flight to use the
// memory's bandwidth, where a single one waits for its latency.
constexpr std::int64_t kColumns = 4;

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

template <class T, class C, int rows>
void matvec_rows(C* c, const float* x, const T* w, const float* bias, std::int64_t n, std::int64_t k, bool accumulate) {
  const auto store = [&](int r, std::int64_t column, float sum) {
    C& out = c[r * n + column];
    if (bias) sum += bias[column];
    if (accumulate) sum += to_float(out);
    out = round_to<C>(sum);
  };
  const std::int64_t stride = n / kColumns;
#pragma omp parallel
  {
#pragma omp for schedule(static) nowait
    for (std::int64_t first = 0; first < stride; ++first) {
      float sums[rows * kColumns];
      dots<T, rows, kColumns>(sums, x, w + first * k, stride, k);
      for (int r = 0; r < rows; ++r)
        for (std::int64_t column = 0; column < kColumns; ++column)
          store(r, first + column * stride, sums[r * kColumns + column]);
    }
#pragma omp for schedule(static)
    for (std::int64_t column = stride * kColumns; column < n; ++column) {
      float sums[rows];
      dots<T, rows, 1>(sums, x, w + column * k, 1, k);
      for (int r = 0; r < rows; ++r) store(r, column, sums[r]);
    }
  }
}

template <class T, class C>
void matvec_typed(const CpuContext& cpu, const Matmul& op) {
  const std::int64_t m = op.m(), n = op.n(), k = op.k();
  const T* a = op.a.as<T>();
  float* x = cpu.scratch<float>(1, m * k).data;  // [m, k], widened once
  for (std::int64_t i = 0; i < m * k; ++i) x[i] = to_float(a[i]);
  const auto call = [&]<int rows>() {
    matvec_rows<T, C, rows>(op.c.as<C>(), x, op.b.as<T>(), op.bias.as<float>(), n, k, op.accumulate);
  };
  switch (m) {
    case 1:
      return call.template operator()<1>();
    case 2:
      return call.template operator()<2>();
    case 3:
      return call.template operator()<3>();
    default:
      return call.template operator()<4>();
  }
}

}  // namespace

bool prefers_matvec(const Matmul& op) { return op.m() <= kMaxRows && op.transpose_b && !op.transpose_a; }

void matvec(const CpuContext& cpu, const Matmul& op) {
  if (op.a.dtype == DType::f32) return matvec_typed<float, float>(cpu, op);
  if (op.c.dtype == DType::f32) return matvec_typed<bf16, float>(cpu, op);
  matvec_typed<bf16, bf16>(cpu, op);
}

}  // namespace omni
