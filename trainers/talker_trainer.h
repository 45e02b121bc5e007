#pragma once
// Trains the omni model, Thinker and Talker together, on conversations with spoken answers.

#include "trainers/trainer.h"

namespace omni {

int train_talker(const TalkerRecipe& recipe, const TrainOptions& options, Ranks& ranks, std::ostream& out);
int train_talker(const TalkerRecipe& recipe, const TrainOptions& options, std::ostream& out);  // one process

}  // namespace omni
