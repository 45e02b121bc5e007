#include "models/thinker_model.h"

#include <algorithm>
#include <stdexcept>

#include "engine/files.h"
#include "models/load_weights.h"
#include "models/saved_order.h"

namespace omni {

const char* config_dtype(DType dtype) {
  return dtype == DType::bf16 ? "bfloat16" : dtype == DType::f16 ? "float16" : "float32";
}

ThinkerModel::ThinkerModel(const ThinkerConfig& model_config) : config(model_config), thinker(Scope(store), config) {}

std::unique_ptr<ThinkerModel> ThinkerModel::load(const std::filesystem::path& path, DType dtype, Purpose purpose,
                                                 Device& device) {
  const ThinkerConfig config = load_config(model_directory(path));
  const WeightSource source = open_weights(path);
  std::unique_ptr<ThinkerModel> model(new ThinkerModel(config));
  model->store.allocate(dtype == DType::i8 ? DType::f32 : dtype, purpose, device);
  load_parameters(
      model->store, source,
      {.tied_head = config.tie_word_embeddings, .may_miss = {}, .others = {"talker.", "audio_proj.", "vision_proj."}});
  if (dtype == DType::i8) model->store.quantize();
  if (purpose == Purpose::inference) model->store.pack();
  return model;
}

std::unique_ptr<ThinkerModel> ThinkerModel::create(const ThinkerConfig& config, DType dtype, std::uint64_t seed,
                                                   Device& device) {
  std::unique_ptr<ThinkerModel> model(new ThinkerModel(config));
  model->store.allocate(dtype, Purpose::training, device);
  model->store.initialize(seed);
  model->store.refresh_copy();
  return model;
}

void ThinkerModel::save(const std::filesystem::path& directory, DType dtype) const {
  write_model_directory(directory, config.to_json(config_dtype(dtype)), store, dtype, config);
}

void write_model_directory(const std::filesystem::path& directory, const nlohmann::ordered_json& config,
                           const ParameterStore& store, DType dtype, const ThinkerConfig& thinker) {
  std::filesystem::create_directories(directory);
  write_text_file(directory / "config.json", config.dump(2) + "\n");
  const nlohmann::ordered_json generation = {{"bos_token_id", thinker.bos_token_id},
                                             {"eos_token_id", thinker.eos_token_id},
                                             {"pad_token_id", 0},
                                             {"do_sample", true},
                                             {"temperature", 0.85},
                                             {"top_k", 50},
                                             {"top_p", 0.85}};
  write_text_file(directory / "generation_config.json", generation.dump(2) + "\n");
  std::vector<OwnedTensor> memory;
  write_safetensors(directory / "model.safetensors", checkpoint_tensors(store, memory), {{"format", "pt"}}, dtype);
}

std::vector<NamedView> checkpoint_tensors(const ParameterStore& store, std::vector<OwnedTensor>& memory) {
  std::vector<NamedView> out;
  for (const auto& [name, view] : store.named_masters()) out.push_back({name, store.device().on_host(view, memory)});
  sort_as_saved(out);
  return out;
}

}  // namespace omni
