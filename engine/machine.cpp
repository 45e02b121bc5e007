#include "engine/machine.h"

#include <algorithm>
#include <chrono>

#include "engine/memory.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/matmul/matmul.h"

namespace omni {
namespace {

// From NVIDIA's data sheets, for the boards with the most memory: FP32, dense BF16 tensor cores with FP32 accumulation,
// memory bandwidth.
constexpr std::pair<std::string_view, MachineLimits> kGpus[] = {
    {"RTX 3090", {.f32_flops_per_s = 35.58e12, .bf16_flops_per_s = 71.2e12, .bytes_per_s = 936e9}},
    {"RTX 4090", {.f32_flops_per_s = 82.58e12, .bf16_flops_per_s = 165.2e12, .bytes_per_s = 1008e9}},
    {"A100", {.f32_flops_per_s = 19.5e12, .bf16_flops_per_s = 312e12, .bytes_per_s = 2039e9}},
    {"H100", {.f32_flops_per_s = 66.9e12, .bf16_flops_per_s = 989.4e12, .bytes_per_s = 3350e9}},
    {"H200", {.f32_flops_per_s = 66.9e12, .bf16_flops_per_s = 989.4e12, .bytes_per_s = 4800e9}},
};

// The best of several runs: what is measured is the machine, not its other guests.
template <class Op>
double best_seconds(Device& device, const Op& op) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    device.run(op);
    device.synchronize();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    if (i > 0) best = std::min(best, elapsed.count());  // the first run compiles the product
  }
  return best;
}

double matmul_rate(Device& device, DType dtype) {
  const Place place = device.place();
  const OwnedTensor a(dtype, {2048, 768}, place), b(dtype, {2432, 768}, place), c(dtype, {2048, 2432}, place);
  device.run(Fill{.y = a, .value = 0.5});
  device.run(Fill{.y = b, .value = 0.5});
  const Matmul op{.c = c, .a = a, .b = b, .transpose_b = true};
  return static_cast<double>(op.work().flops) / best_seconds(device, op);
}

double memory_rate(Device& device) {
  const std::int64_t count = std::int64_t{24} << 20;  // two blocks of 96 MiB
  const OwnedTensor x(DType::f32, {count}, device.place()), y(DType::f32, {count}, device.place());
  const Copy op{.y = y, .x = x};
  return static_cast<double>(op.work().bytes) / best_seconds(device, op);
}

}  // namespace

std::optional<MachineLimits> gpu_limits(std::string_view name) {
  for (const auto& [gpu, limits] : kGpus)
    if (name.find(gpu) != std::string_view::npos) return limits;
  return std::nullopt;
}

MachineLimits measure_machine(Device& device) {
  if (!device.is_cpu())
    if (const auto known = gpu_limits(device.name())) return *known;
  const Profiler::Mode mode = device.profiler().mode();
  device.profiler().set_mode(Profiler::Mode::off);
  const MachineLimits limits{matmul_rate(device, DType::f32), matmul_rate(device, DType::bf16), memory_rate(device)};
  device.profiler().set_mode(mode);
  return limits;
}

}  // namespace omni
