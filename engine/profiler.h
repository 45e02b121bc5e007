#pragma once
// Time, bytes and FLOPs per instruction. Off by default; Device::run opens a scope for each instruction that it runs.

#include <cstdint>
#include <iosfwd>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/instruction.h"

namespace omni {

// What the machine can do at most, measured: matrix products per second in both formats, and memory bandwidth.
struct MachineLimits {
  double f32_flops_per_s = 0, bf16_flops_per_s = 0, bytes_per_s = 0;

  // The least time in which the machine can do this work: the larger of arithmetic and memory traffic.
  double seconds(const Work& work) const;
};

class Profiler {
 public:
  enum class Mode {
    off,
    totals,  // one sum per instruction
    list,    // each execution, with its operands
  };
  struct Entry {
    std::string instruction, operands;
    std::int64_t calls = 0;
    double seconds = 0;
    Work work;
  };

  void set_mode(Mode mode) { mode_ = mode; }
  Mode mode() const { return mode_; }
  void clear();
  void add(const char* instruction, const std::string& operands, const Work& work, double seconds);

  const std::vector<Entry>& executions() const { return executions_; }
  std::vector<Entry> totals() const;  // by instruction, the most expensive first
  // A table of totals() with the fraction of the machine's limit that each instruction reached.
  void report(std::ostream& out, const MachineLimits& limits) const;

 private:
  Mode mode_ = Mode::off;
  std::map<std::string, Entry> totals_;
  // How often each instruction ran with each cost: as many entries as there are shapes, however long the run.
  std::map<std::string, std::map<std::tuple<std::int64_t, std::int64_t, DType>, std::int64_t>> costs_;
  std::vector<Entry> executions_;
};

}  // namespace omni
