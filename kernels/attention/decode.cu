#include <algorithm>

#include "kernels/attention/decode.h"
#include "kernels/attention/passes.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"

namespace omni {
namespace {

// Eight lanes work on a key, a block on 32 keys at a time.
constexpr int kLanes = 8, kKeys = 32, kThreads = kKeys * kLanes, kMaxWidth = Attention::kMaxHeadDim;
constexpr int kMostSplits = kMaxWidth;  // each thread of the second kernel has one split and one column

// The keys of a sequence cut into at most `splits` ranges of whole blocks of keys. The lengths are read here, on the
// GPU: the grid is made from shapes alone, so that a captured launch can be repeated while a cache grows.
struct Split {
  int first, last, used;  // used: how many splits have a key
  __device__ Split(const AttentionSizes& size, int b, int split, int splits) {
    const int begin = static_cast<int>(size.mask.keys_of(b, 0).begin);
    const int end = static_cast<int>(size.mask.keys_of(b, size.queries - 1).end), count = max(end - begin, 0);
    const int each = ((count + splits - 1) / splits + kKeys - 1) / kKeys * kKeys;
    first = begin + split * each;
    last = min(first + each, end);
    used = count == 0 ? 0 : (count + each - 1) / each;
  }
};

// What a split, or all of them, found for a row: a query of one head of the group.
struct alignas(8) RowSoftmax {
  float maximum, sum;
};

// The place of a column in a line of shared memory that lanes read and write by packs, four values at a time. Eight
// lanes with eight values each would meet in half of the banks; so in every second 32 values the fours change places.
template <int Size>
__device__ int place_of(int column) {
  return Size == 8 ? column ^ (column >> 3 & 4) : column;
}

// Where rows begin: row r of a key-value head is query r % queries of the (r / queries)-th head of the group.
struct Rows {
  int b, kv_head, count;
  __device__ Rows(const AttentionSizes& size, int pair)
      : b(pair / size.kv_heads), kv_head(pair % size.kv_heads), count(size.group() * size.queries) {}
  __device__ int query(const AttentionSizes& size, int row) const { return row % size.queries; }
  __device__ int head(const AttentionSizes& size, int row) const { return kv_head * size.group() + row / size.queries; }
};

// Value `column` of a row's result.
template <class T>
__device__ void store_result(T* o, float* lse, const AttentionSizes& size, const Rows& rows, int row, int column,
                             float sum, const RunningSoftmax& softmax) {
  const int query = rows.query(size, row), head = rows.head(size, row);
  if (column < size.head_dim) o[size.query_row(rows.b, query, head) + column] = narrow<T>(sum * softmax.inverse());
  if (column == 0 && lse != nullptr) lse[size.lse_row(rows.b, head) + query] = softmax.lse(size.scale2());
}

// The sums of `Count` rows over the keys of one group of eight lanes. A lane has every eighth pack of head_dim.
template <class T, int Size, int Count>
struct LaneSums {
  static constexpr int kPacks = kMaxWidth / (kLanes * Size), kStep = Size < 4 ? Size : 4;
  RunningSoftmax softmax[Count];
  float sums[Count][kPacks][Size] = {};

  __device__ static int column(int pack) { return (pack * kLanes + static_cast<int>(threadIdx.x) % kLanes) * Size; }

  __device__ static int place(int pack, int i) {
    return pack * kLanes * Size + place_of<Size>(static_cast<int>(threadIdx.x) % kLanes * Size + i);
  }

  // k, v: the rows of the lane's key, or null behind the last one. queries [Count, kMaxWidth], seen [Count].
  __device__ void add_key(const T* k, const T* v, const float* queries, int key, const Span* seen, int head_dim,
                          float scale2) {
    Pack<T, Size> keys[kPacks] = {}, values[kPacks] = {};
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (k != nullptr && column(p) < head_dim) {
        keys[p] = load_pack<Size>(k + column(p));
        values[p] = load_pack<Size>(v + column(p));
      }
#pragma unroll
    for (int r = 0; r < Count; ++r) {
      float score = 0;
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        if (p * kLanes * Size >= head_dim) break;
#pragma unroll
        for (int i = 0; i < Size; i += kStep) {
          const Pack<float, kStep> query = load_pack<kStep>(queries + r * kMaxWidth + place(p, i));
#pragma unroll
          for (int j = 0; j < kStep; ++j) score = fmaf(widen(keys[p].lane[i + j]), query.lane[j], score);
        }
      }
      score = warp_sum<kLanes>(score);
      if (k == nullptr || !seen[r].has(key)) continue;
      const float correction = softmax[r].raise(score, scale2), weight = softmax[r].weight(score, scale2);
      softmax[r].sum = fmaf(softmax[r].sum, correction, weight);
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        if (p * kLanes * Size >= head_dim) break;
#pragma unroll
        for (int i = 0; i < Size; ++i)
          sums[r][p][i] = fmaf(weight, widen(values[p].lane[i]), sums[r][p][i] * correction);
      }
    }
  }

  // Writes the sums of a row, times a factor, to a line that the group shares.
  __device__ void gather(float* line, int r, float factor, int head_dim) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (column(p) >= head_dim) break;
#pragma unroll
      for (int i = 0; i < Size; i += kStep) {
        Pack<float, kStep> out;
#pragma unroll
        for (int j = 0; j < kStep; ++j) out.lane[j] = sums[r][p][i + j] * factor;
        *reinterpret_cast<Pack<float, kStep>*>(line + place(p, i)) = out;
      }
    }
  }
};

// Grid: for each key-value head of each sequence and each `Count` of its rows, `splits` blocks, each with a range of
// the keys; blocks behind the last key leave at once. A group of lanes keeps the sums of the rows in registers; the
// groups are joined at the end. Shared: the queries, what they see, and what the groups found. Must read k and v as far
// as they are seen, once for all rows (blocks with the same keys are neighbours), and write a softmax and head_dim sums
// per row, or with one split o and lse.
template <class T, int Size, int Count>
__global__ void __launch_bounds__(kThreads, Count <= 2 ? 2 : 1)
    decode_kernel(RowSoftmax* __restrict__ partial, float* __restrict__ partial_sums, T* __restrict__ o,
                  float* __restrict__ lse, const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
                  const AttentionSizes size) {
  __shared__ alignas(16) float queries[Count * kMaxWidth];
  __shared__ alignas(16) float gathered[kKeys][kMaxWidth + kLanes];
  __shared__ RowSoftmax groups[Count][kKeys];
  __shared__ Span seen[Count];
  const int splits = static_cast<int>(gridDim.y), head_dim = size.head_dim, thread = static_cast<int>(threadIdx.x);
  const int parts = (size.group() * size.queries + Count - 1) / Count, pair = static_cast<int>(blockIdx.x) / parts;
  const int first = static_cast<int>(blockIdx.x) % parts * Count;
  const Rows rows(size, pair);
  const Split split(size, rows.b, static_cast<int>(blockIdx.y), splits);
  if (blockIdx.y > 0 && split.first >= split.last) return;

#pragma unroll 1
  for (int i = thread; i < Count * kMaxWidth; i += kThreads) {
    const int row = first + i / kMaxWidth, column = i % kMaxWidth;
    const bool inside = row < rows.count && column < head_dim;
    const T* from = q + size.query_row(rows.b, rows.query(size, row), rows.head(size, row));
    queries[i - column + place_of<Size>(column)] = inside ? widen(from[column]) : 0.f;
  }
  if (thread < Count) seen[thread] = size.mask.keys_of(rows.b, rows.query(size, first + thread));
  __syncthreads();
  LaneSums<T, Size, Count> lane;
#pragma unroll 1
  for (int key = split.first + thread / kLanes; key < split.last + thread / kLanes; key += kKeys) {
    const std::int64_t at = size.key_row(rows.b, key, rows.kv_head);
    lane.add_key(key < split.last ? k + at : nullptr, v + at, queries, key, seen, head_dim, size.scale2());
  }
#pragma unroll
  for (int r = 0; r < Count; ++r)
    if (thread % kLanes == 0) groups[r][thread / kLanes] = {lane.softmax[r].maximum, lane.softmax[r].sum};
#pragma unroll
  for (int r = 0; r < Count; ++r) {
    __syncthreads();
    const RowSoftmax group = groups[r][thread % kWarp];
    RunningSoftmax total;
    total.raise(warp_max(group.maximum), size.scale2());
    total.sum = warp_sum(group.sum * total.weight(group.maximum, size.scale2()));
    lane.gather(gathered[thread / kLanes], r, total.weight(lane.softmax[r].maximum, size.scale2()), head_dim);
    __syncthreads();
    const int row = first + r;
    if (row >= rows.count || thread >= head_dim) continue;
    float sum = 0;
#pragma unroll
    for (int g = 0; g < kKeys; ++g) sum += gathered[g][place_of<Size>(thread)];
    if (splits == 1) {
      store_result(o, lse, size, rows, row, thread, sum, total);
    } else {
      const std::int64_t at = (std::int64_t{pair} * splits + blockIdx.y) * rows.count + row;
      partial_sums[at * head_dim + thread] = sum;
      if (thread == 0) partial[at] = {total.maximum, total.sum};
    }
  }
}

// Grid: one block per row; a thread weighs one split, then adds up one column over the splits, in their order. Shared:
// the weights. Must read what the splits in use have written and write o and lse.
template <class T>
__global__ void __launch_bounds__(kMostSplits)
    join_splits_kernel(T* __restrict__ o, float* __restrict__ lse, const RowSoftmax* __restrict__ partial,
                       const float* __restrict__ partial_sums, const AttentionSizes size, int splits) {
  __shared__ float weights[kMostSplits], shared[kMostSplits / kWarp];
  const int count = size.group() * size.queries, thread = static_cast<int>(threadIdx.x);
  const int pair = static_cast<int>(blockIdx.x) / count, row = static_cast<int>(blockIdx.x) % count;
  const Rows rows(size, pair);
  const int used = Split(size, rows.b, 0, splits).used;
  const auto at = [=](int split) { return (std::int64_t{pair} * splits + split) * count + row; };
  const RowSoftmax own = thread < used ? partial[at(thread)] : RowSoftmax{-INFINITY, 0};
  RunningSoftmax total;
  total.raise(block_max<kMostSplits>(own.maximum, shared), size.scale2());
  weights[thread] = total.weight(own.maximum, size.scale2());
  total.sum = block_sum<kMostSplits>(own.sum * weights[thread], shared);
  __syncthreads();
  if (thread >= size.head_dim) return;
  float sum = 0;
#pragma unroll 8
  for (int split = 0; split < used; ++split)
    sum = fmaf(weights[split], partial_sums[at(split) * size.head_dim + thread], sum);
  store_result(o, lse, size, rows, row, thread, sum, total);
}

template <class Body>
void dispatch_rows(int rows, Body&& body) {
  if (rows == 1) return body.template operator()<1>();
  if (rows == 2) return body.template operator()<2>();
  return body.template operator()<4>();
}

}  // namespace

template <class T>
void attention_decode_cuda(const CudaContext& cuda, const Attention& op) {
  const AttentionSizes size(op);
  const std::int64_t pairs = op.batch() * op.kv_heads(), rows = size.group() * op.queries();
  // Four blocks on each multiprocessor, but no split for less than a block of keys.
  const std::int64_t splits =
      std::clamp<std::int64_t>(ceil_div(4 * cuda.multiprocessors, pairs), 1,
                               std::clamp<std::int64_t>(ceil_div(op.keys(), kKeys), 1, kMostSplits));
  const std::int64_t partials = splits == 1 ? 0 : pairs * splits * rows;
  auto* partial = reinterpret_cast<RowSoftmax*>(
      cuda.workspace->get(static_cast<std::size_t>(partials) *
                          (sizeof(RowSoftmax) + static_cast<std::size_t>(size.head_dim) * sizeof(float))));
  auto* sums = reinterpret_cast<float*>(partial + partials);
  dispatch_pack<T>(size.head_dim, [&]<int Size>() {
    dispatch_rows(static_cast<int>(rows), [&]<int Count>() {
      decode_kernel<T, Size, Count>
          <<<dim3(static_cast<unsigned>(pairs) * blocks_for(rows, Count), static_cast<unsigned>(splits)), kThreads, 0,
             stream_of(cuda)>>>(partial, sums, op.o.as<T>(), op.lse.as<float>(), op.q.as<T>(), op.k.as<T>(),
                                op.v.as<T>(), size);
    });
  });
  check_launch(Attention::name);
  if (splits == 1) return;
  join_splits_kernel<<<static_cast<unsigned>(pairs * rows), kMostSplits, 0, stream_of(cuda)>>>(
      op.o.as<T>(), op.lse.as<float>(), partial, sums, size, static_cast<int>(splits));
  check_launch(Attention::name);
}

template void attention_decode_cuda<float>(const CudaContext&, const Attention&);
template void attention_decode_cuda<bf16>(const CudaContext&, const Attention&);

}  // namespace omni
