#include "kernels/attention/plain.cuh"

namespace omni {
namespace {

using namespace plain;

// Grid: one block per 32 queries of a head; it goes through the keys that they see. Shared: tiles of q, k and v, and
// the weights of each warp. Must read q, k and v and write o and lse.
template <class T>
__global__ void __launch_bounds__(kBlock, 2)
    plain_forward_kernel(T* __restrict__ o, float* __restrict__ lse, const T* __restrict__ q, const T* __restrict__ k,
                         const T* __restrict__ v, const AttentionSizes size) {
  extern __shared__ float4 memory[];
  const QueryPlace place(size, kTile);
  const int head_dim = size.head_dim, kv_head = place.head / size.group(),
            rows = min(kTile, size.queries - place.first);
  const int row = static_cast<int>(threadIdx.x) / kWarp * kRows, lane = static_cast<int>(threadIdx.x) % kWarp;
  float* q_tile = reinterpret_cast<float*>(memory);
  float *k_tile = q_tile + tile_size(head_dim), *v_tile = k_tile + tile_size(head_dim);
  float* weights = v_tile + tile_size(head_dim) + row * kTile;
  load_tile(q_tile, q + size.query_row(place.b, place.first, place.head), size.query_stride(), rows, head_dim);

  RunningSoftmax softmax[kRows];
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
    float scores[kRows];
    dot_rows(scores, q_tile + row * stride_of(head_dim), k_tile, head_dim);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float score = seen[r].has(key + lane) ? scores[r] : -INFINITY;
      const float correction = softmax[r].raise(warp_max(score), size.scale2());
      const float weight = softmax[r].weight(score, size.scale2());
      softmax[r].sum = softmax[r].sum * correction + weight;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums[r][c] *= correction;
      weights[r * kTile + lane] = weight;
    }
    __syncwarp();
    add_weighted(sums, weights, v_tile, head_dim);
    __syncwarp();
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int query = place.first + row + r;
    if (query >= size.queries) break;
    softmax[r].sum = warp_sum(softmax[r].sum);
    store_row(o + size.query_row(place.b, query, place.head), sums[r], softmax[r].inverse(), head_dim);
    if (lse != nullptr && lane == 0) lse[size.lse_row(place.b, place.head) + query] = softmax[r].lse(size.scale2());
  }
}

}  // namespace

template <class T>
void attention_plain(const CudaContext& cuda, const Attention& op) {
  const AttentionSizes size(op);
  const int shared = (3 * tile_size(size.head_dim) + kWeights) * static_cast<int>(sizeof(float));
  allow_shared_memory(plain_forward_kernel<T>, shared);
  plain_forward_kernel<<<query_blocks(size, kTile), kBlock, shared, stream_of(cuda)>>>(
      op.o.as<T>(), op.lse.as<float>(), op.q.as<T>(), op.k.as<T>(), op.v.as<T>(), size);
  check_launch(Attention::name);
}

template void attention_plain<float>(const CudaContext&, const Attention&);
template void attention_plain<bf16>(const CudaContext&, const Attention&);

}  // namespace omni
