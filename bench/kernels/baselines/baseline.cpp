// Whether a baseline computes what our kernels compute.

#include "bench/kernels/baselines/baseline.h"

#include <cmath>

namespace omni::bench {
namespace {

// The norm of a - b over the norm of b.
double relative_difference(const ConstView& a, const ConstView& b) {
  double difference = 0, norm = 0;
  dispatch(b.dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < b.count(); ++i) {
      const double x = to_float(a.as<T>()[i]), y = to_float(b.as<T>()[i]);
      difference += (x - y) * (x - y);
      norm += y * y;
    }
  });
  return std::sqrt(difference / norm);
}

}  // namespace

std::vector<Output> written_among(Device& device, std::span<const NamedOperand> operands) {
  std::vector<Output> out;
  for (const NamedOperand& operand : operands) {
    if (!operand.view.written) continue;
    out.push_back({operand.name, OwnedTensor(operand.view.dtype, operand.view.shape)});
    device.copy(out.back().values, operand.view);
  }
  device.synchronize();
  return out;
}

// In attention, rounding to bf16 gives 0.003 and another order of summation in f32 1e-7; one key more in a window of
// 128 gives 0.03 in the gradients, 0.06 in o and 0.002 in lse.
void expect_close(const std::vector<Output>& theirs, const std::vector<Output>& ours) {
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const ConstView values = ours[i].values;
    const double tolerance = values.dtype == DType::bf16 ? 0.01 : 1e-4;
    const double difference = relative_difference(theirs[i].values, values);
    if (!(difference <= tolerance))
      throw std::runtime_error(ours[i].name + " differs from our kernel's by " + std::to_string(difference) +
                               " of its norm, expected at most " + std::to_string(tolerance));
  }
}

}  // namespace omni::bench
