#pragma once
// The records of a run: metrics.jsonl, and the same for TensorBoard.

#include "trainers/metrics.h"
#include "trainers/tensorboard.h"

namespace omni {

class RunLog {
 public:
  // In the output folder; continues after `step` (MetricsFile, TensorBoardFile).
  RunLog(const std::filesystem::path& output, std::int64_t step, const nlohmann::ordered_json& header)
      : metrics_(output / "metrics.jsonl", step, header), board_(output / "tensorboard", step + 1) {}

  void write(const StepMetrics& step);
  void flush();  // to the disk

 private:
  MetricsFile metrics_;
  TensorBoardFile board_;
};

}  // namespace omni
