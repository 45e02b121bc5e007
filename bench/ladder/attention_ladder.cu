// attention_ladder: causal attention three times over, from the formula to tensor cores, written to be read; and beside
// them the kernel that the model runs. docs/attention.md goes through this file in its order.

#include <cuda_bf16.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/ladder/harness.h"
#include "kernels/attention/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

using namespace omni;
using namespace omni::ladder;

__device__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ int warp() { return static_cast<int>(threadIdx.x) / kWarp; }

// Versions 2 and 3 give each block some neighbouring queries of a head: its grid, and what a block finds there.
dim3 query_grid(const Sizes& size, int queries) {
  return {blocks_for(size.time, queries), static_cast<unsigned>(size.heads), static_cast<unsigned>(size.batch)};
}
struct QueryTile {
  int first, head, b;
};
__device__ QueryTile query_tile(int queries) {
  return {static_cast<int>(blockIdx.x) * queries, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
}

// ---- 1. Naive: the formula, with the scores in global memory ----------------------------------------------------

namespace naive {

constexpr int kBlock = 128;

// The row of scores that a thread owns: query i of a head of sequence b.
struct Row {
  int index, b, head, i;
  __device__ explicit Row(const Sizes& size)
      : index(static_cast<int>(blockIdx.x * kBlock + threadIdx.x)),
        b(index / size.time / size.heads),
        head(index / size.time % size.heads),
        i(index % size.time) {}
};

// scores = q k^T / sqrt(kHeadDim). Grid: one thread per row of scores [batch, heads, time, time]. Must read q and k and
// write half of the scores, those that are not masked; reads q and k again for each of them.
__global__ void scores_kernel(float* scores, const float* q, const float* k, Sizes size) {
  const Row row(size);
  if (row.index >= size.rows()) return;
  const float* query = q + size.query_row(row.b, row.i, row.head);
  for (int j = 0; j <= row.i; ++j) {
    const float* key = k + size.key_row(row.b, j, row.head);
    float dot = 0;
    for (int d = 0; d < kHeadDim; ++d) dot += query[d] * key[d];
    scores[std::int64_t{row.index} * size.time + j] = dot * size.scale();
  }
}

// Scores become weights, in place. Grid: one thread per row. Reads the row three times and writes it twice.
__global__ void softmax_kernel(float* scores, Sizes size) {
  const Row row(size);
  if (row.index >= size.rows()) return;
  float* x = scores + std::int64_t{row.index} * size.time;
  float maximum = -INFINITY, sum = 0;
  for (int j = 0; j <= row.i; ++j) maximum = fmaxf(maximum, x[j]);
  for (int j = 0; j <= row.i; ++j) sum += x[j] = __expf(x[j] - maximum);
  for (int j = 0; j <= row.i; ++j) x[j] /= sum;
}

// o = weights v. Grid: one thread per row. Must read the weights and v and write o; reads the weights kHeadDim times.
__global__ void weighted_sum_kernel(float* o, const float* weights, const float* v, Sizes size) {
  const Row row(size);
  if (row.index >= size.rows()) return;
  const float* weight = weights + std::int64_t{row.index} * size.time;
  for (int d = 0; d < kHeadDim; ++d) {
    float sum = 0;
    for (int j = 0; j <= row.i; ++j) sum += weight[j] * v[size.key_row(row.b, j, row.head) + d];
    o[size.query_row(row.b, row.i, row.head) + d] = sum;
  }
}

void attention(const CudaContext& cuda, const Sizes& size, const Operands<float>& x) {
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(size.rows()) * static_cast<std::size_t>(size.time);
  auto* scores = reinterpret_cast<float*>(cuda.workspace->get(bytes));
  const unsigned blocks = blocks_for(size.rows(), kBlock);
  scores_kernel<<<blocks, kBlock, 0, stream_of(cuda)>>>(scores, x.q, x.k, size);
  softmax_kernel<<<blocks, kBlock, 0, stream_of(cuda)>>>(scores, size);
  weighted_sum_kernel<<<blocks, kBlock, 0, stream_of(cuda)>>>(x.o, scores, x.v, size);
  check_launch("naive attention");
}

}  // namespace naive

// ---- 2. Tiled: online softmax, keys and values in shared memory -------------------------------------------------

namespace tiled {

constexpr int kTile = 32, kRows = 4, kBlock = kTile / kRows * kWarp, kColumns = kHeadDim / kWarp;
constexpr int kPadding = 1;  // 0: lanes that read one column of a tile meet in one bank
using TileRow = float[kHeadDim + kPadding];

// All threads: kTile rows `stride` values apart become a tile; rows at and after `valid` become zero.
__device__ void load_tile(TileRow* tile, const float* from, int stride, int valid) {
  for (int row = warp(); row < kTile; row += kBlock / kWarp)
    for (int column = lane(); column < kHeadDim; column += kWarp)
      tile[row][column] = row < valid ? from[row * stride + column] : 0.f;
}

// Grid: [tiles of 32 queries, heads, batch]. A warp owns 4 queries. When it makes scores, a lane has one key of the
// tile; when it adds weighted values up, a lane has every 32nd of the kHeadDim columns. Shared: tiles of q, k and v, 37
// KB. Must read q, k and v and write o; reads k and v once per tile of queries and query head that see them.
__global__ void __launch_bounds__(kBlock)
    tiled_kernel(float* o, const float* q, const float* k, const float* v, Sizes size) {
  __shared__ TileRow q_tile[kTile], k_tile[kTile], v_tile[kTile];
  const auto [first, head, b] = query_tile(kTile);
  const int row = warp() * kRows;
  load_tile(q_tile, q + size.query_row(b, first, head), size.query_stride(), size.time - first);

  float maximum[kRows], sum[kRows] = {}, out[kRows][kColumns] = {};
  for (float& x : maximum) x = -INFINITY;
  for (int key = 0; key <= first; key += kTile) {  // tiles on the right of the diagonal are masked
    __syncthreads();                               // the tiles before this one have been used
    load_tile(k_tile, k + size.key_row(b, key, head), size.key_stride(), size.time - key);
    load_tile(v_tile, v + size.key_row(b, key, head), size.key_stride(), size.time - key);
    __syncthreads();

    float score[kRows] = {};
    for (int d = 0; d < kHeadDim; ++d)
      for (int r = 0; r < kRows; ++r) score[r] += q_tile[row + r][d] * k_tile[lane()][d];

    for (int r = 0; r < kRows; ++r) {
      const bool seen = key + lane() <= first + row + r;
      score[r] = seen ? score[r] * size.scale() : -INFINITY;
      const float previous = maximum[r];
      maximum[r] = fmaxf(previous, warp_max(score[r]));
      const float correction = __expf(previous - maximum[r]), weight = __expf(score[r] - maximum[r]);
      sum[r] = sum[r] * correction + weight;
      for (float& x : out[r]) x *= correction;
      score[r] = weight;
    }

    for (int j = 0; j < kTile; ++j) {
      float value[kColumns];
      for (int c = 0; c < kColumns; ++c) value[c] = v_tile[j][lane() + c * kWarp];
      for (int r = 0; r < kRows; ++r) {
        const float weight = __shfl_sync(kAllLanes, score[r], j);  // lane j has that of key j
        for (int c = 0; c < kColumns; ++c) out[r][c] += weight * value[c];
      }
    }
  }

  for (int r = 0; r < kRows && first + row + r < size.time; ++r) {
    const float total = warp_sum(sum[r]);
    float* to = o + size.query_row(b, first + row + r, head);
    for (int c = 0; c < kColumns; ++c) to[lane() + c * kWarp] = out[r][c] / total;
  }
}

void attention(const CudaContext& cuda, const Sizes& size, const Operands<float>& x) {
  tiled_kernel<<<query_grid(size, kTile), kBlock, 0, stream_of(cuda)>>>(x.o, x.q, x.k, x.v, size);
  check_launch("tiled attention");
}

}  // namespace tiled

// ---- 3. Tensor cores: the same loop, on fragments in registers --------------------------------------------------

namespace tensor_cores {

constexpr int kQueries = 64, kKeys = 32, kBlock = kQueries / 16 * kWarp;
constexpr int kChunks = kHeadDim / 8, kRowBytes = kHeadDim * 2;  // a chunk is 16 bytes, eight values
constexpr float kLog2e = 1.44269504088896341f;
constexpr bool kSwizzle = true;  // false: the eight rows that ldmatrix reads at once meet in two groups of banks

// Byte offset of a chunk in a tile. Four neighbouring chunks of a row change places, differently in each pair of rows.
__device__ unsigned offset(int row, int chunk) {
  return static_cast<unsigned>(row * kRowBytes + (kSwizzle ? chunk ^ row / 2 % 4 : chunk) * 16);
}

// All threads: start to copy Rows rows to a tile; rows at and after `valid` become zero.
template <int Rows>
__device__ void load_tile(unsigned tile, const bf16* from, int stride, int valid) {
  for (int i = static_cast<int>(threadIdx.x); i < Rows * kChunks; i += kBlock) {
    const int row = i / kChunks, chunk = i % kChunks;
    copy_async(tile + offset(row, chunk), from + (row < valid ? row * stride + chunk * 8 : 0), row < valid);
  }
}

// Waits until the copies of all threads are there.
__device__ void wait_for_tiles() {
  copy_commit();
  copy_wait<0>();
  __syncthreads();
}

// A lane's address for ldmatrix_x4 of 16 rows and 16 columns: their four 8 x 8 matrices in the order top left, bottom
// left, top right, bottom right (`down`), or top left, top right, bottom left, bottom right (`across`).
__device__ unsigned down(unsigned tile, int row, int column) {
  return tile + offset(row + lane() % 16, column / 8 + lane() / 16);
}
__device__ unsigned across(unsigned tile, int row, int column) {
  return tile + offset(row + lane() / 16 * 8 + lane() % 8, column / 8 + lane() / 8 % 2);
}

// What a warp holds of a product with 16 rows, in the fragment layout of mma_m16n8k16: of each 8 columns, a lane has
// elements 0 and 1 in row lane / 4 and elements 2 and 3 eight rows further, at columns 2 (lane % 4) and the next.
template <int Columns>
using Product = float[Columns / 8][4];

// scores = q k^T for a warp's 16 queries and the keys of a tile. An ldmatrix_x4 feeds two products.
__device__ void multiply_keys(Product<kKeys>& scores, const unsigned (&queries)[kHeadDim / 16][4], unsigned k_tile) {
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16)
#pragma unroll
    for (int j = 0; j < kKeys; j += 16) {
      unsigned keys[4];
      ldmatrix_x4(keys, across(k_tile, j, d));
      mma_m16n8k16(scores[j / 8], queries[d / 16], {keys[0], keys[1]});
      mma_m16n8k16(scores[j / 8 + 1], queries[d / 16], {keys[2], keys[3]});
    }
}

// Scores of keys after the query become minus infinity. `query`: that of elements 0 and 1; `key`: the tile's first.
__device__ void mask(Product<kKeys>& scores, int query, int key) {
  const int first = key + lane() % 4 * 2;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (first + 8 * n + i % 2 > query + i / 2 * 8) scores[n][i] = -INFINITY;
}

// The softmax of a query so far. Four lanes share a query: `maximum` is that of all, `sum` is of the lane's own keys.
struct Softmax {
  float maximum = -INFINITY, sum = 0;
};

// Scores become weights, and the sums so far follow to the new maximum, for the query of elements `half` and half + 1.
// Base 2: an exponential is one instruction.
__device__ void softmax_step(Product<kKeys>& scores, Product<kHeadDim>& out, Softmax& softmax, int half, float scale2) {
  float maximum = softmax.maximum;
  for (const auto& x : scores) maximum = fmaxf(maximum, fmaxf(x[half], x[half + 1]));
  maximum = warp_max<4>(maximum);
  const float correction = fast_exp2((softmax.maximum - maximum) * scale2);
  softmax.maximum = maximum;
  softmax.sum *= correction;
  for (auto& x : scores)
    for (int i = half; i < half + 2; ++i) softmax.sum += x[i] = fast_exp2((x[i] - maximum) * scale2);
  for (auto& x : out)
    for (int i = half; i < half + 2; ++i) x[i] *= correction;
}

__device__ unsigned two_bf16(float low, float high) {
  const __nv_bfloat162_raw both = __floats2bfloat162_rn(low, high);
  return both.x | static_cast<unsigned>(both.y) << 16;
}

// out += weights v for the keys of a tile. A product of 16 columns is, rounded, just what the next one wants as its
// left operand: each lane has the values that it needs.
__device__ void add_values(Product<kHeadDim>& out, const Product<kKeys>& weights, unsigned v_tile) {
#pragma unroll
  for (int j = 0; j < kKeys; j += 16) {
    unsigned a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* pair = &weights[j / 8 + i / 2][i % 2 * 2];
      a[i] = two_bf16(pair[0], pair[1]);
    }
#pragma unroll
    for (int d = 0; d < kHeadDim; d += 16) {
      unsigned values[4];
      ldmatrix_x4_transposed(values, down(v_tile, j, d));
      mma_m16n8k16(out[d / 8], a, {values[0], values[1]});
      mma_m16n8k16(out[d / 8 + 1], a, {values[2], values[3]});
    }
  }
}

// Grid: [tiles of 64 queries, heads, batch]. A warp owns 16 queries; their fragments, scores and sums are its
// registers. Shared: tiles of q, k and v, 24 KB. Must read q, k and v and write o; reads k and v once per tile of
// queries and query head that see them.
__global__ void __launch_bounds__(kBlock)
    tensor_core_kernel(bf16* o, const bf16* q, const bf16* k, const bf16* v, Sizes size) {
  __shared__ alignas(128) char memory[(kQueries + 2 * kKeys) * kRowBytes];
  const unsigned q_tile = shared_address(memory), k_tile = q_tile + kQueries * kRowBytes,
                 v_tile = k_tile + kKeys * kRowBytes;
  const auto [first, head, b] = query_tile(kQueries);
  const int row = warp() * 16, query = first + row + lane() / 4;  // a lane's queries: this one and 8 further
  load_tile<kQueries>(q_tile, q + size.query_row(b, first, head), size.query_stride(), size.time - first);
  wait_for_tiles();
  unsigned queries[kHeadDim / 16][4];
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16) ldmatrix_x4(queries[d / 16], down(q_tile, row, d));

  Softmax softmax[2];
  Product<kHeadDim> out = {};
  for (int key = 0; key < min(first + kQueries, size.time); key += kKeys) {
    __syncthreads();  // the tiles before these have been used
    load_tile<kKeys>(k_tile, k + size.key_row(b, key, head), size.key_stride(), size.time - key);
    load_tile<kKeys>(v_tile, v + size.key_row(b, key, head), size.key_stride(), size.time - key);
    wait_for_tiles();
    if (key > first + row + 15) continue;  // masked for all of the warp's queries
    Product<kKeys> scores = {};
    multiply_keys(scores, queries, k_tile);
    if (key + kKeys - 1 > first + row) mask(scores, query, key);
    for (const int half : {0, 1}) softmax_step(scores, out, softmax[half], 2 * half, size.scale() * kLog2e);
    add_values(out, scores, v_tile);
  }

  for (Softmax& x : softmax) x.sum = warp_sum<4>(x.sum);  // all lanes take part, also those without a query
  for (const int half : {0, 1}) {
    if (query + 8 * half >= size.time) break;
    bf16* to = o + size.query_row(b, query + 8 * half, head) + lane() % 4 * 2;
    const float factor = 1 / softmax[half].sum;
    for (int n = 0; n < kHeadDim / 8; ++n)
      *reinterpret_cast<unsigned*>(to + 8 * n) = two_bf16(out[n][2 * half] * factor, out[n][2 * half + 1] * factor);
  }
}

void attention(const CudaContext& cuda, const Sizes& size, const Operands<bf16>& x) {
  tensor_core_kernel<<<query_grid(size, kQueries), kBlock, 0, stream_of(cuda)>>>(x.o, x.q, x.k, x.v, size);
  check_launch("tensor-core attention");
}

}  // namespace tensor_cores

// ---- The model's kernel, kernels/attention/forward_mma.cu -------------------------------------------------------

namespace model {

void attention(const CudaContext& cuda, const Sizes& size, const Operands<bf16>& x) {
  const Shape q_shape{size.batch, size.time, size.heads, kHeadDim},
      k_shape{size.batch, size.time, size.kv_heads, kHeadDim};
  run(cuda, Attention{.o = {{x.o, DType::bf16, q_shape, Place::cuda}},
                      .q = {x.q, DType::bf16, q_shape, Place::cuda},
                      .k = {x.k, DType::bf16, k_shape, Place::cuda},
                      .v = {x.v, DType::bf16, k_shape, Place::cuda}});
}

}  // namespace model

// ---- Checks and times -------------------------------------------------------------------------------------------

// Calls visit(name, launcher) for each version.
template <class Visit>
void for_each_version(const Visit& visit) {
  visit("naive", naive::attention);
  visit("tiled", tiled::attention);
  visit("tensor cores", tensor_cores::attention);
  visit("the model's", model::attention);
}

// Prints the error of each version, and its time if `timed`. True if all are within the tolerance.
bool run_versions(const Sizes& size, int repeat, bool timed) {
  const Problem problem(size);
  bool good = true;
  std::string times;
  std::printf("%3d x %-4d %3d / %-3d", size.batch, size.time, size.heads, size.kv_heads);
  for_each_version([&](const char*, auto launch) {
    const Result result = run_version(problem, launch, repeat);
    const bool fits = result.error <= 1;
    good = good && fits;
    std::printf("%10.3f%-5s", result.error, fits ? "" : " BAD");
    char text[32];
    std::snprintf(text, sizeof text, "%10.3f     ", result.milliseconds);
    times += text;
  });
  std::printf("\n");
  if (timed)
    std::printf("%-20s%s\n(by CUDA events; under a simulator they mean nothing)\n", "milliseconds", times.c_str());
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Runs three versions of causal attention, each written to be read, and the model's kernel; checks them against "
      "the formula in double and prints their times. docs/attention.md explains them.\n"
      "Exits with 1 if a result is wrong. Under a simulator the times are those of the simulator and mean nothing.\n\n"
      "Examples:\n  attention_ladder\n  attention_ladder --batch 32 --time 512 --repeat 20\n"
      "  attention_ladder --model-shape-only      (for profilers, and for counters of a simulator)");
  Sizes model{2, 256, 8, 4};
  int repeat = 1;
  bool model_shape_only = false;
  app.add_option("--batch", model.batch, "sequences, of the model's shape: 8 query heads over 4, head_dim 96")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--time", model.time, "their length")->check(CLI::Range(1, 8192))->capture_default_str();
  app.add_option("--repeat", repeat, "runs of the model's shape, of which the fastest counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--model-shape-only", model_shape_only, "leave out the awkward sizes");
  CLI11_PARSE(app, argc, argv);
  try {
    if (cuda_device_count() == 0) throw std::runtime_error("there is no GPU");
    std::printf("largest error, as a fraction of the tolerance\n%-10s%10s", "batch x time", "heads");
    for_each_version([](const char* name, auto) { std::printf("%15s", name); });
    std::printf("\n");
    bool good = true;
    if (!model_shape_only)
      for (const int time : {1, 31, 33, 65, 129})
        for (const int group : {1, 2}) good = run_versions({2, time, 2 * group, 2}, 1, false) && good;
    good = run_versions(model, repeat, true) && good;
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attention_ladder: %s\n", error.what());
    return 1;
  }
}
