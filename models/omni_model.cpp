#include "models/omni_model.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "models/load_weights.h"
#include "models/thinker_model.h"

namespace omni {
namespace {

constexpr const char* kTalkerLayers = "talker.layers.";

// Thinker blocks n - t .. n - 1 become Talker blocks 0 .. t - 1. False if any shape differs; then nothing is copied.
bool copy_last_blocks(ParameterStore& store, const OmniConfig& config) {
  std::map<std::string, View> masters;
  for (const auto& [name, view] : store.named_masters()) masters[name] = view;
  const std::int64_t first = config.thinker.num_hidden_layers - config.num_talker_hidden_layers;
  if (first < 0 || config.talker_hidden_size != config.thinker.hidden_size) return false;
  std::vector<std::pair<View, View>> copies;  // to, from
  for (const auto& [name, view] : masters) {
    if (!name.starts_with(kTalkerLayers)) continue;
    const std::string rest = name.substr(std::string(kTalkerLayers).size());
    const std::size_t dot = rest.find('.');
    const auto from =
        masters.find("model.layers." + std::to_string(first + std::stoll(rest.substr(0, dot))) + rest.substr(dot));
    if (from == masters.end() || !(from->second.shape == view.shape)) return false;
    copies.emplace_back(view, from->second);
  }
  for (const auto& [to, from] : copies) store.device().copy(to, from);
  return true;
}

}  // namespace

OmniModel::OmniModel(const OmniConfig& model_config) : config(model_config), omni(Scope(store), config) {}

std::unique_ptr<OmniModel> OmniModel::load(const std::filesystem::path& path, DType dtype, Purpose purpose,
                                           Device& device) {
  const OmniConfig config = load_omni_config(model_directory(path));
  const WeightSource source = open_weights(path);
  std::unique_ptr<OmniModel> model(new OmniModel(config));
  model->store.allocate(dtype == DType::i8 ? DType::f32 : dtype, purpose, device);
  load_parameters(model->store, source,
                  {.tied_head = config.thinker.tie_word_embeddings, .may_miss = {}, .others = {}});
  if (dtype == DType::i8) model->store.quantize();
  if (purpose == Purpose::inference) model->store.pack();
  return model;
}

std::unique_ptr<OmniModel> OmniModel::start_from(const std::filesystem::path& path, const OmniConfig& config,
                                                 DType dtype, std::uint64_t seed, Device& device, bool& talker_copied) {
  const WeightSource source = open_weights(path);
  const bool has_talker = std::any_of(source.names().begin(), source.names().end(),
                                      [](const std::string& name) { return name.starts_with(kTalkerLayers); });
  std::unique_ptr<OmniModel> model = create(config, dtype, seed, device);
  LoadRules rules{.tied_head = config.thinker.tie_word_embeddings, .may_miss = {}, .others = {}};
  if (!has_talker) rules.may_miss = {"talker.", "audio_proj.", "vision_proj."};
  load_parameters(model->store, source, rules);
  talker_copied = !has_talker && copy_last_blocks(model->store, config);
  model->store.refresh_copy();
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
