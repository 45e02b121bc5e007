#include "kernels/matmul/matmul.h"

#include "kernels/matmul/amx.h"
#include "kernels/matmul/empty_sums.h"
#include "kernels/matmul/matvec.h"
#include "kernels/matmul/onednn.h"

namespace omni {
namespace {

// The plain triple loop, for gradient checks in double.
void matmul_f64(const Matmul& op) {
  const std::int64_t m = op.m(), n = op.n(), k = op.k();
  const double *a = op.a.as<double>(), *b = op.b.as<double>(), *bias = op.bias.as<double>();
  double* c = op.c.as<double>();
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < m; ++row)
    for (std::int64_t column = 0; column < n; ++column) {
      double sum = 0;
      for (std::int64_t i = 0; i < k; ++i)
        sum += (op.transpose_a ? a[i * m + row] : a[row * k + i]) *
               (op.transpose_b ? b[column * k + i] : b[i * n + column]);
      double& out = c[row * n + column];
      out = sum + (bias ? bias[column] : 0) + (op.accumulate ? out : 0);
    }
}

}  // namespace

void run(const CpuContext& cpu, const Matmul& op) {
  if (op.c.count() == 0) return;
  if (op.a.dtype == DType::f64) return matmul_f64(op);
  if (op.k() == 0) return empty_sums(cpu, op);
  if (prefers_matvec(op)) return matvec(cpu, op);
  if (amx_matmul(cpu, op)) return;
  onednn_matmul(cpu, op);
}

}  // namespace omni
