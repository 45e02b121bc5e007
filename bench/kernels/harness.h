#pragma once
// Google Benchmark around instructions: every one is timed on the shapes of the real model, and reported as a fraction
// of what the device can do.

#include <benchmark/benchmark.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/machine.h"
#include "kernels/elementwise/elementwise.h"

namespace omni::bench {

// The real model's sizes: the 0.1B Thinker at 4 x 512 tokens.
inline constexpr std::int64_t kBatch = 4, kTime = 512, kRows = kBatch * kTime, kHidden = 768, kHeads = 8, kKvHeads = 4,
                              kHeadDim = 96, kIntermediate = 2432, kVocabulary = 6400, kExperts = 4,
                              kQkv = (kHeads + 2 * kKvHeads) * kHeadDim, kParameters = 63'912'192;

// The device that is timed, and its limits.
class Bench {
 public:
  explicit Bench(const std::string& device)
      : device_(Device::named(device)),
        limits_(measure_machine(device_)),
        sweep_(DType::f32, {std::int64_t{24} << 20}, device_.place()) {}

  Device& device() { return device_; }
  const MachineLimits& limits() const { return limits_; }

  // Operands: memory of the device, filled with values of size 1 (all alike, or random ones while draw() is on), with
  // the integers 0 .. limit - 1 in turn, and with what a tensor in host memory holds.
  View tensor(DType dtype, const Shape& shape);
  View integers(const Shape& shape, std::int64_t limit);
  View copy_of(const OwnedTensor& values);
  void draw(bool random) { random_ = random; }
  // Operands of benches that have run are no longer needed.
  void clear() { memory_.clear(); }

  // Times an instruction. Before each execution other memory is swept, so that no cache holds its operands.
  template <class Op>
  void time(benchmark::State& state, const Op& op) {
    time(state, op.work(), [&] { device_.run(op); });
  }
  // The same for anything that does this work on the device when it is called.
  template <class Call>
  void time(benchmark::State& state, const Work& work, const Call& call) {
    call();
    for ([[maybe_unused]] auto unused : state) {
      device_.run(Fill{.y = sweep_, .value = 0});
      device_.synchronize();
      const auto begin = std::chrono::steady_clock::now();
      call();
      device_.synchronize();
      state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    report(state, work);
  }

 private:
  void report(benchmark::State& state, const Work& work) const;

  Device device_;
  MachineLimits limits_;
  OwnedTensor sweep_;  // 96 MiB, more than the last cache of today's CPUs and GPUs of this class
  std::vector<OwnedTensor> memory_;
  bool random_ = false;
};

enum class RunsOn { any_device, cpu, gpu };

// Registers a bench under "instruction/variant/dtype". `body` makes the operands and times.
void add(const std::string& name, std::function<void(Bench&, benchmark::State&)> body,
         RunsOn runs_on = RunsOn::any_device);
// The same for f32 and bf16.
void add_dtypes(const std::string& name, const std::function<void(Bench&, benchmark::State&, DType)>& body);

// What each file of this folder registers.
void add_row_benches();
void add_matmul_benches();
void add_attention_benches();
void add_moe_benches();
void add_omni_benches();
void add_optimizer_benches();

}  // namespace omni::bench
