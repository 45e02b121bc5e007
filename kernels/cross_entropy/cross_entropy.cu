#include <cfloat>

#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"

namespace omni {
namespace {

constexpr int kBlock = 256;       // threads for a row
constexpr int kWideBlock = 1024;  // threads for all rows

__device__ bool is_class(std::int64_t target, std::int64_t classes) { return target >= 0 && target < classes; }

// One block counts the rows of a group that have a target, and reports a target that is neither a class nor
// ignore_index; such rows are then ignored, too. 128 bytes of shared memory. Must move the targets.
__global__ void __launch_bounds__(kWideBlock)
    count_targets_kernel(std::int64_t* counted,                     // [gridDim.x]
                         const std::int64_t* __restrict__ targets,  // [gridDim.x, rows]
                         CudaFault* fault, std::int64_t rows, std::int64_t classes, std::int64_t ignore_index) {
  __shared__ int shared[kWideBlock / kWarp];
  int count = 0;
  for (std::int64_t row = threadIdx.x; row < rows; row += kWideBlock) {
    const std::int64_t target = targets[blockIdx.x * rows + row];
    if (target == ignore_index) continue;
    if (is_class(target, classes))
      ++count;
    else
      report_fault(fault, CudaFault::cross_entropy_target, target, classes);
  }
  count = block_sum<kWideBlock>(count, shared);
  if (threadIdx.x == 0) counted[blockIdx.x] = count;
}

// The maximum of a row, and sum of exp(x - maximum), in one pass over it. Both begin so that -infinity adds nothing.
struct Softmax {
  float most = -FLT_MAX, sum = 0;

  template <class T, int Size>
  __device__ void add(const Pack<T, Size>& x) {
    float top = most;
#pragma unroll
    for (int i = 0; i < Size; ++i) top = fmaxf(top, widen(x.lane[i]));  // NaN is skipped here, and shows in the sum
    sum *= __expf(most - top);
#pragma unroll
    for (int i = 0; i < Size; ++i) sum += __expf(widen(x.lane[i]) - top);
    most = top;
  }
  // From the threads' parts of a row to the whole, in every thread.
  __device__ void join(float* shared) {
    const float top = block_max<kBlock>(most, shared);
    sum = block_sum<kBlock>(sum * __expf(most - top), shared);
    most = top;
  }
};

// logits = scale * (softmax(logits) - onehot(target)); a thread rewrites the packs that it has read before.
template <class T, int Size>
__device__ void write_gradient(T* logits, const Softmax& row, float scale, int target, int classes) {
  const float factor = scale / row.sum;
#pragma unroll 4
  for (int column = threadIdx.x * Size; column < classes; column += kBlock * Size) {
    const Pack<T, Size> in = load_pack<Size>(logits + column);
    Pack<T, Size> out;
#pragma unroll
    for (int i = 0; i < Size; ++i) {
      const float hot = column + i == target ? scale : 0.f;
      out.lane[i] = narrow<T>(__expf(widen(in.lane[i]) - row.most) * factor - hot);
    }
    store_pack(logits + column, out);
  }
}

// A block owns row blockIdx.x of group blockIdx.y, a thread `Size` neighbouring logits (16 bytes, or 1 where rows do
// not begin on 16 bytes) of every 256 * Size. 32 bytes of shared memory. Must move the logits once, or twice for the
// gradient, which reads them again from the cache; a row that does not count only writes its gradient.
template <class T, int Size>
__global__ void __launch_bounds__(kBlock) cross_entropy_kernel(T* logits,                   // [rows, classes]
                                                               float* __restrict__ losses,  // [rows]
                                                               float* __restrict__ hits,    // [rows] or null
                                                               const std::int64_t* __restrict__ targets,  // [rows]
                                                               const float* __restrict__ weights,  // [rows] or null
                                                               const std::int64_t* __restrict__ counted,  // [gridDim.y]
                                                               int classes, std::int64_t ignore_index, bool gradient) {
  __shared__ float shared[kBlock / kWarp];
  const std::int64_t row = std::int64_t{blockIdx.y} * gridDim.x + blockIdx.x, target = targets[row];
  T* row_logits = logits + row * classes;
  if (target == ignore_index || !is_class(target, classes)) {
    for (int column = threadIdx.x * Size; gradient && column < classes; column += kBlock * Size)
      store_pack(row_logits + column, Pack<T, Size>{});
    if (threadIdx.x == 0) losses[row] = 0;
    if (threadIdx.x == 0 && hits != nullptr) hits[row] = 0;
    return;
  }
  const float target_logit = widen(row_logits[target]);  // before anyone writes a gradient
  Softmax softmax;
#pragma unroll 4
  for (int column = threadIdx.x * Size; column < classes; column += kBlock * Size)
    softmax.add(load_pack<Size>(row_logits + column));
  softmax.join(shared);
  const float weight = weights == nullptr ? 1.f : weights[row];
  if (threadIdx.x == 0) losses[row] = weight * (logf(softmax.sum) + softmax.most - target_logit);
  if (threadIdx.x == 0 && hits != nullptr) hits[row] = target_logit == softmax.most ? 1.f : 0.f;
  if (gradient)
    write_gradient<T, Size>(row_logits, softmax, weight / static_cast<float>(counted[blockIdx.y]),
                            static_cast<int>(target), classes);
}

// One block adds up the losses of a group, in an order of its own that depends on `rows` alone. 256 bytes of shared
// memory. Must move the losses.
__global__ void __launch_bounds__(kWideBlock) mean_loss_kernel(float* loss,                       // [gridDim.x]
                                                               const float* __restrict__ losses,  // [gridDim.x, rows]
                                                               const std::int64_t* __restrict__ counted,  // [gridDim.x]
                                                               std::int64_t rows) {
  __shared__ double shared[kWideBlock / kWarp];
  double sum = 0;
  for (std::int64_t row = threadIdx.x; row < rows; row += kWideBlock)
    sum += static_cast<double>(losses[blockIdx.x * rows + row]);
  sum = block_sum<kWideBlock>(sum, shared);
  if (threadIdx.x != 0) return;
  const std::int64_t n = counted[blockIdx.x];
  loss[blockIdx.x] = n == 0 ? 0.f : static_cast<float>(sum / static_cast<double>(n));
}

}  // namespace

void run(const CudaContext& cuda, const CrossEntropy& op) {
  const std::int64_t rows = op.logits.rows(), classes = op.logits.width();
  const std::int64_t* targets = op.targets.as<std::int64_t>();
  const auto groups = static_cast<unsigned>(op.loss.count());
  const std::int64_t group_rows = rows / groups;
  // The losses begin on a memory sector of their own, 32 bytes.
  constexpr std::int64_t kSector = 32;
  const auto counted_bytes =
      static_cast<std::size_t>(ceil_div(groups * static_cast<std::int64_t>(sizeof(std::int64_t)), kSector) * kSector);
  std::byte* scratch = cuda.workspace->get(counted_bytes + static_cast<std::size_t>(rows) * sizeof(float));
  auto* counted = reinterpret_cast<std::int64_t*>(scratch);
  auto* losses = reinterpret_cast<float*>(scratch + counted_bytes);
  dispatch_cuda(op.logits.dtype, [&]<class T>() {
    count_targets_kernel<<<groups, kWideBlock, 0, stream_of(cuda)>>>(counted, targets, cuda.fault, group_rows, classes,
                                                                     op.ignore_index);
    check_launch(CrossEntropy::name);
    if (rows > 0) {
      dispatch_pack<T>(classes, [&]<int Size>() {
        cross_entropy_kernel<T, Size><<<dim3(static_cast<unsigned>(group_rows), groups), kBlock, 0, stream_of(cuda)>>>(
            op.logits.as<T>(), losses, op.hits.as<float>(), targets, op.weights.as<float>(), counted,
            static_cast<int>(classes), op.ignore_index, op.gradient);
      });
      check_launch(CrossEntropy::name);
    }
    mean_loss_kernel<<<groups, kWideBlock, 0, stream_of(cuda)>>>(op.loss.as<float>(), losses, counted, group_rows);
    check_launch(CrossEntropy::name);
  });
}

}  // namespace omni
