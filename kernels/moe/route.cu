#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/moe/moe.h"

namespace omni {
namespace {

constexpr int kMaxExperts = MoeRouteBackward::kMaxExperts;
constexpr int kBlock = 256, kWarps = kBlock / kWarp;
constexpr std::int64_t kRowsPerBlock = 32, kBlocks = 128;  // at least so many rows, at most so many blocks
constexpr float kTinySum = 1e-20f;                         // as in the CPU's twin
static_assert(kBlock >= kMaxExperts);                      // thread e owns what concerns expert e

// Neighbouring rows for each block. It depends on the rows alone, so every GPU adds in the same order.
struct Partition {
  std::int64_t rows, rows_per_block;
  unsigned blocks;  // at least one: offsets and loss are wanted even without rows

  explicit Partition(std::int64_t all)
      : rows(all),
        rows_per_block(std::max(kRowsPerBlock, ceil_div(all, kBlocks))),
        blocks(std::max(1u, blocks_for(all, rows_per_block))) {}
  __device__ std::int64_t begin() const { return blockIdx.x * rows_per_block; }
  __device__ std::int64_t end() const { return min(begin() + rows_per_block, rows); }
};

// An expert that may be chosen. Equals, and NaN beside NaN (a row has only NaN or none), go to the lower expert.
struct Candidate {
  float p = -INFINITY;
  int expert = kMaxExperts;
  __device__ bool beats(const Candidate& other) const {
    return p > other.p || (!(other.p > p) && expert < other.expert);
  }
};

template <int Lanes>
__device__ Candidate best_of_lanes(Candidate best) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, best.p, distance),
                          __shfl_xor_sync(kAllLanes, best.expert, distance)};
    if (other.beats(best)) best = other;
  }
  return best;
}

// p[i] of a lane belongs to expert i * Lanes + lane; nothing is read if experts is 0.
template <int Lanes, int PerLane, class T>
__device__ void softmax_row(float (&p)[PerLane], const T* logits, int experts) {
  const int lane = threadIdx.x % Lanes;
  float maximum = -INFINITY, sum = 0;
#pragma unroll
  for (int i = 0; i < PerLane; ++i) {
    const int e = i * Lanes + lane;
    p[i] = e < experts ? widen(logits[e]) : -INFINITY;
    maximum = fmaxf(maximum, p[i]);
  }
  maximum = warp_max<Lanes>(maximum);
#pragma unroll
  for (int i = 0; i < PerLane; ++i) sum += p[i] = i * Lanes + lane < experts ? expf(p[i] - maximum) : 0;
  sum = warp_sum<Lanes>(sum);
#pragma unroll
  for (int i = 0; i < PerLane; ++i) p[i] /= sum;
}

// The k-th choice of a row ends in place k / Lanes of lane k % Lanes. Returns the sum of the chosen p, in their order.
template <int Lanes, int PerLane>
__device__ float select(Candidate (&chosen)[PerLane], const float (&p)[PerLane], int experts, int top_k) {
  const int lane = threadIdx.x % Lanes;
  unsigned taken = 0;  // bit i: expert i * Lanes + lane
  float sum = 0;
#pragma unroll
  for (int place = 0; place < PerLane; ++place)
    for (int turn = 0; turn < min(Lanes, top_k - place * Lanes); ++turn) {
      Candidate best;
#pragma unroll
      for (int i = 0; i < PerLane; ++i) {
        const Candidate own{p[i], i * Lanes + lane};
        if (own.expert < experts && !(taken >> i & 1) && own.beats(best)) best = own;
      }
      best = best_of_lanes<Lanes>(best);
      if (best.expert % Lanes == lane) taken |= 1u << best.expert / Lanes;
      if (turn == lane) chosen[place] = best;
      sum += best.p;
    }
  return sum;
}

// A block owns the rows of its part of the Partition, `Lanes` neighbouring lanes one row at a time, a lane every
// Lanes-th expert and choice. Notes for each block and expert how many slots and how much probability it got.
// Shared memory: 2 to 9 KB. Must move 4 or 8 bytes per logit, 12 per slot.
template <class T, int Lanes, int PerLane>
__global__ void __launch_bounds__(kBlock) route_rows_kernel(float* __restrict__ probability,    // [rows, experts]
                                                            float* __restrict__ weight,         // [rows, top_k]
                                                            std::int64_t* __restrict__ expert,  // [rows, top_k]
                                                            int* __restrict__ count,            // [blocks, experts]
                                                            float* __restrict__ mass,           // [blocks, experts]
                                                            const T* __restrict__ logits,       // [rows, experts]
                                                            Partition part, int experts, int top_k, bool normalize) {
  constexpr int kGroups = kBlock / Lanes;
  __shared__ int counted[kMaxExperts];
  __shared__ float summed[kGroups][Lanes * PerLane];
  const int lane = threadIdx.x % Lanes, group = threadIdx.x / Lanes;
  for (int e = threadIdx.x; e < experts; e += kBlock) counted[e] = 0;
  __syncthreads();
  float own_mass[PerLane] = {};
  // A group without a row goes along: shuffles need all lanes of the warp.
  for (std::int64_t first = part.begin(); first < part.end(); first += kGroups) {
    const std::int64_t row = first + group;
    const bool is_row = row < part.end();
    float p[PerLane];
    softmax_row<Lanes>(p, logits + row * experts, is_row ? experts : 0);
    Candidate chosen[PerLane];
    const float sum = select<Lanes>(chosen, p, experts, top_k);
    if (!is_row) continue;
#pragma unroll
    for (int i = 0; i < PerLane; ++i) {
      const int e = i * Lanes + lane;  // also the number of a choice
      if (e < experts) {
        probability[row * experts + e] = p[i];
        own_mass[i] += p[i];
      }
      if (e < top_k) {
        weight[row * top_k + e] = normalize ? chosen[i].p / (sum + kTinySum) : chosen[i].p;
        expert[row * top_k + e] = chosen[i].expert;
        atomicAdd(&counted[chosen[i].expert], 1);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < PerLane; ++i) summed[group][i * Lanes + lane] = own_mass[i];
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kBlock) {
    float sum = 0;
    for (int g = 0; g < kGroups; ++g) sum += summed[g][e];
    mass[blockIdx.x * experts + e] = sum;
    count[blockIdx.x * experts + e] = counted[e];
  }
}

// The sum of column e of `values` [rows, columns] in thread e, for a block of kBlock threads and at most as many
// columns; `shared` holds a value per thread.
template <class V>
__device__ V column_sum(const V* values, int rows, int columns, V* shared) {
  const int reach = kBlock / columns * columns;  // a thread stays in its column
  V sum = 0;
  if (threadIdx.x < reach)
    for (int i = threadIdx.x; i < rows * columns; i += reach) sum += values[i];
  __syncthreads();
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < columns)
    for (int i = threadIdx.x + columns; i < reach; i += columns) sum += shared[i];
  return sum;
}

// Where thread e's expert keeps its rows: `start`, after them `fill`, where padding begins, and `end`.
struct Segment {
  int start, fill, end;
};
__device__ Segment segment_of(int count, int experts, int unit, int* shared) {
  const int size = (count + unit - 1) / unit * unit;
  __syncthreads();
  shared[threadIdx.x] = size;
  __syncthreads();
  int start = 0;
  if (threadIdx.x < experts)
    for (int e = 0; e < threadIdx.x; ++e) start += shared[e];
  return {start, start + count, start + size};
}

// coefficient * experts * sum_e (slots of e / rows) (mass of e / rows), from thread e's values.
__device__ void store_loss(float* aux_loss, int count, float mass, float rows, float factor) {
  __shared__ float shared[kWarps];
  const float loss = block_sum<kBlock>(count / rows * (mass / rows), shared);
  if (threadIdx.x == 0) *aux_loss = factor * loss;
}

// Gives the slots first .. last - 1 their sorted rows: those of one expert, in the order of slots, follow each other
// from cursor[expert] on. `counted` is zero before and after.
__device__ void place_slots(std::int64_t* slot, std::int64_t* source, const std::int64_t* expert, std::int64_t first,
                            std::int64_t last, int* cursor, int (&counted)[kWarps][kMaxExperts], int experts,
                            int top_k) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (; first < last; first += kBlock) {
    const std::int64_t i = first + threadIdx.x;
    const int e = i < last ? static_cast<int>(expert[i]) : -1;
    const unsigned alike = __match_any_sync(kAllLanes, e);
    const int earlier = __popc(alike & ((1u << lane) - 1));
    if (e >= 0 && earlier == 0) counted[warp][e] = __popc(alike);
    __syncthreads();
    if (e >= 0) {
      int row = cursor[e] + earlier;
      for (int w = 0; w < warp; ++w) row += counted[w][e];
      slot[i] = row;
      source[row] = i / top_k;
    }
    __syncthreads();
    if (threadIdx.x < experts)
      for (int w = 0; w < kWarps; ++w) {
        cursor[threadIdx.x] += counted[w][threadIdx.x];
        counted[w][threadIdx.x] = 0;
      }
    __syncthreads();
  }
}

// Counting sort by expert. A block owns the slots of its part's rows, as in route_rows_kernel, and thread e what
// concerns expert e. Padding is shared out among all blocks; the first one also writes offsets and loss.
// Shared memory: 13 KB. Must move 8 bytes per slot for each of expert, slot and source.
__global__ void __launch_bounds__(kBlock)
    place_rows_kernel(std::int64_t* __restrict__ slot,          // [rows, top_k]
                      std::int64_t* __restrict__ source,        // [capacity]
                      std::int64_t* __restrict__ offset,        // [experts + 1]
                      float* __restrict__ aux_loss,             // [1] or null
                      const std::int64_t* __restrict__ expert,  // [rows, top_k]
                      const int* __restrict__ count,            // [blocks, experts]
                      const float* __restrict__ mass,           // [blocks, experts]
                      Partition part, std::int64_t capacity, int experts, int top_k, int unit, float factor) {
  __shared__ int scratch[kBlock], cursor[kMaxExperts], fill[kMaxExperts], end[kMaxExperts];
  __shared__ int counted[kWarps][kMaxExperts];
  __shared__ float float_scratch[kBlock];
  const int thread = threadIdx.x, blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  const int total = column_sum(count, blocks, experts, scratch);
  const int before = column_sum(count, block, experts, scratch);
  const Segment segment = segment_of(thread < experts ? total : 0, experts, unit, scratch);
  if (thread < experts) {
    cursor[thread] = segment.start + before;
    fill[thread] = segment.fill;
    end[thread] = segment.end;
    for (int w = 0; w < kWarps; ++w) counted[w][thread] = 0;
  }
  if (block == 0) {
    if (thread < experts) offset[thread] = segment.start;
    if (thread == experts - 1) offset[experts] = segment.end;
    if (aux_loss) {
      const float own = column_sum(mass, blocks, experts, float_scratch);
      const bool is_expert = thread < experts;
      store_loss(aux_loss, is_expert ? total : 0, is_expert ? own : 0, static_cast<float>(part.rows), factor);
    }
  }
  __syncthreads();
  for (int e = block * kWarps + thread / kWarp; e < experts; e += blocks * kWarps)
    for (int row = fill[e] + thread % kWarp; row < end[e]; row += kWarp) source[row] = -1;
  for (std::int64_t row = end[experts - 1] + block * kBlock + thread; row < capacity; row += blocks * kBlock)
    source[row] = -1;
  place_slots(slot, source, expert, part.begin() * top_k, part.end() * top_k, cursor, counted, experts, top_k);
}

// Counts the slots of each expert among those that a block owns by the Partition. 1 KB of shared memory. Must move 8
// bytes per slot.
__global__ void __launch_bounds__(kBlock) count_slots_kernel(int* __restrict__ count,  // [blocks, experts]
                                                             const std::int64_t* __restrict__ expert,  // [slots]
                                                             Partition part, int experts) {
  __shared__ int counted[kMaxExperts];
  counted[threadIdx.x] = 0;
  __syncthreads();
  for (std::int64_t i = part.begin() + threadIdx.x; i < part.end(); i += kBlock) atomicAdd(&counted[expert[i]], 1);
  __syncthreads();
  if (threadIdx.x < experts) count[blockIdx.x * experts + threadIdx.x] = counted[threadIdx.x];
}

// Adds to dp of one row what comes through its weights. Lanes own experts and choices as in route_rows_kernel; nothing
// is read if is_row is false, but the lanes go along.
template <int Lanes, int PerLane>
__device__ void add_weight_gradient(float (&dp)[PerLane], const float (&p)[PerLane], const float* weight,
                                    const float* dweight, const std::int64_t* expert, int top_k, bool is_row,
                                    bool normalize) {
  const int lane = threadIdx.x % Lanes;
  unsigned is_chosen = 0;  // bit i: expert i * Lanes + lane
  float dchosen[PerLane] = {}, sum = 0, dot = 0;
  for (int base = 0; base < top_k; base += Lanes) {
    const int k = base + lane;
    const bool is_choice = is_row && k < top_k;
    const int own_expert = is_choice ? static_cast<int>(expert[k]) : -1;
    const float own_dweight = is_choice ? dweight[k] : 0;
    if (is_choice) dot += own_dweight * weight[k];
    for (int turn = 0; turn < min(Lanes, top_k - base); ++turn) {
      const int e = __shfl_sync(kAllLanes, own_expert, turn, Lanes);
      const float d = __shfl_sync(kAllLanes, own_dweight, turn, Lanes);
#pragma unroll
      for (int i = 0; i < PerLane; ++i)
        if (e == i * Lanes + lane) {
          is_chosen |= 1u << i;
          dchosen[i] = d;
          sum += p[i];
        }
    }
  }
  sum = normalize ? warp_sum<Lanes>(sum) + kTinySum : 1;
  dot = normalize ? warp_sum<Lanes>(dot) : 0;
#pragma unroll
  for (int i = 0; i < PerLane; ++i)
    if (is_chosen >> i & 1) dp[i] += (dchosen[i] - dot) / sum;
}

// dlogits = p (dp - dp . p). Rows, lanes and experts as in route_rows_kernel. 2 KB of shared memory. Must move 6 or 8
// bytes per logit, 16 per slot.
template <class T, int Lanes, int PerLane>
__global__ void __launch_bounds__(kBlock)
    route_backward_kernel(T* __restrict__ dlogits,              // [rows, experts]
                          const float* __restrict__ dweight,    // or null
                          const float* __restrict__ daux_loss,  // or null
                          const float* __restrict__ probability, const float* __restrict__ weight,
                          const std::int64_t* __restrict__ expert, const int* __restrict__ count, int count_blocks,
                          Partition part, int experts, int top_k, bool normalize, float factor) {
  constexpr int kGroups = kBlock / Lanes;
  __shared__ float balance[kMaxExperts];  // d aux_loss / d p[r, e], the same for all rows
  __shared__ int scratch[kBlock];
  balance[threadIdx.x] = 0;
  if (daux_loss) {
    const int slots = column_sum(count, count_blocks, experts, scratch);
    if (threadIdx.x < experts) balance[threadIdx.x] = factor * slots * *daux_loss;
  }
  __syncthreads();
  const int lane = threadIdx.x % Lanes;
  for (std::int64_t first = part.begin(); first < part.end(); first += kGroups) {
    const std::int64_t row = first + threadIdx.x / Lanes;
    const bool is_row = row < part.end();
    float p[PerLane], dp[PerLane], dot = 0;
#pragma unroll
    for (int i = 0; i < PerLane; ++i) {
      const int e = i * Lanes + lane;
      p[i] = is_row && e < experts ? probability[row * experts + e] : 0;
      dp[i] = e < experts ? balance[e] : 0;
    }
    if (dweight)
      add_weight_gradient<Lanes>(dp, p, weight + row * top_k, dweight + row * top_k, expert + row * top_k, top_k,
                                 is_row, normalize);
#pragma unroll
    for (int i = 0; i < PerLane; ++i) dot += dp[i] * p[i];
    dot = warp_sum<Lanes>(dot);
#pragma unroll
    for (int i = 0; i < PerLane; ++i)
      if (const int e = i * Lanes + lane; is_row && e < experts)
        dlogits[row * experts + e] = narrow<T>(p[i] * (dp[i] - dot));
  }
}

// Calls body.operator()<Lanes, PerLane>() with the lanes that share a row and the experts of each.
template <class Body>
void dispatch_lanes(std::int64_t experts, Body&& body) {
  if (experts <= 4) return body.template operator()<4, 1>();
  if (experts <= 8) return body.template operator()<8, 1>();
  if (experts <= 16) return body.template operator()<16, 1>();
  if (experts <= 32) return body.template operator()<32, 1>();
  return body.template operator()<32, kMaxExperts / 32>();
}

}  // namespace

void run(const CudaContext& cuda, const MoeRoute& op) {
  const Partition part(op.rows());
  const int experts = static_cast<int>(op.experts()), top_k = static_cast<int>(op.top_k());
  const std::int64_t unit = moe_alignment(op.expert.count());
  const std::size_t values = part.blocks * static_cast<std::size_t>(experts);
  int* count = reinterpret_cast<int*>(cuda.workspace->get(values * (sizeof(int) + sizeof(float))));
  float* mass = reinterpret_cast<float*>(count + values);
  dispatch_cuda(op.logits.dtype, [&]<class T>() {
    dispatch_lanes(experts, [&]<int Lanes, int PerLane>() {
      route_rows_kernel<T, Lanes, PerLane><<<part.blocks, kBlock, 0, stream_of(cuda)>>>(
          op.probability.as<float>(), op.weight.as<float>(), op.expert.as<std::int64_t>(), count, mass,
          op.logits.as<T>(), part, experts, top_k, op.normalize);
    });
  });
  check_launch(MoeRoute::name);
  place_rows_kernel<<<part.blocks, kBlock, 0, stream_of(cuda)>>>(
      op.slot.as<std::int64_t>(), op.source.as<std::int64_t>(), op.offset.as<std::int64_t>(), op.aux_loss.as<float>(),
      op.expert.as<std::int64_t>(), count, mass, part, op.source.count(), experts, top_k, static_cast<int>(unit),
      static_cast<float>(op.coefficient * experts));
  check_launch(MoeRoute::name);
}

void run(const CudaContext& cuda, const MoeRouteBackward& op) {
  if (op.dlogits.count() == 0) return;
  const Partition part(op.probability.rows()), slot_part(op.expert.count());
  const int experts = static_cast<int>(op.probability.width()), top_k = static_cast<int>(op.weight.width());
  const double rows = static_cast<double>(op.probability.rows());
  int* count = nullptr;
  if (op.daux_loss) {
    count = reinterpret_cast<int*>(cuda.workspace->get(slot_part.blocks * sizeof(int) * experts));
    count_slots_kernel<<<slot_part.blocks, kBlock, 0, stream_of(cuda)>>>(count, op.expert.as<std::int64_t>(), slot_part,
                                                                         experts);
    check_launch(MoeRouteBackward::name);
  }
  dispatch_cuda(op.dlogits.dtype, [&]<class T>() {
    dispatch_lanes(experts, [&]<int Lanes, int PerLane>() {
      route_backward_kernel<T, Lanes, PerLane><<<part.blocks, kBlock, 0, stream_of(cuda)>>>(
          op.dlogits.as<T>(), op.dweight.as<float>(), op.daux_loss.as<float>(), op.probability.as<float>(),
          op.weight.as<float>(), op.expert.as<std::int64_t>(), count, static_cast<int>(slot_part.blocks), part, experts,
          top_k, op.normalize, static_cast<float>(op.coefficient * experts / (rows * rows)));
    });
  });
  check_launch(MoeRouteBackward::name);
}

}  // namespace omni
