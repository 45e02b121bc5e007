// train_thinker: trains the language model from a recipe.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "trainers/thinker_trainer.h"

int main(int argc, char** argv) {
  CLI::App app(
      "Trains the Thinker, MiniMind's language model, on text: stage pretrain (JSONL of {\"text\": ...}) or sft (JSONL "
      "of\n"
      "{\"conversations\": [{\"role\": ..., \"content\": ...}, ...]}).\n\n"
      "Examples:\n"
      "  train_thinker trainers/recipes/pretrain_thinker.yaml data=corpus.jsonl output=out/pretrain\n"
      "  train_thinker trainers/recipes/pretrain_thinker.yaml --plan batch_size=64\n"
      "  train_thinker trainers/recipes/sft_thinker.yaml model=out/pretrain/model data=chats.jsonl output=out/sft "
      "--resume\n"
      "  mpirun -np 2 train_thinker trainers/recipes/pretrain_thinker.yaml data=corpus.jsonl output=out/pretrain\n\n"
      "The output folder receives metrics.jsonl (a header, then one object per step), checkpoint/ (and the one before "
      "it)\n"
      "and, at the end, model/: a Hugging Face directory for chat, trace or the next stage.\n"
      "Ctrl-C saves a checkpoint after the current step; a second one stops at once.\n\n"
      "Exit codes: 0 finished, 1 error (nothing saved is lost), 2 wrong usage, 130 and 143 stopped by SIGINT and "
      "SIGTERM\n"
      "with a checkpoint.");
  std::string path;
  std::vector<std::string> overrides;
  omni::TrainOptions options;
  app.add_option("recipe", path, "YAML file; trainers/recipe.h lists its keys")->required();
  app.add_option("overrides", overrides,
                 "key=value, replaces a setting of the recipe (config.key=value inside of config)");
  app.add_flag("--plan", options.plan, "print parameters, memory, work and time, then leave");
  app.add_flag("--resume", options.resume, "continue from the last checkpoint in the output folder, if there is one");
  app.add_flag("--profile", options.profile, "print the time that each instruction took");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  omni::Ranks ranks;
  try {
    ranks = omni::Ranks::join();
    options.terminal = isatty(STDOUT_FILENO);
    const int signal = omni::train_thinker(omni::load_recipe(path, overrides), options, ranks, std::cout);
    return signal == 0 ? 0 : 128 + signal;
  } catch (const std::exception& error) {
    std::cout.flush();
    std::cerr << "train_thinker: " << error.what() << std::endl;
    ranks.abort(1);  // the others would wait for this process
    return 1;
  }
}
