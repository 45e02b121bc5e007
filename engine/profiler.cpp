#include "engine/profiler.h"

#include <algorithm>
#include <iomanip>
#include <ostream>

namespace omni {

double MachineLimits::seconds(const Work& work) const {
  const double flops_per_s = work.unit == DType::bf16 ? bf16_flops_per_s : f32_flops_per_s;
  return std::max(static_cast<double>(work.flops) / flops_per_s, static_cast<double>(work.bytes) / bytes_per_s);
}

void Profiler::clear() {
  totals_.clear();
  costs_.clear();
  executions_.clear();
}

void Profiler::add(const char* instruction, const std::string& operands, const Work& work, double seconds) {
  if (mode_ == Mode::list) executions_.push_back({instruction, operands, 1, seconds, work});
  Entry& sum = totals_[instruction];
  sum.instruction = instruction;
  ++sum.calls;
  sum.seconds += seconds;
  sum.work.bytes += work.bytes;
  sum.work.flops += work.flops;
  sum.work.unit = work.unit;
  ++costs_[instruction][{work.bytes, work.flops, work.unit}];
}

std::vector<Profiler::Entry> Profiler::totals() const {
  std::vector<Entry> out;
  for (const auto& [name, entry] : totals_) out.push_back(entry);
  std::stable_sort(out.begin(), out.end(), [](const Entry& a, const Entry& b) { return a.seconds > b.seconds; });
  return out;
}

void Profiler::report(std::ostream& out, const MachineLimits& limits) const {
  double all = 0;
  for (const auto& [name, entry] : totals_) all += entry.seconds;
  out << "machine: matmul f32 " << std::fixed << std::setprecision(1) << limits.f32_flops_per_s / 1e9
      << " GFLOP/s, bf16 " << limits.bf16_flops_per_s / 1e9 << " GFLOP/s, memory " << limits.bytes_per_s / 1e9
      << " GB/s\n";
  out << std::left << std::setw(28) << "instruction" << std::right << std::setw(8) << "calls" << std::setw(11)
      << "time ms" << std::setw(8) << "share" << std::setw(11) << "GFLOP/s" << std::setw(9) << "GB/s" << std::setw(10)
      << "of limit" << '\n';
  for (const Entry& entry : totals()) {
    // An instruction's limit is the sum over its executions: each is bound by arithmetic or by memory on its own.
    double floor = 0;
    for (const auto& [cost, count] : costs_.at(entry.instruction)) {
      const auto [bytes, flops, unit] = cost;
      floor += static_cast<double>(count) * limits.seconds({bytes, flops, unit});
    }
    out << std::left << std::setw(28) << entry.instruction << std::right << std::setw(8) << entry.calls << std::setw(11)
        << std::setprecision(2) << entry.seconds * 1e3 << std::setw(7) << std::setprecision(1)
        << 100 * entry.seconds / all << '%' << std::setw(11)
        << static_cast<double>(entry.work.flops) / entry.seconds / 1e9 << std::setw(9)
        << static_cast<double>(entry.work.bytes) / entry.seconds / 1e9 << std::setw(9) << 100 * floor / entry.seconds
        << "%\n";
  }
}

}  // namespace omni
