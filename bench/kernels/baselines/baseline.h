#pragma once
// Baselines: an instruction of ours computed by a library of NVIDIA's, under "instruction/variant/LIBRARY/dtype" beside
// our own bench. Built where the libraries are found, registered where the device is a GPU.

#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/kernels/harness.h"
#include "kernels/attention/attention.h"
#include "kernels/moe/moe.h"

namespace omni::bench {

#ifdef OMNI_HAS_CUDNN
inline constexpr bool kHasCudnn = true;
#else
inline constexpr bool kHasCudnn = false;
#endif
#ifdef OMNI_HAS_CUBLAS_GROUPED
inline constexpr bool kHasCublasGrouped = true;
#else
inline constexpr bool kHasCublasGrouped = false;
#endif

// Each prepares a library for these operands; the call that comes back enqueues what the instruction says. What a
// library cannot do is a std::runtime_error in its own words.
std::function<void()> cudnn(Device& device, const Attention& op);
std::function<void()> cudnn(Device& device, const AttentionBackward& op);
std::function<void()> cublas(Device& device, const GroupedMatmul& op);
std::function<void()> cublas(Device& device, const GroupedMatmulWeightGradient& op);

// The operands that an instruction writes, copied to the host.
struct Output {
  std::string name;
  OwnedTensor values;
};
std::vector<Output> written_among(Device& device, std::span<const NamedOperand> operands);
// Throws std::runtime_error unless the outputs of a baseline are close to ours. A mask that is off by one is not.
void expect_close(const std::vector<Output>& theirs, const std::vector<Output>& ours);

template <class Op>
std::vector<Output> outputs_of(Device& device, const Op& op) {
  Check check(Op::name, true, device.place());
  op.check(check);
  return written_among(device, check.operands());
}

// Times the instruction that `make(bench)` builds as a library computes it, launch included, as for ours. `prepare` is
// one of the functions above. What is timed has first been compared with our kernels on random values.
template <class Make, class Prepare>
void time_baseline(Bench& bench, benchmark::State& state, const Make& make, const Prepare& prepare) {
  Device& device = bench.device();
  bench.draw(true);
  const auto sample = make(bench);
  bench.draw(false);
  const std::function<void()> call = prepare(device, sample);
  call();
  const std::vector<Output> theirs = outputs_of(device, sample);
  device.run(sample);
  expect_close(theirs, outputs_of(device, sample));
  bench.clear();
  const auto op = make(bench);
  bench.time(state, op.work(), prepare(device, op));
}

// Registers the baseline; one that its library cannot compute is skipped, with the library's reason.
template <class Make, class Prepare>
void add_baseline(const std::string& name, const Make& make, const Prepare& prepare) {
  const auto body = [=](Bench& bench, benchmark::State& state) {
    try {
      time_baseline(bench, state, make, prepare);
    } catch (const std::runtime_error& error) {
      bench.draw(false);
      state.SkipWithError(error.what());
    }
  };
  add(name, body, RunsOn::gpu);
}

// Registers an instruction for f32 and bf16, and its baseline by cuDNN, whose attention knows no f32.
template <class Make>
void add_beside_cudnn(const std::string& name, const Make& make) {
  add_dtypes(name, [=](Bench& b, benchmark::State& state, DType t) { b.time(state, make(b, t)); });
  if constexpr (kHasCudnn)
    add_baseline(
        name + "/cudnn/bf16", [=](Bench& b) { return make(b, DType::bf16); },
        [](Device& device, const auto& op) { return cudnn(device, op); });
}

// The same with cuBLAS's grouped product, for both.
template <class Make>
void add_beside_cublas(const std::string& name, const Make& make) {
  add_dtypes(name, [=](Bench& b, benchmark::State& state, DType t) { b.time(state, make(b, t)); });
  if constexpr (kHasCublasGrouped)
    for (const DType t : {DType::f32, DType::bf16})
      add_baseline(
          name + "/cublas/" + name_of(t), [=](Bench& b) { return make(b, t); },
          [](Device& device, const auto& op) { return cublas(device, op); });
}

}  // namespace omni::bench
