#include "kernels/attention/query_block.cuh"

namespace omni {
namespace {

// The part of a row's statistics that the four lanes of the row make together: each takes every fourth chunk. o comes
// straight from memory, do from its tile.
template <int Width>
struct RowStatistics {
  static constexpr int kChunks = Width / 8 / 4;
  Pack<bf16, 8> o[2][kChunks] = {};

  __device__ static int chunk(int c) { return static_cast<int>(threadIdx.x) % 4 + 4 * c; }

  __device__ void load(const QueryBlock<Width>& block, const bf16* from) {
    from += block.rows_at() + static_cast<int>(threadIdx.x) % kWarp / 4 * block.size.query_stride();
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < kChunks; ++c)
        if (block.query + 8 * half < block.size.queries && chunk(c) * 8 < block.size.head_dim)
          o[half][c] = load_pack<8>(from + 8 * half * block.size.query_stride() + chunk(c) * 8);
  }

  // d_out: where the tile begins.
  __device__ QueryStatistics make(const QueryBlock<Width>& block, int half, const char* d_out, const float* lse) const {
    const int row = block.row + static_cast<int>(threadIdx.x) % kWarp / 4 + 8 * half, query = block.query + 8 * half;
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const auto d = load_pack<8>(reinterpret_cast<const bf16*>(d_out + Tile<Width>::offset(row, chunk(c))));
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(widen(d.lane[i]), widen(o[half][c].lane[i]), sum);
    }
    const bool inside = query < block.size.queries;
    return QueryStatistics::of(inside ? lse[block.size.lse_row(block.place.b, block.place.head) + query] : -INFINITY,
                               warp_sum<4>(sum));
  }
};

// Grid: one block per 64 queries of a head, as QueryBlock; a warp keeps q, do and dq of its queries in registers. It
// makes their statistics first and leaves them for dk and dv, then goes through the keys, makes p and ds again, and
// adds ds k up. Shared: two stages of k and v. Must read q, do, o, k, v and lse, and write dq and the statistics.
template <int Width>
__global__ void __launch_bounds__(QueryBlock<Width>::kThreads, Width <= 96 ? 3 : 2)
    mma_dq_kernel(bf16* __restrict__ dq, QueryStatistics* __restrict__ statistics, const bf16* __restrict__ d_out,
                  const bf16* __restrict__ o, const float* __restrict__ lse, const bf16* __restrict__ q,
                  const bf16* __restrict__ k, const bf16* __restrict__ v, const AttentionSizes size) {
  static_assert(QueryBlock<Width>::kQueries == kStatisticsBlock);
  __shared__ alignas(128) char memory[QueryBlock<Width>::kBytes];
  const QueryBlock<Width> block(size, memory);
  block.load_queries(q, 0);
  block.load_queries(d_out, 1);
  copy_commit();
  QueryStatistics own[2];
  RowStatistics<Width> rows;
  rows.load(block, o);
  copy_wait<0>();
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    own[half] = rows.make(block, half, memory + QueryBlock<Width>::kStageBytes, lse);
    if (threadIdx.x % 4 == 0)
      statistics[size.statistics_row(block.place.b, block.place.head) + block.query + 8 * half] = own[half];
  }
  unsigned queries[Width / 16][4], gradients[Width / 16][4];
  load_left(queries, block.k_tile(0), block.row);
  load_left(gradients, block.k_tile(1), block.row);
  __syncthreads();
  block.load_keys(k, v, block.begin, 0);
  copy_commit();

  const WarpKeys keys(block);
  float sums[Width / 8][4] = {};
  block.through_keys(k, v, [&](int first, int stage) {
#pragma unroll
    for (int row = 0; row < QueryBlock<Width>::kKeys; row += 16) {  // by 16, so that all fits in the registers
      const int key = first + row;
      if (!keys.sees_some(key, 16)) continue;
      float scores[2][4] = {}, dp[2][4] = {};
      multiply_transposed<Width, 16>(scores, queries, block.k_tile(stage), row);
      multiply_transposed<Width, 16>(dp, gradients, block.v_tile(stage), row);
      if (!keys.sees_all(key, 16)) block.hide_unseen(scores, key);
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          dp[n][i] = own[i / 2].weight(scores[n][i], size.scale2()) * (dp[n][i] - own[i / 2].row_sum);
      unsigned ds[1][4];
      to_left<16>(ds, dp);
      multiply<16>(sums, ds, block.k_tile(stage), row);
    }
  });
  block.store(dq, sums, {size.scale, size.scale});
}

}  // namespace

void attention_dq_mma(const CudaContext& cuda, const AttentionBackward& op, QueryStatistics* statistics) {
  const AttentionSizes size(op.forward());
  dispatch_width(size.head_dim, [&]<int Width>() {
    using Block = QueryBlock<Width>;
    mma_dq_kernel<Width><<<query_blocks(size, Block::kQueries), Block::kThreads, 0, stream_of(cuda)>>>(
        op.dq.as<bf16>(), statistics, op.do_.as<bf16>(), op.o.as<bf16>(), op.lse.as<float>(), op.q.as<bf16>(),
        op.k.as<bf16>(), op.v.as<bf16>(), size);
  });
  check_launch(AttentionBackward::name);
}

}  // namespace omni
