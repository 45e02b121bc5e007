#pragma once
// A Thinker together with its memory and its files.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/weights.h"
#include "models/thinker.h"

namespace omni {

class ThinkerModel {
 public:
  // Weights and config.json of a model directory, or of a weight file with a config.json beside it. The checkpoint must
  // hold every parameter in its shape; names of other modules are left alone. For i8 see
  // ParameterStore::quantize. Errors name the file and the parameter.
  static std::unique_ptr<ThinkerModel> load(const std::filesystem::path& path, DType dtype, Purpose purpose,
                                            Device& device);
  // A model from nothing, for training: initial values from the seed.
  static std::unique_ptr<ThinkerModel> create(const ThinkerConfig& config, DType dtype, std::uint64_t seed,
                                              Device& device);

  // Writes a model directory: config.json, generation_config.json and model.safetensors in the given dtype. Each file
  // is replaced atomically, the weights last.
  void save(const std::filesystem::path& directory, DType dtype) const;

  ThinkerConfig config;
  ParameterStore store;
  Thinker thinker;

 private:
  explicit ThinkerModel(const ThinkerConfig& config);
};

// The name of a dtype in config.json: "float32", ...
const char* config_dtype(DType dtype);

// The files of a model directory; `thinker` gives the ids in generation_config.json.
void write_model_directory(const std::filesystem::path& directory, const nlohmann::ordered_json& config,
                           const ParameterStore& store, DType dtype, const ThinkerConfig& thinker);

// The model's parameters under their checkpoint names, in host memory: `memory`, where they lie elsewhere.
std::vector<NamedView> checkpoint_tensors(const ParameterStore& store, std::vector<OwnedTensor>& memory);

}  // namespace omni
