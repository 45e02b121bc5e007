#pragma once
// The command line that the training programs share.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <iostream>

#include "trainers/trainer.h"

namespace omni {

// Runs a recipe: `run` returns 0 or the number of the signal that stopped it. `name` and `about` are for messages.
inline int training_app(int argc, char** argv, const std::string& name, const std::string& about,
                        const std::function<int(const std::string& path, const std::vector<std::string>& overrides,
                                                const TrainOptions& options, Ranks& ranks)>& run) {
  CLI::App app(
      about +
      "\n\nThe output folder receives metrics.jsonl (a header, then one object per step), tensorboard/ (the same),\n"
      "checkpoint/ (and the one before it) and, at the end, model/: a Hugging Face directory for chat, trace or the\n"
      "next stage. Ctrl-C saves a checkpoint after the current step; a second one stops at once.\n\n"
      "Exit codes: 0 finished, 1 error (nothing saved is lost), 2 wrong usage, 130 and 143 stopped by SIGINT and "
      "SIGTERM\n"
      "with a checkpoint.");
  std::string path;
  std::vector<std::string> overrides;
  TrainOptions options;
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
  Ranks ranks;
  try {
    ranks = Ranks::join();
    options.terminal = isatty(STDOUT_FILENO);
    const int signal = run(path, overrides, options, ranks);
    return signal == 0 ? 0 : 128 + signal;
  } catch (const std::exception& error) {
    std::cout.flush();
    std::cerr << name << ": " << error.what() << std::endl;
    ranks.abort(1);  // the others would wait for this process
    return 1;
  }
}

}  // namespace omni
