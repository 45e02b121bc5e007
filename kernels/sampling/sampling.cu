#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/sampling/sampling.h"
#include "kernels/sampling/weight.h"

namespace omni {
namespace {

constexpr int kBlock = 256, kWarps = kBlock / kWarp;
constexpr int kDigitBits = 4, kDigits = 1 << kDigitBits;  // a search fixes a key digit by digit

struct Settings {
  float temperature, penalty;
  double top_p;
  int classes, top_k;  // top_k 0: not cut
  int window;          // recent tokens of a row
  bool greedy;
};

struct Scratch {
  std::uint64_t column[kDigits][kBlock];  // what a thread has counted for each digit
  std::uint64_t sum[kDigits];
  std::uint64_t of_warp[kWarps];
};

// A whole number for each float, in the same order; -0 has that of 0.
__device__ unsigned key_of(float x) {
  const unsigned bits = __float_as_uint(x == 0 ? 0.f : x);
  return bits >> 31 ? ~bits : bits | 1u << 31;
}
__device__ float logit_of(unsigned key) { return __uint_as_float(key >> 31 ? key ^ 1u << 31 : ~key); }

// Calls body(id, logit) for the logits of a row that this thread owns: `Size` neighbours of each kBlock * Size.
template <int Size, class Body>
__device__ void for_each_logit(const float* logits, int classes, const Body& body) {
  for (int i = threadIdx.x * Size; i < classes; i += kBlock * Size) {
    const Pack<float, Size> pack = load_pack<Size>(logits + i);
#pragma unroll
    for (int j = 0; j < Size; ++j) body(i + j, pack.lane[j]);
  }
}

__device__ float penalized(float logit, float penalty) { return logit > 0 ? logit / penalty : logit * penalty; }

// Applies temperature and penalties. Returns the key of the first token in its upper half, and ~id in its lower one.
template <int Size>
__device__ std::uint64_t scale(float* logits, const std::uint8_t* seen, const std::int64_t* recent,
                               const Settings& settings, CudaFault* fault, std::uint64_t* shared) {
  std::uint64_t first = 0;
  for (int i = threadIdx.x * Size; i < settings.classes; i += kBlock * Size) {
    Pack<float, Size> x = load_pack<Size>(logits + i);
    Pack<std::uint8_t, Size> is_seen{};
    if (seen) is_seen = load_pack<Size>(seen + i);
#pragma unroll
    for (int j = 0; j < Size; ++j) {
      float& logit = x.lane[j];
      if (isnan(logit)) {
        report_fault(fault, CudaFault::sampling_logit, i + j, settings.classes);
        logit = -INFINITY;
      }
      logit /= settings.temperature;
      if (is_seen.lane[j]) logit = penalized(logit, settings.penalty);
      for (int k = 0; k < settings.window; ++k)
        if (recent[k] == i + j) logit = penalized(logit, settings.penalty);
      first = max(first, std::uint64_t{key_of(logit)} << 32 | ~static_cast<unsigned>(i + j));
    }
    store_pack(logits + i, x);
  }
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    first = max(first, __shfl_xor_sync(kAllLanes, first, distance));
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = first;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) first = max(first, shared[warp]);
  return first;
}

// The tokens of a row with a key in least .. largest.
struct Candidates {
  const float* logits;
  int classes;
  unsigned least, largest;
};

// scratch.sum[d] = sum of weight(logit) over candidates whose key has the same digits as `key` above bit `shift` +
// kDigitBits, and then digit d. Each thread counts in columns of its own, so that neither atomics nor bank conflicts
// slow down the many that share a digit: all logits have much the same exponent.
template <int Size, class Weight>
__device__ void count_digits(const Candidates& row, unsigned key, int shift, const Weight& weight, Scratch& scratch) {
  for (int digit = 0; digit < kDigits; ++digit) scratch.column[digit][threadIdx.x] = 0;
  const float least = logit_of(max(key, row.least));  // turns away most logits before their keys are made
  for_each_logit<Size>(row.logits, row.classes, [&](int, float logit) {
    if (logit < least) return;
    const unsigned own = key_of(logit);
    if ((own ^ key) >> shift < kDigits) scratch.column[own >> shift & (kDigits - 1)][threadIdx.x] += weight(logit);
  });
  __syncthreads();
  constexpr int kPerDigit = kBlock / kDigits;
  const int digit = threadIdx.x / kPerDigit, first = threadIdx.x % kPerDigit;
  std::uint64_t sum = 0;
  for (int i = first; i < kBlock; i += kPerDigit) sum += scratch.column[digit][i];
  sum = warp_sum<kPerDigit>(sum);
  if (first == 0) scratch.sum[digit] = sum;
  __syncthreads();
}

// The key of the first candidate up to which the weights sum to more than `target`, and what they sum to before all
// candidates of that key.
struct Found {
  unsigned key;
  std::uint64_t before;
};
template <int Size, class Weight>
__device__ Found find(const Candidates& row, std::uint64_t target, const Weight& weight, Scratch& scratch) {
  int shift = (31 - __clz(row.largest ^ row.least | 1)) / kDigitBits * kDigitBits;  // the first digit that differs
  Found found{row.largest & ~static_cast<unsigned>((std::uint64_t{kDigits} << shift) - 1), 0};
  for (; shift >= 0; shift -= kDigitBits) {
    count_digits<Size>(row, found.key, shift, weight, scratch);
    unsigned digit = kDigits - 1;
    for (; digit > 0 && found.before + scratch.sum[digit] <= target; --digit) found.before += scratch.sum[digit];
    found.key |= digit << shift;
  }
  return found;
}

// The id of number `rank` of the tokens with this key. Each warp owns neighbouring ids.
__device__ void store_id(std::int64_t* token, const float* logits, int classes, unsigned key, int rank,
                         std::uint64_t* shared) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int span = (classes + kBlock - 1) / kBlock * kWarp, begin = warp * span, end = min(begin + span, classes);
  const auto alike = [&](int first) {
    return __ballot_sync(kAllLanes, first + lane < end && key_of(logits[first + lane]) == key);
  };
  int count = 0;
  for (int first = begin; first < end; first += kWarp) count += __popc(alike(first));
  __syncthreads();
  if (lane == 0) shared[warp] = count;
  __syncthreads();
  for (int before = 0; before < warp; ++before) rank -= static_cast<int>(shared[before]);
  if (rank < 0 || rank >= count) return;
  for (int first = begin; first < end; first += kWarp) {
    const unsigned found = alike(first);
    if ((found >> lane & 1) && __popc(found & ((1u << lane) - 1)) == rank) *token = first + lane;
    rank -= __popc(found);
  }
}

// A block owns a row. 33 KB of shared memory. Must read and write the logits once and read seen once; a search reads
// the logits again for each digit of a key, up to three searches of up to eight digits, from the caches.
template <int Size>
__global__ void __launch_bounds__(kBlock)
    sample_token_kernel(std::int64_t* __restrict__ token,         // [rows]
                        float* logits,                            // [rows, classes]
                        const std::uint8_t* __restrict__ seen,    // or null
                        const std::int64_t* __restrict__ recent,  // [rows, window]
                        const double* __restrict__ uniform,       // [rows]
                        Settings settings, CudaFault* fault) {
  __shared__ Scratch scratch;
  const int row = static_cast<int>(blockIdx.x), classes = settings.classes;
  const std::int64_t offset = std::int64_t{row} * classes;
  logits += offset;
  const std::uint64_t first = scale<Size>(logits, seen ? seen + offset : nullptr, recent + row * settings.window,
                                          settings, fault, scratch.of_warp);
  if (settings.greedy) {
    if (threadIdx.x == 0) token[row] = ~static_cast<unsigned>(first);
    return;
  }
  Candidates candidates{logits, classes, key_of(-INFINITY), static_cast<unsigned>(first >> 32)};
  if (settings.top_k > 0) {
    const auto one = [](float) { return std::uint64_t{1}; };
    candidates.least = find<Size>(candidates, settings.top_k - 1, one, scratch).key;
  }
  const auto weight = [largest = logit_of(candidates.largest)](float logit) { return sampling_weight(logit, largest); };
  std::uint64_t kept = 0;
  for_each_logit<Size>(logits, classes, [&, least = logit_of(candidates.least)](int, float logit) {
    if (logit >= least) kept += weight(logit);
  });
  kept = block_sum<kBlock>(kept, scratch.of_warp);
  if (settings.top_p < 1) {
    const std::uint64_t target = share_of(kept, settings.top_p);
    const Found last = find<Size>(candidates, target, weight, scratch);
    const std::uint64_t each = weight(logit_of(last.key));
    kept = last.before + ((target - last.before) / each + 1) * each;
  }
  const std::uint64_t target = share_of(kept, uniform[row]);
  const Found drawn = find<Size>(candidates, target, weight, scratch);
  const auto rank = static_cast<int>((target - drawn.before) / weight(logit_of(drawn.key)));
  store_id(token + row, logits, classes, drawn.key, rank, scratch.of_warp);
}

}  // namespace

void run(const CudaContext& cuda, const SampleToken& op) {
  if (op.token.count() == 0) return;
  const Settings settings{static_cast<float>(op.temperature),
                          static_cast<float>(op.repetition_penalty),
                          op.top_p,
                          static_cast<int>(op.classes()),
                          op.is_cut_by_rank() ? static_cast<int>(op.top_k) : 0,
                          op.recent ? static_cast<int>(op.recent.width()) : 0,
                          op.greedy};
  dispatch_pack<float>(op.classes(), [&]<int Size>() {
    sample_token_kernel<Size><<<static_cast<unsigned>(op.token.count()), kBlock, 0, stream_of(cuda)>>>(
        op.token.as<std::int64_t>(), op.logits.as<float>(), op.seen.as<std::uint8_t>(), op.recent.as<std::int64_t>(),
        op.uniform.as<double>(), settings, cuda.fault);
  });
  check_launch(SampleToken::name);
}

}  // namespace omni
