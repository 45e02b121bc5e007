#pragma once
// Calls a program of this build.

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "engine/files.h"
#include "tests/support/temporary_folder.h"

namespace omni {

struct Outcome {
  int status;
  std::string output;  // both streams
};

inline Outcome call(const std::string& arguments, const std::string& input = {}) {
  const TemporaryFolder folder;
  write_text_file(folder / "input", input);
  const std::string command = std::string(OMNI_BINARY_DIR) + "/" + arguments + " < " + (folder / "input").string() +
                              " > " + (folder / "output").string() + " 2>&1";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(folder / "output")};
}

}  // namespace omni
