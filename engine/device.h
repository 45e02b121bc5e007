#pragma once
// Device: the only door to the kernels.

#include <chrono>
#include <string>

#include "engine/profiler.h"
#include "kernels/instruction.h"

namespace omni {

// Finds the overload of an instruction's own header by argument-dependent lookup.
template <class Op>
void execute(const CpuContext& cpu, const Op& op) {
  run(cpu, op);
}

class Device {
 public:
  // The CPU with `threads` OpenMP threads, 0 for as many as the process may use.
  static Device cpu(int threads = 0) { return Device(threads); }
  // "cpu"; "cuda" is an error in a build without CUDA kernels.
  static Device named(const std::string& name, int threads = 0);

  Device(Device&&) = delete;  // contexts point into the device

  // Checks the instruction's operands, then executes it; profiled if the profiler is on.
  template <class Op>
  void run(const Op& op) {
    if (profiler_.mode() == Profiler::Mode::off) {
      Check check(Op::name);
      op.check(check);
      execute(cpu_, op);
      return;
    }
    Check check(Op::name, profiler_.mode() == Profiler::Mode::list);
    op.check(check);
    const auto begin = std::chrono::steady_clock::now();
    execute(cpu_, op);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    profiler_.add(Op::name, check.operands(), op.work(), elapsed.count());
  }

  Profiler& profiler() { return profiler_; }
  const CpuContext& cpu_context() const { return cpu_; }
  std::string name() const { return "cpu"; }

 private:
  explicit Device(int threads);

  Workspace workspace_;
  CpuContext cpu_;
  Profiler profiler_;
};

}  // namespace omni
