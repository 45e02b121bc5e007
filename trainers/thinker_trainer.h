#pragma once
// Trains the Thinker on text.

#include "trainers/trainer.h"

namespace omni {

int train_thinker(const Recipe& recipe, const TrainOptions& options, Ranks& ranks, std::ostream& out);
int train_thinker(const Recipe& recipe, const TrainOptions& options, std::ostream& out);  // one process

}  // namespace omni
