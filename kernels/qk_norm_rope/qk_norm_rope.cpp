#include "kernels/qk_norm_rope/qk_norm_rope.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

namespace omni {
namespace {

constexpr std::int64_t kMaxHeadDim = 128;

// Whether check() can read the starts. In GPU memory they are the caller's responsibility.
bool is_readable(const ConstView& starts) { return starts && starts.place != Place::cuda; }

// d: "", or "d" where q, k and v are the gradients.
void check_shapes(Check& that, const std::string& d, const Operand& q, const Operand& k, const Operand& v,
                  const ConstView& qkv, const ConstView& q_weight, const ConstView& k_weight, const ConstView& cosine,
                  const ConstView& sine, const ConstView& starts) {
  const std::string q_name = d + "q", k_name = d + "k", v_name = d + "v";
  that.rank(q_name.c_str(), q, 4);
  that.rank(k_name.c_str(), k, 4);
  const std::int64_t batch = q.shape[0], time = q.shape[1], heads = q.shape[2], head_dim = q.shape[3];
  const DType wide = wide_of(q.dtype);
  that.that(head_dim % 2 == 0 && head_dim <= kMaxHeadDim, "head_dim must be even and at most 128");
  that.operand(k_name.c_str(), k, q.dtype, {batch, k.shape[1], k.shape[2], head_dim});
  that.operand(v_name.c_str(), v, q.dtype, k.shape);
  that.operand("qkv", qkv, q.dtype, {batch, time, (heads + 2 * k.shape[2]) * head_dim});
  that.operand("q_weight", q_weight, wide, {head_dim});
  that.operand("k_weight", k_weight, wide, {head_dim});
  that.operand("cosine", cosine, wide, {cosine.shape[0], head_dim / 2});
  that.operand("sine", sine, wide, cosine.shape);
  that.optional("starts", starts, DType::i64, {batch});
  std::int64_t last = time;
  if (is_readable(starts))
    for (std::int64_t b = 0; b < batch; ++b) last = std::max(last, starts.as<std::int64_t>()[b] + time);
  that.that(last <= cosine.shape[0], "positions must lie inside the table of angles");
}

// The statistics of one head and its normalised values before the weight.
template <class T, class W>
W normalize(W* normalized, const T* x, std::int64_t head_dim, double eps) {
  W squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t d = 0; d < head_dim; ++d) {
    normalized[d] = to_float(x[d]);
    squares += normalized[d] * normalized[d];
  }
  const W inverse = 1 / std::sqrt(squares / static_cast<W>(head_dim) + static_cast<W>(eps));
#pragma omp simd
  for (std::int64_t d = 0; d < head_dim; ++d) normalized[d] *= inverse;
  return inverse;
}

template <class T, class W>
void norm_rope_head(T* y, const T* x, const W* weight, const W* cosine, const W* sine, std::int64_t head_dim,
                    double eps) {
  W n[kMaxHeadDim];
  normalize(n, x, head_dim, eps);
  const std::int64_t half = head_dim / 2;
#pragma omp simd
  for (std::int64_t d = 0; d < half; ++d) {
    const W n1 = n[d] * weight[d], n2 = n[d + half] * weight[d + half];
    y[d] = round_to<T>(n1 * cosine[d] - n2 * sine[d]);
    y[d + half] = round_to<T>(n2 * cosine[d] + n1 * sine[d]);
  }
}

// dx is overwritten, dweight [head_dim] is added to.
template <class T, class W>
void norm_rope_head_backward(T* dx, W* dweight, const T* dy, const T* x, const W* weight, const W* cosine,
                             const W* sine, std::int64_t head_dim, double eps) {
  W n[kMaxHeadDim], dn[kMaxHeadDim];
  const W inverse = normalize(n, x, head_dim, eps);
  const std::int64_t half = head_dim / 2;
#pragma omp simd
  for (std::int64_t d = 0; d < half; ++d) {  // the rotation backwards
    const W dy1 = to_float(dy[d]), dy2 = to_float(dy[d + half]);
    dn[d] = dy1 * cosine[d] + dy2 * sine[d];
    dn[d + half] = dy2 * cosine[d] - dy1 * sine[d];
  }
  W dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t d = 0; d < head_dim; ++d) {
    dweight[d] += dn[d] * n[d];
    dn[d] *= weight[d];
    dot += dn[d] * n[d];
  }
  const W mean = dot / static_cast<W>(head_dim);
#pragma omp simd
  for (std::int64_t d = 0; d < head_dim; ++d) dx[d] = round_to<T>(inverse * (dn[d] - n[d] * mean));
}

template <class T>
void forward(const QkNormRope& op) {
  using W = Wide<T>;
  const std::int64_t time = op.q.shape[1], heads = op.q.shape[2], head_dim = op.q.shape[3], kv_heads = op.k.shape[2];
  const std::int64_t capacity = op.k.shape[1], rows = op.q.shape[0] * time, half = head_dim / 2;
  const std::int64_t* starts = op.starts.as<std::int64_t>();
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t b = row / time, position = row % time + (starts ? starts[b] : 0);
    const T* x = op.qkv.as<T>() + row * (heads + 2 * kv_heads) * head_dim;
    const W *cosine = op.cosine.as<W>() + position * half, *sine = op.sine.as<W>() + position * half;
    for (std::int64_t h = 0; h < heads; ++h, x += head_dim)
      norm_rope_head(op.q.as<T>() + (row * heads + h) * head_dim, x, op.q_weight.as<W>(), cosine, sine, head_dim,
                     op.eps);
    const std::int64_t out = (b * capacity + (op.into_cache ? position : row % time)) * kv_heads * head_dim;
    for (std::int64_t h = 0; h < kv_heads; ++h, x += head_dim)
      norm_rope_head(op.k.as<T>() + out + h * head_dim, x, op.k_weight.as<W>(), cosine, sine, head_dim, op.eps);
    std::copy_n(x, kv_heads * head_dim, op.v.as<T>() + out);
  }
}

// The threads' shares of a weight's gradient, added in thread order.
template <class W>
void add_shares(const View& dweight, const typename CpuContext::Scratch<W>& shares, std::int64_t offset, int threads,
                bool accumulate) {
  if (!dweight) return;
  for (std::int64_t d = 0; d < dweight.count(); ++d) {
    W sum = 0;
    for (int thread = 0; thread < threads; ++thread) sum += shares.part(thread)[offset + d];
    W& out = dweight.as<W>()[d];
    out = accumulate ? out + sum : sum;
  }
}

template <class T>
void backward(const CpuContext& cpu, const QkNormRopeBackward& op) {
  using W = Wide<T>;
  const std::int64_t time = op.dq.shape[1], heads = op.dq.shape[2], head_dim = op.dq.shape[3],
                     kv_heads = op.dk.shape[2];
  const std::int64_t rows = op.dq.shape[0] * time, half = head_dim / 2;
  const std::int64_t* starts = op.starts.as<std::int64_t>();
  const auto shares = cpu.scratch<W>(cpu.threads, 2 * head_dim);
#pragma omp parallel num_threads(cpu.threads)
  {
    W* share = shares.part(omp_get_thread_num());
    std::fill_n(share, 2 * head_dim, W{0});
#pragma omp for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t position = row % time + (starts ? starts[row / time] : 0),
                         first = row * (heads + 2 * kv_heads) * head_dim;
      const T* x = op.qkv.as<T>() + first;
      T* dx = op.dqkv.as<T>() + first;
      const W *cosine = op.cosine.as<W>() + position * half, *sine = op.sine.as<W>() + position * half;
      for (std::int64_t h = 0; h < heads; ++h, x += head_dim, dx += head_dim)
        norm_rope_head_backward(dx, share, op.dq.as<T>() + (row * heads + h) * head_dim, x, op.q_weight.as<W>(), cosine,
                                sine, head_dim, op.eps);
      for (std::int64_t h = 0; h < kv_heads; ++h, x += head_dim, dx += head_dim)
        norm_rope_head_backward(dx, share + head_dim, op.dk.as<T>() + (row * kv_heads + h) * head_dim, x,
                                op.k_weight.as<W>(), cosine, sine, head_dim, op.eps);
      std::copy_n(op.dv.as<T>() + row * kv_heads * head_dim, kv_heads * head_dim, dx);
    }
  }
  add_shares<W>(op.dq_weight, shares, 0, cpu.threads, op.accumulate);
  add_shares<W>(op.dk_weight, shares, head_dim, cpu.threads, op.accumulate);
}

}  // namespace

void QkNormRope::check(Check& that) const {
  check_shapes(that, "", q, k, v, qkv, q_weight, k_weight, cosine, sine, starts);
  const std::int64_t time = q.shape[1], capacity = k.shape[1];
  if (!into_cache) return that.that(capacity == time, "k and v must have the time of q unless they are a cache");
  for (std::int64_t b = 0; b < q.shape[0]; ++b)
    that.that((is_readable(starts) ? starts.as<std::int64_t>()[b] : 0) + time <= capacity,
              "the cache must hold all positions");
}

void QkNormRopeBackward::check(Check& that) const {
  check_shapes(that, "d", dq, dk, dv, qkv, q_weight, k_weight, cosine, sine, starts);
  that.same("dqkv, qkv", dqkv, qkv);
  that.optional("dq_weight", dq_weight, q_weight.dtype, q_weight.shape);
  that.optional("dk_weight", dk_weight, k_weight.dtype, k_weight.shape);
}

void run(const CpuContext&, const QkNormRope& op) {
  dispatch(op.q.dtype, [&]<class T>() { forward<T>(op); });
}

void run(const CpuContext& cpu, const QkNormRopeBackward& op) {
  dispatch(op.dq.dtype, [&]<class T>() { backward<T>(cpu, op); });
}

}  // namespace omni
