#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/swiglu/swiglu.h"

namespace omni {
namespace {

constexpr int kBlock = 256;

// One thread owns `Size` neighbouring values of a row of y (16 bytes, or 1 value where rows do not begin on 16 bytes)
// and what they are made of. No shared memory. Must move 3 values per value of y.
template <class T, int Size>
__global__ void swiglu_kernel(T* __restrict__ y, const T* __restrict__ gate_up, std::int64_t rows, std::int64_t width) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * Size;
  if (first >= rows * width) return;
  const std::int64_t row = first / width, column = first - row * width;
  const T* gate = gate_up + row * 2 * width + column;
  const Pack<T, Size> g = load_pack<Size>(gate), u = load_pack<Size>(gate + width);
  Pack<T, Size> out;
#pragma unroll
  for (int i = 0; i < Size; ++i) {
    const float x = widen(g.lane[i]);
    out.lane[i] = narrow<T>(x * sigmoid(x) * widen(u.lane[i]));
  }
  store_pack(y + first, out);
}

// Threads as in the forward kernel; dgate_up may be gate_up, since a thread reads before it writes and nobody else
// reads its values. Must move 5 values per value of dy.
template <class T, int Size>
__global__ void swiglu_backward_kernel(T* dgate_up, const T* __restrict__ dy, const T* gate_up, std::int64_t rows,
                                       std::int64_t width) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * Size;
  if (first >= rows * width) return;
  const std::int64_t row = first / width, column = first - row * width, at = row * 2 * width + column;
  const Pack<T, Size> d = load_pack<Size>(dy + first);
  const Pack<T, Size> g = load_pack<Size>(gate_up + at), u = load_pack<Size>(gate_up + at + width);
  Pack<T, Size> dgate, dup;
#pragma unroll
  for (int i = 0; i < Size; ++i) {
    const float x = widen(g.lane[i]), s = sigmoid(x), dyi = widen(d.lane[i]);
    dgate.lane[i] = narrow<T>(dyi * widen(u.lane[i]) * s * (1 + x * (1 - s)));
    dup.lane[i] = narrow<T>(dyi * x * s);
  }
  store_pack(dgate_up + at, dgate);
  store_pack(dgate_up + at + width, dup);
}

}  // namespace

void run(const CudaContext& cuda, const SwiGlu& op) {
  if (op.y.count() == 0) return;
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<T>(op.y.width(), [&]<int Size>() {
      swiglu_kernel<T, Size><<<blocks_for(op.y.count(), kBlock * Size), kBlock, 0, stream_of(cuda)>>>(
          op.y.as<T>(), op.gate_up.as<T>(), op.y.rows(), op.y.width());
    });
  });
  check_launch(SwiGlu::name);
}

void run(const CudaContext& cuda, const SwiGluBackward& op) {
  if (!op.dgate_up || op.dy.count() == 0) return;
  dispatch_cuda(op.dy.dtype, [&]<class T>() {
    dispatch_pack<T>(op.dy.width(), [&]<int Size>() {
      swiglu_backward_kernel<T, Size><<<blocks_for(op.dy.count(), kBlock * Size), kBlock, 0, stream_of(cuda)>>>(
          op.dgate_up.as<T>(), op.dy.as<T>(), op.gate_up.as<T>(), op.dy.rows(), op.dy.width());
    });
  });
  check_launch(SwiGluBackward::name);
}

}  // namespace omni
