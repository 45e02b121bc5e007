#pragma once
// What attention_ladder runs its versions on: sizes, operands, the formula in double as a judge, and a clock.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "kernels/instruction.h"

namespace omni::ladder {

inline constexpr int kHeadDim = 96;

// Everywhere below: q and o are [batch, time, heads, kHeadDim], k and v [batch, time, kv_heads, kHeadDim], and query
// head h reads key-value head h / (heads / kv_heads).
struct Sizes {
  int batch, time, heads, kv_heads;

  constexpr int rows() const { return batch * heads * time; }
  // From a time to the next, in values.
  constexpr int query_stride() const { return heads * kHeadDim; }
  constexpr int key_stride() const { return kv_heads * kHeadDim; }
  // Where the row of a sequence, a time and a query head begins.
  constexpr std::int64_t query_row(int b, int i, int head) const {
    return (std::int64_t{b} * time + i) * query_stride() + head * kHeadDim;
  }
  constexpr std::int64_t key_row(int b, int j, int head) const {
    return (std::int64_t{b} * time + j) * key_stride() + head / (heads / kv_heads) * kHeadDim;
  }
  constexpr float scale() const { return 0.10206207261596577f; }  // 1 / sqrt(kHeadDim)
};

template <class T>
struct Operands {
  T* o;
  const T *q, *k, *v;
};

// One shape, with operands of normal values. They are rounded to bf16, so that versions of both dtypes get the same.
struct Problem {
  Sizes size;
  std::vector<float> q, k, v;

  explicit Problem(const Sizes& sizes)
      : size(sizes),
        q(values(1, sizes.query_stride())),
        k(values(2, sizes.key_stride())),
        v(values(3, sizes.key_stride())) {}

  // The row of o that begins at query_row(b, i, head), by the formula in double.
  std::vector<double> expected_row(int b, int i, int head) const {
    std::vector<double> weights, out(kHeadDim);
    for (int j = 0; j <= i; ++j) {
      const float *query = q.data() + size.query_row(b, i, head), *key = k.data() + size.key_row(b, j, head);
      weights.push_back(std::inner_product(query, query + kHeadDim, key, 0.) / std::sqrt(double{kHeadDim}));
    }
    const double maximum = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& x : weights) sum += x = std::exp(x - maximum);
    for (int j = 0; j <= i; ++j) {
      const float* value = v.data() + size.key_row(b, j, head);
      for (int d = 0; d < kHeadDim; ++d) out[d] += weights[j] / sum * value[d];
    }
    return out;
  }

 private:
  std::vector<float> values(unsigned seed, int stride) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> out(static_cast<std::size_t>(size.batch * size.time) * static_cast<std::size_t>(stride));
    for (float& x : out) x = to_float(round_to<bf16>(normal(random)));
    return out;
  }
};

// How far off a result may be, relative to the larger of 1 and the value: a rounding to its dtype (in bf16 a second
// one, of the weights), and the rounding errors of f32 sums, which grow like the square root of their length.
inline double tolerance(DType dtype, int time) {
  const double rounding = dtype == DType::bf16 ? 2 * 0x1p-8 : 0x1p-24;
  return rounding + 16 * 0x1p-24 * std::sqrt(static_cast<double>(kHeadDim + time));
}

// The largest error of o as a fraction of the tolerance; infinite where a value is not finite. Looks at all rows of a
// small problem and at some 4096 of a large one.
inline double worst_error(const Problem& problem, const std::vector<float>& o, DType dtype) {
  const Sizes& size = problem.size;
  double worst = 0;
  for (int row = 0; row < size.rows(); row += size.rows() / 4096 | 1) {  // an odd step, which meets all heads
    const int head = row % size.heads, i = row / size.heads % size.time, b = row / size.heads / size.time;
    const std::vector<double> expected = problem.expected_row(b, i, head);
    const float* actual = o.data() + size.query_row(b, i, head);
    for (int d = 0; d < kHeadDim; ++d) {
      const double error = std::fabs(actual[d] - expected[d]) / std::fmax(1, std::fabs(expected[d]));
      worst = std::isfinite(error) ? std::fmax(worst, error) : INFINITY;
      if (std::isinf(worst)) return worst;
    }
  }
  return worst / tolerance(dtype, size.time);
}

template <class T>
Buffer upload(const std::vector<float>& values) {
  std::vector<T> rounded;
  for (const float x : values) rounded.push_back(round_to<T>(x));
  Buffer out(rounded.size() * sizeof(T), MemoryKind::cuda);
  check_cuda(cudaMemcpy(out.data(), rounded.data(), out.bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  return out;
}

struct Result {
  double error;        // worst_error()
  float milliseconds;  // of the fastest run
};

template <class T>
Result run_version(const Problem& problem, void (*launch)(const CudaContext&, const Sizes&, const Operands<T>&),
                   int repeat) {
  const Buffer q = upload<T>(problem.q), k = upload<T>(problem.k), v = upload<T>(problem.v),
               o(q.bytes(), MemoryKind::cuda);
  check_cuda(cudaMemset(o.data(), 0xff, o.bytes()), "cudaMemset");  // NaN, so that a value which is not written is seen
  const auto at = [](const Buffer& buffer) { return reinterpret_cast<T*>(buffer.data()); };
  Workspace workspace(MemoryKind::cuda);
  CudaContext cuda{.workspace = &workspace};
  check_cuda(cudaDeviceGetAttribute(&cuda.multiprocessors, cudaDevAttrMultiProcessorCount, 0),
             "cudaDeviceGetAttribute");
  cudaEvent_t begin, end;
  for (cudaEvent_t* event : {&begin, &end}) check_cuda(cudaEventCreate(event), "cudaEventCreate");
  Result result{0, INFINITY};
  for (int i = 0; i < repeat; ++i) {
    float milliseconds = 0;
    check_cuda(cudaEventRecord(begin), "cudaEventRecord");
    launch(cuda, problem.size, {at(o), at(q), at(k), at(v)});
    check_cuda(cudaEventRecord(end), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(end), "cudaEventSynchronize");
    check_cuda(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    result.milliseconds = std::min(result.milliseconds, milliseconds);
  }
  for (const cudaEvent_t event : {begin, end}) check_cuda(cudaEventDestroy(event), "cudaEventDestroy");
  std::vector<T> out(problem.q.size());
  check_cuda(cudaMemcpy(out.data(), o.data(), o.bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
  std::vector<float> widened;
  for (const T x : out) widened.push_back(to_float(x));
  result.error = worst_error(problem, widened, dtype_of<T>());
  return result;
}

}  // namespace omni::ladder
