#pragma once
// Trains the Thinker on text.

#include <iosfwd>
#include <optional>

#include "engine/profiler.h"
#include "engine/ranks.h"
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
//
// With several processes each takes its share of the rows of every batch, so that the recipe means the same whatever
// their number: the loss is the mean over the labels of the whole batch, and the curve is that of one process up to
// rounding. (With experts each process balances the load of its own rows.) The first one writes and prints; all resume
// from its checkpoint.
int train_thinker(const Recipe& recipe, const TrainOptions& options, Ranks& ranks, std::ostream& out);
int train_thinker(const Recipe& recipe, const TrainOptions& options, std::ostream& out);  // one process

}  // namespace omni
