#include <type_traits>

#include "kernels/cuda/copy_row.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/embedding/embedding.h"

namespace omni {
namespace {

constexpr int kWarps = 8, kBlock = kWarps * kWarp;

// One warp owns a row of y, a lane packs of `Size` values of it: 16 bytes, or 1 value where rows do not begin on 16
// bytes. An id outside the table is reported and its row left alone. No shared memory. Must move y and the rows of the
// table that it is made of.
template <class T, int Size>
__global__ void embedding_kernel(T* __restrict__ y,                     // [rows, width]
                                 const T* __restrict__ table,           // [vocab, width]
                                 const std::int64_t* __restrict__ ids,  // [rows]
                                 CudaFault* fault, std::int64_t rows, std::int64_t vocab, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const std::int64_t id = ids[row];
  if (id < 0 || id >= vocab) return report_fault(fault, CudaFault::embedding_id, id, vocab);
  copy_row<Size>(y + row * width, table + id * width, width);
}

// One warp owns 32 * Size columns (blockIdx.y) of a row of y, a lane `Size` of them, and adds the rows of the group's
// ids in order. An id outside the table is reported at the end, so that loads need not wait for the comparison, and its
// row left alone. No shared memory. Must move y and the rows of the table that it is made of.
template <class T, int Size>
__global__ void __launch_bounds__(kBlock)
    embedding_sum_kernel(T* __restrict__ y,                     // [rows, width]
                         const T* __restrict__ table,           // [vocab, width]
                         const std::int64_t* __restrict__ ids,  // [rows, group]
                         CudaFault* fault, std::int64_t rows, std::int64_t vocab, int width, int group, float factor) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int column = (blockIdx.y * kWarp + threadIdx.x % kWarp) * Size;
  float sum[Size] = {};
  bool all_rows = true;
  std::int64_t wrong = 0;
#pragma unroll 4
  for (int j = 0; j < group; ++j) {
    const std::int64_t id = ids[row * group + j];
    const bool is_row = id >= 0 && id < vocab;
    if (!is_row) all_rows = false, wrong = id;
    Pack<T, Size> in = {};
    if (is_row && column < width) in = load_pack<Size>(table + id * width + column);
#pragma unroll
    for (int i = 0; i < Size; ++i) sum[i] += widen(in.lane[i]);
  }
  if (!all_rows) return report_fault(fault, CudaFault::embedding_id, wrong, vocab);
  Pack<T, Size> out;
#pragma unroll
  for (int i = 0; i < Size; ++i) out.lane[i] = narrow<T>(factor * sum[i]);
  if (column < width) store_pack(y + row * width + column, out);
}

// For the backward pass, positions 0, 1, 2, ... of the ids are seen as tiles of 32, and a bit for each tile and each
// row of the table tells whether the tile holds that row's id: words[v][i / 32] bit i % 32 for tile i.

// One thread owns one position. Bits are set in any order, which makes no difference. No shared memory. Must move the
// ids.
__global__ void mark_tiles_kernel(unsigned* words,                       // [vocab, words_per_row], zeros before
                                  const std::int64_t* __restrict__ ids,  // [count]
                                  CudaFault* fault, std::int64_t count, std::int64_t vocab,
                                  std::int64_t words_per_row) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= count) return;
  const std::int64_t id = ids[i], tile = i / kWarp;
  if (id < 0 || id >= vocab) return report_fault(fault, CudaFault::embedding_id, id, vocab);
  atomicOr(&words[id * words_per_row + tile / kWarp], 1u << tile % kWarp);
}

// The rows of dy that a warp is yet to add, in order: a ring in shared memory. Up to kSize - 32 may be left when those
// of a tile come. `group` ids share a row.
struct Queue {
  static constexpr int kSize = 2 * kWarp;
  int* rows;  // [kSize]
  int group;
  int head = 0, tail = 0;

  __device__ int count() const { return tail - head; }
  // The k-th of them.
  __device__ int operator[](int k) const { return rows[(head + k) % kSize]; }
  // Appends the row of position `first + lane` of each lane in `hits`.
  __device__ void append(int first, unsigned hits) {
    const int lane = threadIdx.x % kWarp;
    if (hits >> lane & 1u)
      rows[(tail + __popc(hits & ((1u << lane) - 1u))) % kSize] = group == 1 ? first + lane : (first + lane) / group;
    tail += __popc(hits);
    __syncwarp();
  }
  __device__ void drop(int n) {
    head += n;
    __syncwarp();
  }
};

// How many rows of dy a lane loads before it adds them, so that a frequent id does not wait for memory at each row.
template <class T, int Size>
inline constexpr int kBatch = sizeof(Pack<T, Size>) == 16 ? 8 : 12;

// sum += factor * the first kBatch rows of dy [rows, width] in the queue, or all if they are fewer, in order.
template <class T, int Size>
__device__ void add_rows(Pack<float, Size>& sum, Queue& queue, const T* __restrict__ dy, float factor, int column,
                         int width) {
  const int count = column < width ? min(queue.count(), kBatch<T, Size>) : 0;
  using Raw = std::conditional_t<sizeof(Pack<T, Size>) == 8, uint2, Pack<T, Size>>;  // four bf16 in two registers
  Raw in[kBatch<T, Size>];
#pragma unroll
  for (int k = 0; k < kBatch<T, Size>; ++k)
    if (k < count) in[k] = *reinterpret_cast<const Raw*>(dy + std::int64_t{queue[k]} * width + column);
#pragma unroll
  for (int k = 0; k < kBatch<T, Size>; ++k)
    if (k < count) {
#pragma unroll
      for (int i = 0; i < Size; ++i) sum.lane[i] += factor * widen(__builtin_bit_cast(Pack<T, Size>, in[k]).lane[i]);
    }
  queue.drop(min(queue.count(), kBatch<T, Size>));
}

// sum += factor * the rows of dy whose ids are v in these tiles, bit i of which is tile `first_tile` + i.
template <class T, int Size>
__device__ void add_tiles(Pack<float, Size>& sum, Queue& queue, unsigned tiles, int first_tile, std::int64_t v,
                          const T* __restrict__ dy, const std::int64_t* __restrict__ ids, int count, float factor,
                          int column, int width) {
  constexpr int kTiles = 4;  // whose ids are loaded together
  while (tiles != 0) {
    int begin[kTiles];
    std::int64_t id[kTiles];
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
      begin[k] = tiles == 0 ? count : (first_tile + __ffs(static_cast<int>(tiles)) - 1) * kWarp;
      tiles &= tiles - 1;
      const int position = begin[k] + static_cast<int>(threadIdx.x % kWarp);
      id[k] = position < count ? ids[position] : -1;
    }
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
      queue.append(begin[k], __ballot_sync(kAllLanes, id[k] == v));
      while (queue.count() >= kBatch<T, Size>) add_rows(sum, queue, dy, factor, column, width);
    }
  }
}

// One warp owns 32 * Size columns (blockIdx.y) of a row v of dtable, a lane `Size` of them: as many as 16 bytes hold,
// or 1 where rows do not begin on 16 bytes. It looks for the id v in the tiles that have it and adds the rows of dy
// that it finds, in order. 2 KB of shared memory. Must move dy and the ids once, and dtable, or the rows of it that
// change.
template <class T, int Size>
__global__ void __launch_bounds__(kBlock, 3)
    embedding_backward_kernel(float* __restrict__ dtable,            // [vocab, width]
                              const T* __restrict__ dy,              // [count / group, width]
                              const std::int64_t* __restrict__ ids,  // [count]
                              const unsigned* __restrict__ words,    // [vocab, words_per_row]
                              int count, std::int64_t vocab, int width, int words_per_row, int group, float factor,
                              bool accumulate) {
  __shared__ int rings[kWarps][Queue::kSize];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, column = (blockIdx.y * kWarp + lane) * Size;
  const std::int64_t v = std::int64_t{blockIdx.x} * kWarps + warp;
  if (v >= vocab) return;
  float* to = dtable + v * width;
  Queue queue{rings[warp], group};
  Pack<float, Size> sum = {};
  bool is_named = false;
  for (int first = 0; first < words_per_row; first += kWarp) {
    const unsigned mine = first + lane < words_per_row ? words[v * words_per_row + first + lane] : 0u;
    for (unsigned left = __ballot_sync(kAllLanes, mine != 0); left != 0; left &= left - 1) {
      const int word = __ffs(static_cast<int>(left)) - 1;
      if (!is_named && accumulate && column < width) sum = load_pack<Size>(to + column);
      is_named = true;
      add_tiles(sum, queue, __shfl_sync(kAllLanes, mine, word), (first + word) * kWarp, v, dy, ids, count, factor,
                column, width);
    }
  }
  while (queue.count() > 0) add_rows(sum, queue, dy, factor, column, width);
  if (column < width && (is_named || !accumulate)) store_pack(to + column, sum);
}

}  // namespace

void run(const CudaContext& cuda, const Embedding& op) {
  if (op.y.count() == 0) return;
  const std::int64_t *ids = op.ids.as<std::int64_t>(), rows = op.y.rows(), vocab = op.table.rows();
  const int width = static_cast<int>(op.y.width());
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<T>(width, [&]<int Size>() {
      T* y = op.y.as<T>();
      const T* table = op.table.as<T>();
      const dim3 grid(blocks_for(rows, kWarps), blocks_for(width, kWarp * Size));
      if (op.group == 1 && op.factor == 1)
        embedding_kernel<T, Size>
            <<<grid.x, kBlock, 0, stream_of(cuda)>>>(y, table, ids, cuda.fault, rows, vocab, width);
      else
        embedding_sum_kernel<T, Size><<<grid, kBlock, 0, stream_of(cuda)>>>(
            y, table, ids, cuda.fault, rows, vocab, width, static_cast<int>(op.group), static_cast<float>(op.factor));
    });
  });
  check_launch(Embedding::name);
}

void run(const CudaContext& cuda, const EmbeddingBackward& op) {
  if (!op.dtable) return;
  const std::int64_t count = op.ids.count(), vocab = op.dtable.rows(), width = op.dy.width();
  const std::int64_t words_per_row = ceil_div(count, kWarp * kWarp);
  const std::int64_t* ids = op.ids.as<std::int64_t>();
  const auto bytes = static_cast<std::size_t>(vocab * words_per_row) * sizeof(unsigned);
  auto* words = reinterpret_cast<unsigned*>(cuda.workspace->get(bytes));
  if (count > 0) {
    if (bytes > 0) check_cuda(cudaMemsetAsync(words, 0, bytes, stream_of(cuda)), "cudaMemsetAsync", op.name);
    mark_tiles_kernel<<<blocks_for(count, kBlock), kBlock, 0, stream_of(cuda)>>>(words, ids, cuda.fault, count, vocab,
                                                                                 words_per_row);
    check_launch(EmbeddingBackward::name);
  }
  if (op.dtable.count() == 0) return;
  dispatch_cuda(op.dy.dtype, [&]<class T>() {
    dispatch_pack<float>(width, [&]<int Size>() {
      const dim3 grid(blocks_for(vocab, kWarps), blocks_for(width, kWarp * Size));
      embedding_backward_kernel<T, Size><<<grid, kBlock, 0, stream_of(cuda)>>>(
          op.dtable.as<float>(), op.dy.as<T>(), ids, words, static_cast<int>(count), vocab, static_cast<int>(width),
          static_cast<int>(words_per_row), static_cast<int>(op.group), static_cast<float>(op.factor), op.accumulate);
    });
  });
  check_launch(EmbeddingBackward::name);
}

}  // namespace omni
