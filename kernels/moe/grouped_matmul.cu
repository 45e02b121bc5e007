#include "kernels/moe/grouped_plain.cuh"
#include "kernels/moe/grouped_tensor.cuh"
#include "kernels/moe/moe.h"

namespace omni {
namespace {

template <Grouped Kind, int Columns, class C>
void launch_tensor(const CudaContext& cuda, const GroupedOperands<bf16, C>& g) {
  const dim3 grid = grid_of<Kind, TensorTile::kRows, Columns>(g);
  grouped_tensor_kernel<Kind, Columns><<<grid, TensorTile::threads(Columns), 0, stream_of(cuda)>>>(g);
}

template <Grouped Kind, int Size, class T, class C>
void launch_plain(const CudaContext& cuda, const GroupedOperands<T, C>& g) {
  const dim3 grid = grid_of<Kind, PlainTile::kRows, PlainTile::kColumns>(g);
  grouped_plain_kernel<Kind, Size><<<grid, PlainTile::kThreads, 0, stream_of(cuda)>>>(g);
}

template <Grouped Kind, class C>
void launch(const CudaContext& cuda, const GroupedOperands<bf16, C>& g) {
  if (g.n % kPackSize<bf16> != 0 || g.k % kPackSize<bf16> != 0) return launch_plain<Kind, 1>(cuda, g);
  // A multiprocessor holds two blocks: narrower tiles where wide ones would not fill all of them.
  const dim3 wide = grid_of<Kind, TensorTile::kRows, 128>(g);
  if (std::int64_t{wide.x} * wide.y * wide.z < 2 * cuda.multiprocessors)
    launch_tensor<Kind, 64>(cuda, g);
  else
    launch_tensor<Kind, 128>(cuda, g);
}

template <Grouped Kind>
void launch(const CudaContext& cuda, const GroupedOperands<float, float>& g) {
  if (g.n % kPackSize<float> == 0 && g.k % kPackSize<float> == 0)
    launch_plain<Kind, kPackSize<float>>(cuda, g);
  else
    launch_plain<Kind, 1>(cuda, g);
}

}  // namespace

void run(const CudaContext& cuda, const GroupedMatmul& op) {
  if (op.c.count() == 0) return;
  dispatch_cuda(op.c.dtype, [&]<class T>() {
    const GroupedOperands<T, T> g{.c = op.c.as<T>(),
                                  .a = op.a.as<T>(),
                                  .b = op.b.as<T>(),
                                  .offset = op.offset.as<std::int64_t>(),
                                  .experts = op.experts(),
                                  .capacity = op.a.rows(),
                                  .n = op.c.width(),
                                  .k = op.a.width(),
                                  .accumulate = false};
    if (op.transpose_b)
      launch<Grouped::forward>(cuda, g);
    else
      launch<Grouped::backward>(cuda, g);
  });
  check_launch(GroupedMatmul::name);
}

void run(const CudaContext& cuda, const GroupedMatmulWeightGradient& op) {
  if (op.dw.count() == 0) return;
  dispatch_cuda(op.dy.dtype, [&]<class T>() {
    launch<Grouped::weight_gradient>(cuda, GroupedOperands<T, float>{.c = op.dw.as<float>(),
                                                                     .a = op.dy.as<T>(),
                                                                     .b = op.x.as<T>(),
                                                                     .offset = op.offset.as<std::int64_t>(),
                                                                     .experts = op.experts(),
                                                                     .capacity = op.dy.rows(),
                                                                     .n = op.dy.width(),
                                                                     .k = op.x.width(),
                                                                     .accumulate = op.accumulate});
  });
  check_launch(GroupedMatmulWeightGradient::name);
}

}  // namespace omni
