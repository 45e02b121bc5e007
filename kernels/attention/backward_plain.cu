#include "kernels/attention/plain.cuh"

namespace omni {
namespace {

using namespace plain;

// The probability of a score, and the gradient of the score from the gradient of the probability.
struct ScoreGradient {
  float p, ds;
  __device__ ScoreGradient(bool seen, float score, float dp, const QueryStatistics& query, float scale2)
      : p(seen ? query.weight(score, scale2) : 0.f), ds(seen ? p * (dp - query.row_sum) : 0.f) {}
};

// Grid: one block per 32 queries of a head. It makes their statistics first and leaves them for dk and dv, then goes
// through the keys that they see. Shared: tiles of q, do, k and v, and the ds of each warp. Must read q, do, o, k, v
// and lse, and write dq and the statistics.
template <class T>
__global__ void __launch_bounds__(kBlock, 2)
    plain_dq_kernel(T* __restrict__ dq, QueryStatistics* __restrict__ statistics, const T* __restrict__ d_out,
                    const T* __restrict__ o, const float* __restrict__ lse, const T* __restrict__ q,
                    const T* __restrict__ k, const T* __restrict__ v, const AttentionSizes size) {
  extern __shared__ float4 memory[];
  const QueryPlace place(size, kTile);
  const int head_dim = size.head_dim, kv_head = place.head / size.group(),
            rows = min(kTile, size.queries - place.first);
  const int row = static_cast<int>(threadIdx.x) / kWarp * kRows, lane = static_cast<int>(threadIdx.x) % kWarp;
  float* q_tile = reinterpret_cast<float*>(memory);
  float *d_tile = q_tile + tile_size(head_dim), *k_tile = d_tile + tile_size(head_dim);
  float *v_tile = k_tile + tile_size(head_dim), *weights = v_tile + tile_size(head_dim) + row * kTile;
  const std::int64_t first = size.query_row(place.b, place.first, place.head);
  load_tile(q_tile, q + first, size.query_stride(), rows, head_dim);
  load_tile(d_tile, d_out + first, size.query_stride(), rows, head_dim);
  __syncthreads();
  QueryStatistics own[kRows] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int query = place.first + row + r;
    if (query >= size.queries) break;
    float sum = 0;
    for (int d = lane; d < head_dim; d += kWarp)
      sum =
          fmaf(d_tile[(row + r) * stride_of(head_dim) + d], widen(o[first + (row + r) * size.query_stride() + d]), sum);
    own[r] = QueryStatistics::of(lse[size.lse_row(place.b, place.head) + query], warp_sum(sum));
    if (lane == 0) statistics[size.statistics_row(place.b, place.head) + query] = own[r];
  }

  Span seen[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) seen[r] = size.mask.keys_of(place.b, place.first + row + r);
  float sums[kRows][kColumns] = {};
  const int begin = static_cast<int>(size.mask.keys_of(place.b, place.first).begin);
  const int end = static_cast<int>(size.mask.keys_of(place.b, place.first + rows - 1).end);
  for (int key = begin; key < end; key += kTile) {
    __syncthreads();
    load_tile(k_tile, k + size.key_row(place.b, key, kv_head), size.key_stride(), end - key, head_dim);
    load_tile(v_tile, v + size.key_row(place.b, key, kv_head), size.key_stride(), end - key, head_dim);
    __syncthreads();
    float scores[kRows], dp[kRows];
    dot_rows(scores, q_tile + row * stride_of(head_dim), k_tile, head_dim);
    dot_rows(dp, d_tile + row * stride_of(head_dim), v_tile, head_dim);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const ScoreGradient gradient(seen[r].has(key + lane), scores[r], dp[r], own[r], size.scale2());
      weights[r * kTile + lane] = gradient.ds;
    }
    __syncwarp();
    add_weighted(sums, weights, k_tile, head_dim);
    __syncwarp();
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int query = place.first + row + r;
    if (query < size.queries) store_row(dq + size.query_row(place.b, query, place.head), sums[r], size.scale, head_dim);
  }
}

// Grid: one block per 32 keys of a key-value head; it goes through the queries that see them, of all heads of the group
// one after the other, so that each sum has one owner and one order. Shared: tiles of k, v, q and do, and the p and ds
// of each warp. Must read q, do, k, v and the statistics and write dk and dv.
template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    plain_dkv_kernel(T* __restrict__ dk, T* __restrict__ dv, const T* __restrict__ d_out, const T* __restrict__ q,
                     const T* __restrict__ k, const T* __restrict__ v, const QueryStatistics* __restrict__ statistics,
                     const AttentionSizes size) {
  extern __shared__ float4 memory[];
  const KeyPlace place(size, kTile);
  const int head_dim = size.head_dim, rows = min(kTile, size.keys - place.first);
  const int row = static_cast<int>(threadIdx.x) / kWarp * kRows, lane = static_cast<int>(threadIdx.x) % kWarp;
  float* k_tile = reinterpret_cast<float*>(memory);
  float *v_tile = k_tile + tile_size(head_dim), *q_tile = v_tile + tile_size(head_dim);
  float *d_tile = q_tile + tile_size(head_dim), *p = d_tile + tile_size(head_dim) + row * kTile, *ds = p + kWeights;
  const int filled = static_cast<int>(size.mask.length(place.b)) - place.first;  // keys beyond may hold anything
  load_tile(k_tile, k + size.key_row(place.b, place.first, place.kv_head), size.key_stride(), filled, head_dim);
  load_tile(v_tile, v + size.key_row(place.b, place.first, place.kv_head), size.key_stride(), filled, head_dim);

  Span seeing[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    seeing[r] = size.mask.queries_of(place.b, place.first + row + r, place.first + row + r + 1);
  float dk_sums[kRows][kColumns] = {}, dv_sums[kRows][kColumns] = {};
  const Span queries(size.mask.queries_of(place.b, place.first, place.first + rows));
  for (int head = place.kv_head * size.group(); head < (place.kv_head + 1) * size.group(); ++head)
    for (int query = queries.begin; query < queries.end; query += kTile) {
      const std::int64_t first = size.query_row(place.b, query, head);
      __syncthreads();
      load_tile(q_tile, q + first, size.query_stride(), queries.end - query, head_dim);
      load_tile(d_tile, d_out + first, size.query_stride(), queries.end - query, head_dim);
      __syncthreads();
      float scores[kRows], dp[kRows];
      dot_rows(scores, k_tile + row * stride_of(head_dim), q_tile, head_dim);
      dot_rows(dp, v_tile + row * stride_of(head_dim), d_tile, head_dim);
      QueryStatistics own{};
      if (query + lane < queries.end) own = statistics[size.statistics_row(place.b, head) + query + lane];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const ScoreGradient gradient(seeing[r].has(query + lane), scores[r], dp[r], own, size.scale2());
        p[r * kTile + lane] = gradient.p;
        ds[r * kTile + lane] = gradient.ds;
      }
      __syncwarp();
      add_weighted(dv_sums, p, d_tile, head_dim);
      add_weighted(dk_sums, ds, q_tile, head_dim);
      __syncwarp();
    }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int key = place.first + row + r;
    if (key >= size.keys) break;
    store_row(dk + size.key_row(place.b, key, place.kv_head), dk_sums[r], size.scale, head_dim);
    store_row(dv + size.key_row(place.b, key, place.kv_head), dv_sums[r], 1.f, head_dim);
  }
}

}  // namespace

template <class T>
void attention_dq_plain(const CudaContext& cuda, const AttentionBackward& op, QueryStatistics* statistics) {
  const AttentionSizes size(op.forward());
  const int shared = (4 * tile_size(size.head_dim) + kWeights) * static_cast<int>(sizeof(float));
  allow_shared_memory(plain_dq_kernel<T>, shared);
  plain_dq_kernel<<<query_blocks(size, kTile), kBlock, shared, stream_of(cuda)>>>(
      op.dq.as<T>(), statistics, op.do_.as<T>(), op.o.as<T>(), op.lse.as<float>(), op.q.as<T>(), op.k.as<T>(),
      op.v.as<T>(), size);
  check_launch(AttentionBackward::name);
}

template <class T>
void attention_dkv_plain(const CudaContext& cuda, const AttentionBackward& op, const QueryStatistics* statistics) {
  const AttentionSizes size(op.forward());
  const int shared = (4 * tile_size(size.head_dim) + 2 * kWeights) * static_cast<int>(sizeof(float));
  allow_shared_memory(plain_dkv_kernel<T>, shared);
  plain_dkv_kernel<<<key_blocks(size, kTile), kBlock, shared, stream_of(cuda)>>>(
      op.dk.as<T>(), op.dv.as<T>(), op.do_.as<T>(), op.q.as<T>(), op.k.as<T>(), op.v.as<T>(), statistics, size);
  check_launch(AttentionBackward::name);
}

template void attention_dq_plain<float>(const CudaContext&, const AttentionBackward&, QueryStatistics*);
template void attention_dq_plain<bf16>(const CudaContext&, const AttentionBackward&, QueryStatistics*);
template void attention_dkv_plain<float>(const CudaContext&, const AttentionBackward&, const QueryStatistics*);
template void attention_dkv_plain<bf16>(const CudaContext&, const AttentionBackward&, const QueryStatistics*);

}  // namespace omni
