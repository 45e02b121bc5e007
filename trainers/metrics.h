#pragma once
// What a training step did, as a line of metrics.jsonl and as a line of progress.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/files.h"

namespace omni {

struct StepMetrics {
  std::int64_t step = 0, epoch = 0;  // from 1
  // Means over the step's micro-batches, the first one "loss"; then parts of the predictions that are right.
  std::vector<std::pair<std::string, double>> values;
  double learning_rate = 0, grad_norm = 0;               // the norm before clipping
  std::int64_t tokens = 0, labelled = 0, truncated = 0;  // without padding; predictions in the loss; samples cut short
  double seconds = 0, data_seconds = 0;                  // data_seconds: of them, waiting for batches
  double flops = 0;
  double peak_flops_per_s = 0;  // of the machine's matrix products

  double loss() const { return values.empty() ? 0 : values.front().second; }
  double tokens_per_s() const { return static_cast<double>(tokens) / seconds; }
  double fraction_of_peak() const { return flops / seconds / peak_flops_per_s; }
};

// metrics.jsonl: one header object, then one object per step. Apart from "seconds", "data_seconds",
// "tokens_per_s" and "fraction_of_peak" it depends on the recipe alone, however often the run was resumed.
class MetricsFile {
 public:
  // Starts a file, or continues one after `step`: lines of later steps, of which some may be cut off, are removed. A
  // missing file is started. Errors are std::runtime_error naming the file.
  MetricsFile(const std::filesystem::path& path, std::int64_t step, const nlohmann::ordered_json& header);

  void write(const StepMetrics& metrics);
  void flush();  // to the disk

 private:
  void write_line(const nlohmann::ordered_json& object);
  std::filesystem::path path_;
  FileDescriptor file_;
};

// One line: rewritten in place on a terminal, else printed anew every two seconds (and for the first and last step).
class Progress {
 public:
  Progress(std::ostream& out, bool terminal, std::int64_t steps) : out_(out), terminal_(terminal), steps_(steps) {}
  void show(const StepMetrics& metrics);
  void end_line();  // before other output

 private:
  using Clock = std::chrono::steady_clock;
  std::ostream& out_;
  bool terminal_, open_line_ = false;
  std::int64_t steps_, seen_ = 0;
  double seconds_per_step_ = 0, tokens_per_s_ = 0, fraction_ = 0;  // running means
  Clock::time_point shown_;
};

std::string duration_text(double seconds);  // "3m12s"
std::string count_text(double count);       // "9.1k"

}  // namespace omni
