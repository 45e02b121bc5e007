#include "kernels/attention/tiles.cuh"

namespace omni {
namespace {

// dk and dv: warps 0 to 3 own 16 keys each and take the first half of each block of queries; warps 4 to 7 own the same
// keys and take the second half.
constexpr int kKeys = 64, kQueries = kStatisticsBlock, kHalf = kQueries / 2, kThreads = 2 * kKeys / 16 * kWarp;

// The shared memory of dk and dv.
template <int Width>
struct KeyBlock {
  static constexpr int kTileBytes = 64 * Tile<Width>::kRowBytes;
  static constexpr int kStatisticsBytes = kQueries * static_cast<int>(sizeof(QueryStatistics));
  static constexpr int kBytes = 6 * kTileBytes + 2 * kStatisticsBytes;
  char* memory;

  __device__ Tile<Width> tile(int index) const { return {shared_address(memory) + index * kTileBytes}; }
  __device__ Tile<Width> k() const { return tile(0); }
  __device__ Tile<Width> v() const { return tile(1); }
  // Two stages of queries: one at work, one on its way.
  __device__ Tile<Width> q(int stage) const { return tile(2 + 2 * stage); }
  __device__ Tile<Width> d_out(int stage) const { return tile(3 + 2 * stage); }
  __device__ QueryStatistics* statistics(int stage) const {
    return reinterpret_cast<QueryStatistics*>(memory + 6 * kTileBytes) + stage * kQueries;
  }
  // After the last block of queries: sums that a warp gives to the other one with its keys, [Width / 8, kThreads / 2].
  __device__ float4* given(int index) const { return reinterpret_cast<float4*>(memory + (2 + 2 * index) * kTileBytes); }
};

// The share of 32 queries, from `row` of their stage on, in dk and dv of 16 keys, from `key_row` of their tiles on.
// hide_unseen(scores) is called with the keys as rows and the queries as columns.
template <int Width, class Hide>
__device__ void add_queries(float (&dk)[Width / 8][4], float (&dv)[Width / 8][4], const KeyBlock<Width>& block,
                            int stage, int row, int key_row, float scale2, const Hide& hide_unseen) {
  float p[kHalf / 8][4] = {}, ds[kHalf / 8][4] = {};
  unsigned keys[Width / 16][4], left[kHalf / 16][4];
  load_left(keys, block.k(), key_row);
  multiply_transposed<Width, kHalf>(p, keys, block.q(stage), row);
  hide_unseen(p);
  load_left(keys, block.v(), key_row);
  multiply_transposed<Width, kHalf>(ds, keys, block.d_out(stage), row);
  const QueryStatistics* statistics = block.statistics(stage) + row + threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < kHalf / 8; ++n) {
    const Pack<QueryStatistics, 2> queries = load_pack<2>(statistics + 8 * n);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      p[n][i] = queries.lane[i % 2].weight(p[n][i], scale2);
      ds[n][i] = p[n][i] * (ds[n][i] - queries.lane[i % 2].row_sum);
    }
  }
  to_left<kHalf>(left, p);
  multiply<kHalf>(dv, left, block.d_out(stage), row);
  to_left<kHalf>(left, ds);
  multiply<kHalf>(dk, left, block.q(stage), row);
}

// The two warps of 16 keys add up: the one of the first half of the queries gets dk, the other dv.
template <int Width>
__device__ void join_halves(float (&sums)[Width / 8][4], const float (&dk)[Width / 8][4],
                            const float (&dv)[Width / 8][4], const KeyBlock<Width>& block) {
  constexpr int kPlaces = kThreads / 2;
  const int half = static_cast<int>(threadIdx.x) / kPlaces, place = static_cast<int>(threadIdx.x) % kPlaces;
#pragma unroll
  for (int n = 0; n < Width / 8; ++n) {
    float give[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      give[i] = half == 0 ? dv[n][i] : dk[n][i];
      sums[n][i] = half == 0 ? dk[n][i] : dv[n][i];
    }
    block.given(half)[n * kPlaces + place] = {give[0], give[1], give[2], give[3]};
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < Width / 8; ++n) {
    const float4 other = block.given(1 - half)[n * kPlaces + place];
    sums[n][0] += other.x, sums[n][1] += other.y, sums[n][2] += other.z, sums[n][3] += other.w;
  }
}

// Grid: one block per 64 keys of a key-value head, which stay in shared memory with their values. The block goes
// through the queries that see them, 64 at a time, of all heads of the group one after the other, so that each sum has
// one owner and one order; dk and dv are in registers. Shared: KeyBlock. Must read q, do, k, v and the statistics and
// write dk and dv.
template <int Width>
__global__ void __launch_bounds__(kThreads, 1)
    mma_dkv_kernel(bf16* __restrict__ dk, bf16* __restrict__ dv, const bf16* __restrict__ d_out,
                   const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                   const QueryStatistics* __restrict__ statistics, const AttentionSizes size) {
  extern __shared__ float4 memory[];
  const KeyBlock<Width> block{reinterpret_cast<char*>(memory)};
  const KeyPlace place(size, kKeys);
  const int b = place.b, rows = min(kKeys, size.keys - place.first), head_dim = size.head_dim;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, half = warp / (kKeys / 16), row = warp % (kKeys / 16) * 16;
  const Span queries = size.mask.queries_of(b, place.first, place.first + rows);
  const int begin = queries.begin / kQueries * kQueries;
  const int steps = queries.begin < queries.end ? (queries.end - begin + kQueries - 1) / kQueries : 0;
  const auto query_of = [=](int step) { return begin + step % steps * kQueries; };
  const auto load_queries = [&](int step, int stage) {
    const int head = place.kv_head * size.group() + step / steps, query = query_of(step), valid = size.queries - query;
    const std::int64_t from = size.query_row(b, query, head);
    load_tile<kQueries, kThreads>(block.q(stage), q + from, size.query_stride(), valid, head_dim);
    load_tile<kQueries, kThreads>(block.d_out(stage), d_out + from, size.query_stride(), valid, head_dim);
    if (threadIdx.x >= KeyBlock<Width>::kStatisticsBytes / 16) return;
    copy_async(shared_address(block.statistics(stage)) + threadIdx.x * 16,
               statistics + size.statistics_row(b, head) + query + threadIdx.x * 2);
  };

  const std::int64_t keys = size.key_row(b, place.first, place.kv_head);
  const int filled = static_cast<int>(size.mask.length(b)) - place.first;  // keys beyond may hold anything
  load_tile<kKeys, kThreads>(block.k(), k + keys, size.key_stride(), filled, head_dim);
  load_tile<kKeys, kThreads>(block.v(), v + keys, size.key_stride(), filled, head_dim);
  if (steps > 0) load_queries(0, 0);
  copy_commit();

  // Any of the warp's keys is seen by the queries of `any`, all of them from last.begin to first.end.
  const int key = place.first + row;
  const Span any = size.mask.queries_of(b, key, key + 16), first = size.mask.queries_of(b, key, key + 1);
  const Span last = size.mask.queries_of(b, key + 15, key + 16);
  float dk_sums[Width / 8][4] = {}, dv_sums[Width / 8][4] = {};
  for (int step = 0; step < steps * size.group(); ++step) {
    copy_wait<0>();
    __syncthreads();
    if (step + 1 < steps * size.group()) load_queries(step + 1, (step + 1) % 2);
    copy_commit();
    const int query = query_of(step) + half * kHalf;
    if (query >= any.end || query + kHalf <= any.begin) continue;
    add_queries<Width>(dk_sums, dv_sums, block, step % 2, half * kHalf, row, size.scale2(), [&](auto& scores) {
      if (query >= last.begin && query + kHalf <= first.end) return;
      const int own = key + static_cast<int>(threadIdx.x) % kWarp / 4;
      hide(scores, {size.mask.queries_of(b, own, own + 1), size.mask.queries_of(b, own + 8, own + 9)}, query);
    });
  }

  copy_wait<0>();
  __syncthreads();
  float sums[Width / 8][4];
  join_halves<Width>(sums, dk_sums, dv_sums, block);
  const float factor = half == 0 ? size.scale : 1.f;
  char* own = block.memory + half * KeyBlock<Width>::kTileBytes + row * Tile<Width>::kRowBytes;
  store_rows<Width>((half == 0 ? dk : dv) + size.key_row(b, key, place.kv_head), size.key_stride(), rows - row,
                    head_dim, own, sums, {factor, factor});
}

}  // namespace

void attention_dkv_mma(const CudaContext& cuda, const AttentionBackward& op, const QueryStatistics* statistics) {
  const AttentionSizes size(op.forward());
  dispatch_width(size.head_dim, [&]<int Width>() {
    allow_shared_memory(mma_dkv_kernel<Width>, KeyBlock<Width>::kBytes);
    mma_dkv_kernel<Width><<<key_blocks(size, kKeys), kThreads, KeyBlock<Width>::kBytes, stream_of(cuda)>>>(
        op.dk.as<bf16>(), op.dv.as<bf16>(), op.do_.as<bf16>(), op.q.as<bf16>(), op.k.as<bf16>(), op.v.as<bf16>(),
        statistics, size);
  });
  check_launch(AttentionBackward::name);
}

}  // namespace omni
