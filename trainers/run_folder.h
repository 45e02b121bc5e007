#pragma once
// The output folder of a training run: one run at a time, and no run is overwritten by accident.

#include <filesystem>

#include "engine/files.h"
#include "trainers/recipe.h"

namespace omni {

class RunFolder {
 public:
  // Creates the folder and takes a lock in it that lasts as long as this object (or the process). Throws
  // std::runtime_error if another process trains there, and if it holds a run that this one neither resumes nor may
  // overwrite (`overwrite: true` removes its checkpoints).
  RunFolder(const Recipe& recipe, bool resume);

 private:
  FileDescriptor lock_;
};

}  // namespace omni
