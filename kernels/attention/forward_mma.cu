#include "kernels/attention/query_block.cuh"

namespace omni {
namespace {

// The scores of 16 queries and 8 Tiles keys become weights; the sums so far are brought to the new maximum.
template <int Width, int Tiles>
__device__ void softmax_step(float (&scores)[Tiles][4], RunningSoftmax (&softmax)[2], float (&sums)[Width / 8][4],
                             float scale2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest = -INFINITY, sum = 0;
#pragma unroll
    for (int n = 0; n < Tiles; ++n) highest = fmaxf(highest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    const float correction = softmax[half].raise(warp_max<4>(highest), scale2);
#pragma unroll
    for (int n = 0; n < Tiles; ++n)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = softmax[half].weight(scores[n][i], scale2);
        sum += scores[n][i];
      }
    softmax[half].sum = softmax[half].sum * correction + sum;
#pragma unroll
    for (int n = 0; n < Width / 8; ++n) {
      sums[n][2 * half] *= correction;
      sums[n][2 * half + 1] *= correction;
    }
  }
}

// Grid: one block per 64 queries of a head, as QueryBlock; a warp keeps its queries and their sums in registers.
// Shared: two stages of k and v. Must read q, k and v and write o and lse.
template <int Width>
__global__ void __launch_bounds__(QueryBlock<Width>::kThreads, Width <= 96 ? 3 : 2)
    mma_forward_kernel(bf16* __restrict__ o, float* __restrict__ lse, const bf16* __restrict__ q,
                       const bf16* __restrict__ k, const bf16* __restrict__ v, const AttentionSizes size) {
  __shared__ alignas(128) char memory[QueryBlock<Width>::kBytes];
  constexpr int kKeys = QueryBlock<Width>::kKeys;
  const QueryBlock<Width> block(size, memory);
  block.load_queries(q, 1);
  copy_commit();
  block.load_keys(k, v, block.begin, 0);
  copy_commit();
  copy_wait<1>();
  __syncthreads();
  unsigned queries[Width / 16][4];
  load_left(queries, block.k_tile(1), block.row);

  const WarpKeys keys(block);
  RunningSoftmax softmax[2];
  float sums[Width / 8][4] = {};
  block.through_keys(k, v, [&](int key, int stage) {
    if (!keys.sees_some(key, kKeys)) return;
    float scores[kKeys / 8][4] = {};
    multiply_transposed<Width, kKeys>(scores, queries, block.k_tile(stage), 0);
    if (!keys.sees_all(key, kKeys)) block.hide_unseen(scores, key);
    softmax_step<Width>(scores, softmax, sums, size.scale2());
    unsigned weights[kKeys / 16][4];
    to_left<kKeys>(weights, scores);
    multiply<kKeys>(sums, weights, block.v_tile(stage), 0);
  });

  for (RunningSoftmax& half : softmax) half.sum = warp_sum<4>(half.sum);
  block.store(o, sums, {softmax[0].inverse(), softmax[1].inverse()});
  if (lse == nullptr || threadIdx.x % 4 != 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (block.query + 8 * half < size.queries)
      lse[size.lse_row(block.place.b, block.place.head) + block.query + 8 * half] = softmax[half].lse(size.scale2());
}

}  // namespace

void attention_mma(const CudaContext& cuda, const Attention& op) {
  const AttentionSizes size(op);
  dispatch_width(size.head_dim, [&]<int Width>() {
    using Block = QueryBlock<Width>;
    mma_forward_kernel<Width><<<query_blocks(size, Block::kQueries), Block::kThreads, 0, stream_of(cuda)>>>(
        op.o.as<bf16>(), op.lse.as<float>(), op.q.as<bf16>(), op.k.as<bf16>(), op.v.as<bf16>(), size);
  });
  check_launch(Attention::name);
}

}  // namespace omni
