#include "kernels/attention/decode.h"
#include "kernels/attention/passes.cuh"

namespace omni {
void run(const CudaContext& cuda, const Attention& op) {
  if (op.q.count() == 0) return;
  if (op.queries() <= kDecodeQueries)
    return dispatch_cuda(op.q.dtype, [&]<class T>() { attention_decode_cuda<T>(cuda, op); });
  if (op.fits_matrix_units()) return attention_mma(cuda, op);
  dispatch_cuda(op.q.dtype, [&]<class T>() { attention_plain<T>(cuda, op); });
}

void run(const CudaContext& cuda, const AttentionBackward& op) {
  const bool mma = op.forward().fits_matrix_units();
  const AttentionSizes size(op.forward());
  auto* statistics = reinterpret_cast<QueryStatistics*>(
      cuda.workspace->get(static_cast<std::size_t>(size.statistics_row(size.batch, 0)) * sizeof(QueryStatistics)));
  dispatch_cuda(op.q.dtype, [&]<class T>() {
    if (op.q.count() > 0) mma ? attention_dq_mma(cuda, op, statistics) : attention_dq_plain<T>(cuda, op, statistics);
    if (op.k.count() > 0) mma ? attention_dkv_mma(cuda, op, statistics) : attention_dkv_plain<T>(cuda, op, statistics);
  });
}

}  // namespace omni
