#pragma once
// The training loop: forward, loss, backward, clip, step, log, save.

#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>

#include "engine/profiler.h"
#include "engine/ranks.h"
#include "trainers/recipe.h"
#include "trainers/training_task.h"

namespace omni {

struct TrainOptions {
  bool plan = false;                    // print what the run will cost and return
  bool resume = false;                  // continue from the last checkpoint in the output folder
  bool profile = false;                 // print the time of every instruction at the end
  bool terminal = false;                // `out` is a terminal: progress is one line that changes
  std::optional<MachineLimits> limits;  // of the device, if known; else they are measured
};

// Makes the task of a run: its data for this share of the rows, its model not yet in memory. From a checkpoint, if
// there is one, the model's configuration is taken.
using TaskMaker =
    std::function<std::unique_ptr<TrainingTask>(const std::optional<Checkpoint>&, const RowShard&, std::ostream&)>;

// Runs a recipe to its end: checkpoints in OUTPUT/checkpoint, a line per step in OUTPUT/metrics.jsonl and the same for
// TensorBoard in OUTPUT/tensorboard, and at last the model in OUTPUT/model. Returns 0 when finished, or the number of
// the signal (SIGINT, SIGTERM) after which it stopped with a checkpoint. Throws std::runtime_error for anything that
// prevents the run, or makes its loss or gradients not finite.
//
// With several processes each takes its share of the rows of every batch, so that the recipe means the same whatever
// their number: the loss is the mean over the labels of the whole batch, and the curve is that of one process up to
// rounding. (With experts each process balances the load of its own rows.) The first one writes and prints; all resume
// from its checkpoint.
int train(const Recipe& recipe, const TrainOptions& options, Ranks& ranks, std::ostream& out, const TaskMaker& make);

}  // namespace omni
