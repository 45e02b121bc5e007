#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/qk_norm_rope/qk_norm_rope.h"

namespace omni {
namespace {

// Both kernels work on a head with a group of 16 neighbouring lanes. Of each half of it, up to 64 values, a lane holds
// four: neighbours, or every 16th where halves do not begin on a multiple of 4 values.
constexpr int kLanes = 16, kHeld = 4;
constexpr int kBlock = 256, kGroups = kBlock / kLanes;

template <int Size>
__device__ int column_of(int pack) {
  return (pack * kLanes + static_cast<int>(threadIdx.x % kLanes)) * Size;
}

// A lane's values of a half; zeros past its end.
template <int Size, class T>
__device__ void load_half(float (&values)[kHeld], const T* half, int count) {
#pragma unroll
  for (int p = 0; p < kHeld / Size; ++p) {
    const int column = column_of<Size>(p);
    const Pack<T, Size> in = column < count ? load_pack<Size>(half + column) : Pack<T, Size>{};
#pragma unroll
    for (int i = 0; i < Size; ++i) values[p * Size + i] = widen(in.lane[i]);
  }
}
template <int Size, class T>
__device__ void store_half(T* half, const float (&values)[kHeld], int count) {
#pragma unroll
  for (int p = 0; p < kHeld / Size; ++p) {
    const int column = column_of<Size>(p);
    Pack<T, Size> out;
#pragma unroll
    for (int i = 0; i < Size; ++i) out.lane[i] = narrow<T>(values[p * Size + i]);
    if (column < count) store_pack(half + column, out);
  }
}

// A lane's values of a head, or of what is as long.
struct Head {
  float first[kHeld], second[kHeld];

  template <int Size, class T>
  __device__ void load(const T* head, int half, bool is_there = true) {
    load_half<Size>(first, head, is_there ? half : 0);
    load_half<Size>(second, head + half, is_there ? half : 0);
  }
  template <int Size, class T>
  __device__ void store(T* head, int half, bool is_there = true) const {
    store_half<Size>(head, first, is_there ? half : 0);
    store_half<Size>(head + half, second, is_there ? half : 0);
  }
};

// 1 / sqrt(mean(x^2) + eps) of a head, in every lane.
__device__ float inverse_of(const Head& x, int half, float eps) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) squares += x.first[i] * x.first[i] + x.second[i] * x.second[i];
  return 1.f / sqrtf(warp_sum<kLanes>(squares) / static_cast<float>(2 * half) + eps);
}

// The operands that the kernels share, and the sizes.
template <class T>
struct Inputs {
  const T* qkv;                      // [rows, heads + 2 kv_heads, head_dim]
  const float *q_weight, *k_weight;  // [head_dim]
  const float *cosine, *sine;        // [positions, half]
  const std::int64_t* starts;        // [batch] or null
  unsigned time;
  int heads, kv_heads, half;  // head_dim = 2 half
  float eps;

  __device__ int row_heads() const { return heads + 2 * kv_heads; }
  __device__ std::int64_t position(unsigned row) const {
    return row % time + (starts == nullptr ? 0 : starts[row / time]);
  }
};

// q [rows, heads, head_dim]; k, v [rows, kv_heads, head_dim], where rows may be counted differently.
template <class T>
struct Split {
  T *q, *k, *v;

  // Where the head that has this number in a row of qkv stands.
  template <class Sizes>
  __device__ T* at(const Sizes& sizes, int head, std::int64_t q_row, std::int64_t kv_row) const {
    if (head < sizes.heads) return q + (q_row * sizes.heads + head) * 2 * sizes.half;
    const int key = head - sizes.heads, value = key - sizes.kv_heads;
    return (value < 0 ? k : v) + (kv_row * sizes.kv_heads + (value < 0 ? key : value)) * 2 * sizes.half;
  }
};

// A block owns a row of qkv, one position of one sequence; a group of lanes every 16th of its heads. No shared memory.
// Must move qkv twice.
template <class T, int Size>
__global__ void __launch_bounds__(kBlock)
    qk_norm_rope_kernel(const Split<T> out, const Inputs<T> in, std::int64_t capacity, bool into_cache) {
  const unsigned row = blockIdx.x;
  const std::int64_t position = in.position(row);
  const std::int64_t kv_row = row / in.time * capacity + (into_cache ? position : row % in.time);
  const int half = in.half, count = in.row_heads();
  for (int begin = 0; begin < count; begin += kGroups) {
    const int head = begin + static_cast<int>(threadIdx.x) / kLanes;
    const bool is_there = head < count, is_value = head >= in.heads + in.kv_heads;
    Head x;
    x.load<Size>(in.qkv + (std::int64_t{row} * count + head) * 2 * half, half, is_there);
    const float inverse = inverse_of(x, half, in.eps);
    if (!is_value) {
      Head weight;
      float cosine[kHeld], sine[kHeld];
      weight.load<Size>(head < in.heads ? in.q_weight : in.k_weight, half);
      load_half<Size>(cosine, in.cosine + position * half, half);
      load_half<Size>(sine, in.sine + position * half, half);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const float n1 = x.first[i] * inverse * weight.first[i], n2 = x.second[i] * inverse * weight.second[i];
        x.first[i] = n1 * cosine[i] - n2 * sine[i];
        x.second[i] = n2 * cosine[i] + n1 * sine[i];
      }
    }
    x.store<Size>(out.at(in, head, row, kv_row), half, is_there);
  }
}

// What a lane's values of the heads add to a weight's gradient, in shared memory. Each half stands apart, so that
// neighbouring lanes find their 16 bytes side by side.
struct Shares {
  Pack<float, kHeld> first[kBlock], second[kBlock];

  __device__ void clear() { first[threadIdx.x] = second[threadIdx.x] = {}; }
  // The sum over the groups for one value of a head.
  template <int Size>
  __device__ float sum(int column, int half) const {
    const Pack<float, kHeld>* shares = column < half ? first : second;
    if (column >= half) column -= half;
    const int lane = column / Size % kLanes, i = column / Size / kLanes * Size + column % Size;
    float sum = 0;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) sum += shares[group * kLanes + lane].lane[i];
    return sum;
  }
};

// x, a head, becomes dx: of a value head that is dy, and its x plays no part; of a query or key head `shares` of its
// weight's gradient are added to. dy is rotated in place: with a copy the registers would not do for four blocks.
template <int Size>
__device__ void backward_head(Head& x, Shares& shares, Head& dy, const float* weight, const float* cosine,
                              const float* sine, int half, float eps, bool is_value) {
  Head w;
  w.load<Size>(weight, half);
  if (!is_value) {  // the rotation backwards
    float c[kHeld], s[kHeld];
    load_half<Size>(c, cosine, half);
    load_half<Size>(s, sine, half);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const float d1 = dy.first[i], d2 = dy.second[i];
      dy.first[i] = d1 * c[i] + d2 * s[i];
      dy.second[i] = d2 * c[i] - d1 * s[i];
    }
  }
  float dot = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    dot += dy.first[i] * w.first[i] * x.first[i] + dy.second[i] * w.second[i] * x.second[i];
  const float inverse = inverse_of(x, half, eps);
  const float mean = warp_sum<kLanes>(dot) * inverse / static_cast<float>(2 * half);
  if (is_value) {  // not before the sums, which all lanes of a warp must join
    x = dy;
    return;
  }
  Pack<float, kHeld> first = shares.first[threadIdx.x], second = shares.second[threadIdx.x];
  const auto finish = [&](float& x_value, float& share, float dn_value, float w_value) {
    const float n = x_value * inverse;
    share += dn_value * n;
    x_value = inverse * (dn_value * w_value - n * mean);
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    finish(x.first[i], first.lane[i], dy.first[i], w.first[i]);
    finish(x.second[i], second.lane[i], dy.second[i], w.second[i]);
  }
  shares.first[threadIdx.x] = first;
  shares.second[threadIdx.x] = second;
}

// As many blocks of the backward kernel as run at once, since each writes partial sums.
constexpr int kBlocksPerMultiprocessor = 4;

// A block owns rows_per_block rows of qkv, a group of lanes every 16th head of each. The lanes add up their shares of
// the weights' gradients in 16 KB of shared memory, and at the end the block writes the sum of those. Must move qkv
// three times, and the partial sums.
template <class T, int Size>
__global__ void __launch_bounds__(kBlock, kBlocksPerMultiprocessor)
    qk_norm_rope_backward_kernel(T* __restrict__ dqkv,          // as qkv
                                 float* __restrict__ partials,  // [gridDim.x, 2, head_dim]
                                 const Split<const T> dy, const Inputs<T> in, unsigned rows, unsigned rows_per_block) {
  __shared__ Shares q_shares, k_shares;
  const int half = in.half, count = in.row_heads(), group = static_cast<int>(threadIdx.x) / kLanes;
  q_shares.clear();
  k_shares.clear();
  const unsigned first = blockIdx.x * rows_per_block, end = min(first + rows_per_block, rows);
  for (unsigned row = first; row < end; ++row) {
    const std::int64_t position = in.position(row);
    for (int begin = 0; begin < count; begin += kGroups) {
      const int head = begin + group;
      const bool is_there = head < count, is_query = head < in.heads, is_value = head >= in.heads + in.kv_heads;
      const std::int64_t at = (std::int64_t{row} * count + head) * 2 * half;
      Head x, d;
      x.load<Size>(in.qkv + at, half, !is_value);
      d.load<Size>(dy.at(in, head, row, row), half, is_there);
      backward_head<Size>(x, is_query ? q_shares : k_shares, d, is_query ? in.q_weight : in.k_weight,
                          in.cosine + position * half, in.sine + position * half, half, in.eps, is_value);
      x.store<Size>(dqkv + at, half, is_there);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 4 * half; i += kBlock)
    partials[std::int64_t{blockIdx.x} * 4 * half + i] =
        i < 2 * half ? q_shares.sum<Size>(i, half) : k_shares.sum<Size>(i - 2 * half, half);
}

template <class T, class Op>
Inputs<T> inputs_of(const Op& op, const Shape& q, const Shape& k) {
  return {.qkv = op.qkv.template as<T>(),
          .q_weight = op.q_weight.template as<float>(),
          .k_weight = op.k_weight.template as<float>(),
          .cosine = op.cosine.template as<float>(),
          .sine = op.sine.template as<float>(),
          .starts = op.starts.template as<std::int64_t>(),
          .time = static_cast<unsigned>(q[1]),
          .heads = static_cast<int>(q[2]),
          .kv_heads = static_cast<int>(k[2]),
          .half = static_cast<int>(q[3] / 2),
          .eps = static_cast<float>(op.eps)};
}

}  // namespace

void run(const CudaContext& cuda, const QkNormRope& op) {
  if (op.qkv.count() == 0) return;
  dispatch_cuda(op.q.dtype, [&]<class T>() {
    dispatch_pack<float>(op.q.width() / 2, [&]<int Size>() {
      qk_norm_rope_kernel<T, Size><<<static_cast<unsigned>(op.qkv.rows()), kBlock, 0, stream_of(cuda)>>>(
          {op.q.as<T>(), op.k.as<T>(), op.v.as<T>()}, inputs_of<T>(op, op.q.shape, op.k.shape), op.k.shape[1],
          op.into_cache);
    });
  });
  check_launch(QkNormRope::name);
}

void run(const CudaContext& cuda, const QkNormRopeBackward& op) {
  const std::int64_t rows = op.qkv.rows(), head_dim = op.dq.width();
  const std::int64_t per_block = ceil_div(rows, cuda.multiprocessors * kBlocksPerMultiprocessor);
  const std::int64_t blocks = op.qkv.count() == 0 ? 0 : ceil_div(rows, per_block);
  auto* partials =
      reinterpret_cast<float*>(cuda.workspace->get(static_cast<std::size_t>(blocks * 2 * head_dim) * sizeof(float)));
  if (blocks > 0) {
    dispatch_cuda(op.dq.dtype, [&]<class T>() {
      dispatch_pack<float>(head_dim / 2, [&]<int Size>() {
        qk_norm_rope_backward_kernel<T, Size><<<static_cast<unsigned>(blocks), kBlock, 0, stream_of(cuda)>>>(
            op.dqkv.as<T>(), partials, {op.dq.as<T>(), op.dk.as<T>(), op.dv.as<T>()},
            inputs_of<T>(op, op.dq.shape, op.dk.shape), static_cast<unsigned>(rows), static_cast<unsigned>(per_block));
      });
    });
    check_launch(QkNormRopeBackward::name);
  }
  if (op.dq_weight || op.dk_weight)
    add_partials(cuda, QkNormRopeBackward::name, partials, blocks, head_dim, {op.dq_weight.as<float>(), op.accumulate},
                 {op.dk_weight.as<float>(), op.accumulate});
}

}  // namespace omni
