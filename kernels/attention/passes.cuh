#pragma once
// What the CUDA passes of attention share. attention.cu picks among them:
//   decode   few queries over a cache, the keys split among blocks            f32, bf16
//   mma      products on tensor cores                                         bf16, head_dim a multiple of 16
//   plain    everything else                                                  f32, bf16
// Scores are kept in base 2 (multiplied by log2 e), so that an exponential is one instruction.

#include "kernels/attention/mask.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace omni {

inline constexpr int kStatisticsBlock = 64;  // queries of a block of the tensor-core passes
inline constexpr float kLog2e = 1.44269504088896341f, kLn2 = 0.69314718055994531f;

// The sizes of an instruction, its mask, and where in its operands a row begins. Kernels call the operands as
// attention.h does, which also gives their shapes; only do, a keyword, is d_out.
struct AttentionSizes {
  int batch, queries, keys, heads, kv_heads, head_dim;
  AttentionMaskReader mask;
  float scale;  // of scores

  explicit AttentionSizes(const Attention& op)
      : batch(static_cast<int>(op.batch())),
        queries(static_cast<int>(op.queries())),
        keys(static_cast<int>(op.keys())),
        heads(static_cast<int>(op.heads())),
        kv_heads(static_cast<int>(op.kv_heads())),
        head_dim(static_cast<int>(op.head_dim())),
        mask(mask_reader(op)),
        scale(static_cast<float>(op.score_scale())) {}

  constexpr float scale2() const { return scale * kLog2e; }
  constexpr int group() const { return heads / kv_heads; }
  // Steps from a time to the next, in values.
  constexpr int query_stride() const { return heads * head_dim; }
  constexpr int key_stride() const { return kv_heads * head_dim; }
  constexpr std::int64_t query_row(int b, int i, int head) const {
    return (std::int64_t{b} * queries + i) * query_stride() + std::int64_t{head} * head_dim;
  }
  constexpr std::int64_t key_row(int b, int j, int kv_head) const {
    return (std::int64_t{b} * keys + j) * key_stride() + std::int64_t{kv_head} * head_dim;
  }
  constexpr std::int64_t lse_row(int b, int head) const { return (std::int64_t{b} * heads + head) * queries; }
  // Statistics are [batch, heads, queries], with the queries of a head padded to whole blocks.
  constexpr std::int64_t statistics_row(int b, int head) const {
    return (std::int64_t{b} * heads + head) * ceil_div(queries, kStatisticsBlock) * kStatisticsBlock;
  }
};

// A block's place in a grid of one block for each `rows` queries of each head. Those with the last queries, which see
// the most keys, come first, so that the short ones fill the gaps at the end.
struct QueryPlace {
  int b, head, first;
  __device__ QueryPlace(const AttentionSizes& size, int rows) {
    const int pairs = size.batch * size.heads, pair = static_cast<int>(blockIdx.x) % pairs;
    b = pair / size.heads;
    head = pair % size.heads;
    first = (static_cast<int>(gridDim.x) / pairs - 1 - static_cast<int>(blockIdx.x) / pairs) * rows;
  }
};
inline unsigned query_blocks(const AttentionSizes& size, int rows) {
  return blocks_for(size.queries, rows) * static_cast<unsigned>(size.batch * size.heads);
}

// The same for keys; the first ones, which the most queries see, come first.
struct KeyPlace {
  int b, kv_head, first;
  __device__ KeyPlace(const AttentionSizes& size, int rows) {
    const int pairs = size.batch * size.kv_heads, pair = static_cast<int>(blockIdx.x) % pairs;
    b = pair / size.kv_heads;
    kv_head = pair % size.kv_heads;
    first = static_cast<int>(blockIdx.x) / pairs * rows;
  }
};
inline unsigned key_blocks(const AttentionSizes& size, int rows) {
  return blocks_for(size.keys, rows) * static_cast<unsigned>(size.batch * size.kv_heads);
}

// The columns of scores that a row, or some rows, see.
struct Span {
  int begin, end;
  Span() = default;
  __device__ Span(const IndexRange& range)  // NOLINT: the same in fewer bits
      : begin(static_cast<int>(range.begin)), end(static_cast<int>(range.end)) {}
  __device__ bool has(int column) const { return column >= begin && column < end; }
};

// The softmax of a row whose scores arrive block by block: the highest score so far, and the sum of the weights
// 2^(scale2 (score - highest)). A hidden score is minus infinity.
struct RunningSoftmax {
  float maximum = -INFINITY, sum = 0;

  // Takes in the highest of new scores; returns what brings sums made so far to the new maximum.
  __device__ float raise(float highest, float scale2) {
    const float previous = maximum;
    maximum = fmaxf(maximum, highest);
    return weight(previous, scale2);
  }
  __device__ float weight(float score, float scale2) const { return fast_exp2(fmaf(score, scale2, -base(scale2))); }
  // Once the sum is complete. A row that has seen no key becomes zeros.
  __device__ float inverse() const { return sum == 0 ? 0.f : 1 / sum; }
  __device__ float lse(float scale2) const { return sum == 0 ? -INFINITY : fmaf(base(scale2), kLn2, logf(sum)); }

 private:
  __device__ float base(float scale2) const { return maximum == -INFINITY ? 0.f : maximum * scale2; }
};

// What the backward pass needs of each query. The pass for dq makes it in the workspace, the pass for dk and dv reads
// it.
struct alignas(8) QueryStatistics {
  float lse;      // in base 2; infinite for a query that sees no key, which makes its weights zero
  float row_sum;  // over head_dim, of do * o

  __device__ static QueryStatistics of(float lse, float row_sum) {
    return {lse == -INFINITY ? INFINITY : lse * kLog2e, row_sum};
  }
  __device__ float weight(float score, float scale2) const { return fast_exp2(fmaf(score, scale2, -lse)); }
};

// A kernel must be told before it may use more shared memory than every GPU has.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
  if (bytes > 48 * 1024)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute",
               Attention::name);
}

template <class T>
void attention_decode_cuda(const CudaContext& cuda, const Attention& op);
void attention_mma(const CudaContext& cuda, const Attention& op);
template <class T>
void attention_plain(const CudaContext& cuda, const Attention& op);

// The two passes of the backward instruction, in this order.
void attention_dq_mma(const CudaContext& cuda, const AttentionBackward& op, QueryStatistics* statistics);
void attention_dkv_mma(const CudaContext& cuda, const AttentionBackward& op, const QueryStatistics* statistics);
template <class T>
void attention_dq_plain(const CudaContext& cuda, const AttentionBackward& op, QueryStatistics* statistics);
template <class T>
void attention_dkv_plain(const CudaContext& cuda, const AttentionBackward& op, const QueryStatistics* statistics);

}  // namespace omni
