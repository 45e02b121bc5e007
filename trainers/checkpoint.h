#pragma once
// The state of a training run on the disk, from which it continues bit for bit.
//
// OUTPUT/checkpoint is at the same time a model directory: config.json, model.safetensors (the f32 master weights) and
// the tokenizer. Beside them lie optimizer.safetensors (moment1.<name>, moment2.<name>) and state.json, which holds the
// step, what of the recipe decides about the numbers, and size and checksum of every file. The folder appears as a
// whole (AtomicFolder); the one before is kept as OUTPUT/checkpoint.previous. Random numbers need no state: they follow
// from seed and position.

#include <filesystem>
#include <functional>
#include <iosfwd>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "autograd/optimizer.h"

namespace omni {

// Small files by name, held in memory: the tokenizer, which goes along with the weights.
using TextFiles = std::map<std::string, std::string>;
TextFiles read_tokenizer_files(const std::filesystem::path& directory);
void write_text_files(const std::filesystem::path& directory, const TextFiles& files);

struct TrainingState {
  std::int64_t step = 0;            // steps done
  bool finished = false;            // all of them are done and the final model is written
  nlohmann::ordered_json identity;  // what must agree for a resume
};

struct Checkpoint {
  std::filesystem::path path;
  TrainingState state;
};

inline std::filesystem::path checkpoint_of(const std::filesystem::path& output) { return output / "checkpoint"; }
inline std::filesystem::path previous_checkpoint_of(const std::filesystem::path& output) {
  return output / "checkpoint.previous";
}

// Writes OUTPUT/checkpoint; the former one becomes OUTPUT/checkpoint.previous (hard links, no copy). If anything fails,
// both are as before. save_model writes a model directory with f32 weights.
void save_checkpoint(const std::filesystem::path& output, const ParameterStore& store, const AdamWOptimizer& optimizer,
                     const TrainingState& state, const TextFiles& tokenizer,
                     const std::function<void(const std::filesystem::path&)>& save_model);

// The newest checkpoint of an output folder whose files are undamaged, or nothing if there is none at all. Damage to
// the newest is reported to `out`. Throws std::runtime_error naming the damaged files if no checkpoint is usable.
std::optional<Checkpoint> find_checkpoint(const std::filesystem::path& output, std::ostream& out);

// Throws std::runtime_error that lists the differing keys.
void check_identity(const Checkpoint& checkpoint, const nlohmann::ordered_json& identity);

// Reads the moments and the number of updates. The weights are read by the model's load(checkpoint.path, ...).
void restore_optimizer(const Checkpoint& checkpoint, const ParameterStore& store, AdamWOptimizer& optimizer);

}  // namespace omni
