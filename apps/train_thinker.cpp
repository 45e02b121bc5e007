// train_thinker: trains the language model from a recipe.

#include "apps/training_app.h"
#include "trainers/thinker_trainer.h"

int main(int argc, char** argv) {
  return omni::training_app(
      argc, argv, "train_thinker",
      "Trains the Thinker, MiniMind's language model, on text: stage pretrain (JSONL of {\"text\": ...}) or sft (JSONL "
      "of\n"
      "{\"conversations\": [{\"role\": ..., \"content\": ...}, ...]}).\n\n"
      "Examples:\n"
      "  train_thinker trainers/recipes/pretrain_thinker.yaml data=corpus.jsonl output=out/pretrain\n"
      "  train_thinker trainers/recipes/pretrain_thinker.yaml --plan batch_size=64\n"
      "  train_thinker trainers/recipes/sft_thinker.yaml model=out/pretrain/model data=chats.jsonl output=out/sft "
      "--resume\n"
      "  mpirun -np 2 train_thinker trainers/recipes/pretrain_thinker.yaml data=corpus.jsonl output=out/pretrain",
      [](const std::string& path, const std::vector<std::string>& overrides, const omni::TrainOptions& options,
         omni::Ranks& ranks) {
        return omni::train_thinker(omni::load_recipe(path, overrides), options, ranks, std::cout);
      });
}
