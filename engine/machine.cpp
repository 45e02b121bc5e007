#include "engine/machine.h"

#include <algorithm>
#include <chrono>

#include "engine/memory.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/matmul/matmul.h"

namespace omni {
namespace {

// The best of several runs: what is measured is the machine, not its other guests.
template <class Op>
double best_seconds(Device& device, const Op& op) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    device.run(op);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    if (i > 0) best = std::min(best, elapsed.count());  // the first run compiles the product
  }
  return best;
}

double matmul_rate(Device& device, DType dtype) {
  const OwnedTensor a(dtype, {2048, 768}), b(dtype, {2432, 768}), c(dtype, {2048, 2432});
  device.run(Fill{.y = a, .value = 0.5});
  device.run(Fill{.y = b, .value = 0.5});
  const Matmul op{.c = c, .a = a, .b = b, .transpose_b = true};
  return static_cast<double>(op.work().flops) / best_seconds(device, op);
}

double memory_rate(Device& device) {
  const std::int64_t count = std::int64_t{24} << 20;  // two blocks of 96 MiB
  const OwnedTensor x(DType::f32, {count}), y(DType::f32, {count});
  const Copy op{.y = y, .x = x};
  return static_cast<double>(op.work().bytes) / best_seconds(device, op);
}

}  // namespace

MachineLimits measure_machine(Device& device) {
  const Profiler::Mode mode = device.profiler().mode();
  device.profiler().set_mode(Profiler::Mode::off);
  const MachineLimits limits{matmul_rate(device, DType::f32), matmul_rate(device, DType::bf16), memory_rate(device)};
  device.profiler().set_mode(mode);
  return limits;
}

}  // namespace omni
