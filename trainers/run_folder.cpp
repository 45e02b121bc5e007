#include "trainers/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>

#include <stdexcept>

#include "trainers/checkpoint.h"

namespace omni {

namespace fs = std::filesystem;

RunFolder::RunFolder(const Recipe& recipe, bool resume) {
  std::error_code error;
  fs::create_directories(recipe.output, error);
  if (error) throw_file_error("create the folder", recipe.output, error.value());
  const fs::path path = recipe.output / "run.lock";
  lock_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!lock_) throw_file_error("create", path);
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    throw std::runtime_error(recipe.output.string() + ": another process is training in this folder");
  if (resume) return;
  // The older one first: killed between the two, the newest is still there to be found.
  for (const fs::path& folder : {previous_checkpoint_of(recipe.output), checkpoint_of(recipe.output)}) {
    recover_folder(folder);
    if (fs::exists(folder) && recipe.overwrite) fs::remove_all(folder);
  }
  for (const fs::path& folder :
       {checkpoint_of(recipe.output), previous_checkpoint_of(recipe.output), recipe.output / "model"})
    if (fs::exists(folder) && !recipe.overwrite)
      throw std::runtime_error(folder.string() +
                               " exists: continue that run with --resume, or start anew with overwrite=true");
}

}  // namespace omni
