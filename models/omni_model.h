#pragma once
// The omni model together with its memory and its files.

#include <filesystem>
#include <memory>

#include "models/omni.h"

namespace omni {

class OmniModel {
 public:
  // Weights and config.json of a model directory, or of a weight file with a config.json beside it. The checkpoint must
  // hold every parameter in its shape. dtype i8: see ParameterStore::quantize. Errors name the file and the parameter.
  static std::unique_ptr<OmniModel> load(const std::filesystem::path& path, DType dtype, Purpose purpose,
                                         Device& device);
  // A model from nothing, for training: initial values from the seed.
  static std::unique_ptr<OmniModel> create(const OmniConfig& config, DType dtype, std::uint64_t seed, Device& device);

  // The start of training from a checkpoint of the omni model or of a Thinker alone. Beside the latter, what it has not
  // gets initial values, except that the Talker's blocks take those of the Thinker's last ones where they have the same
  // shapes; `talker_copied` then becomes true.
  static std::unique_ptr<OmniModel> start_from(const std::filesystem::path& path, const OmniConfig& config, DType dtype,
                                               std::uint64_t seed, Device& device, bool& talker_copied);

  // Writes a model directory: config.json, generation_config.json and model.safetensors in the given dtype. Each file
  // is replaced atomically, the weights last.
  void save(const std::filesystem::path& directory, DType dtype) const;

  OmniConfig config;
  ParameterStore store;
  Omni omni;

 private:
  explicit OmniModel(const OmniConfig& config);
};

}  // namespace omni
