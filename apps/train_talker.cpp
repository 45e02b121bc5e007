// train_talker: trains the omni model from a recipe.

#include "apps/training_app.h"
#include "trainers/talker_trainer.h"

int main(int argc, char** argv) {
  return omni::training_app(
      argc, argv, "train_talker",
      "Trains the omni model, Thinker and Talker together, on conversations with spoken answers in tar shards\n"
      "(prepare_data --help tells what lies in them).\n\n"
      "Examples:\n"
      "  train_talker trainers/recipes/mini_1_speak.yaml model=out/sft/model data=data/shards/t2a_mini "
      "output=out/mini_1\n"
      "  train_talker trainers/recipes/mini_1_speak.yaml model=out/sft/model data=data/shards/t2a_mini "
      "output=out/mini_1 --plan\n"
      "  train_talker trainers/recipes/mini_2_listen.yaml model=out/mini_1/model data=data/shards/a2a_mini "
      "output=out/mini_2 --resume\n"
      "  mpirun -np 2 train_talker trainers/recipes/mini_1_speak.yaml model=out/sft/model data=data/shards/t2a_mini "
      "output=out/mini_1\n\n"
      "model names a Thinker, whose last blocks the Talker then begins with, or an omni model.",
      [](const std::string& path, const std::vector<std::string>& overrides, const omni::TrainOptions& options,
         omni::Ranks& ranks) {
        return omni::train_talker(omni::load_talker_recipe(path, overrides), options, ranks, std::cout);
      });
}
