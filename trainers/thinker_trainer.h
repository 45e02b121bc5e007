#pragma once
// Trains the Thinker on text.

#include <iosfwd>
#include <optional>

#include "engine/profiler.h"
#include "trainers/recipe.h"

namespace omni {

struct TrainOptions {
  bool plan = false;                    // print what the run will cost and return
  bool resume = false;                  // continue from the last checkpoint in the output folder
  bool profile = false;                 // print the time of every instruction at the end
  bool terminal = false;                // `out` is a terminal: progress is one line that changes
  std::optional<MachineLimits> limits;  // of the device, if known; else they are measured
};

// Runs a recipe to its end: checkpoints in OUTPUT/checkpoint, a line per step in OUTPUT/metrics.jsonl, and at last the
// model in OUTPUT/model. Returns 0 when finished, or the number of the signal (SIGINT, SIGTERM) after which it stopped
// with a checkpoint. Throws std::runtime_error for anything that prevents the run, or makes its loss or gradients not
// finite.
int train_thinker(const Recipe& recipe, const TrainOptions& options, std::ostream& out);

}  // namespace omni
