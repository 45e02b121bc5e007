#include "models/omni_model.h"

#include <stdexcept>

#include "models/thinker_model.h"

namespace omni {

OmniModel::OmniModel(const OmniConfig& model_config) : config(model_config), omni(Scope(store), config) {}

std::unique_ptr<OmniModel> OmniModel::load(const std::filesystem::path& path, DType dtype, Purpose purpose,
                                           Device& device) {
  if (!std::filesystem::exists(path))
    throw std::runtime_error(path.string() + ": expected a model directory or a weight file, found nothing");
  const bool is_directory = std::filesystem::is_directory(path);
  const OmniConfig config = load_omni_config(is_directory ? path : path.parent_path() / "config.json");
  const WeightSource source = open_weights(path);
  std::unique_ptr<OmniModel> model(new OmniModel(config));
  model->store.allocate(dtype == DType::i8 ? DType::f32 : dtype, purpose, device);
  load_parameters(model->store, source, config.thinker.tie_word_embeddings);
  if (dtype == DType::i8) model->store.quantize();
  return model;
}

std::unique_ptr<OmniModel> OmniModel::create(const OmniConfig& config, DType dtype, std::uint64_t seed,
                                             Device& device) {
  std::unique_ptr<OmniModel> model(new OmniModel(config));
  model->store.allocate(dtype, Purpose::training, device);
  model->store.initialize(seed);
  model->store.refresh_copy();
  return model;
}

void OmniModel::save(const std::filesystem::path& directory, DType dtype) const {
  write_model_directory(directory, config.to_json(config_dtype(dtype)), store, dtype, config.thinker);
}

}  // namespace omni
