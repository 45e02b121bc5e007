#include "models/omni_config.h"

#include "engine/files.h"
#include "models/json_text.h"

namespace omni {
namespace {

constexpr std::int64_t kLargest = 1 << 16, kLargestVocabulary = 1 << 20;

// A list of token ids.
std::vector<std::int64_t> ids_of(const JsonFields& fields, const char* key, std::vector<std::int64_t> fallback,
                                 std::int64_t vocabulary) {
  if (!fields.has(key)) return fallback;
  std::vector<std::int64_t> out;
  for (const nlohmann::json& id : fields.list(key)) {
    if (!id.is_number_integer() || id < 0 || id >= vocabulary)
      fields.fail(key, "token ids below vocab_size (" + std::to_string(vocabulary) + ")");
    out.push_back(id);
  }
  if (out.empty()) fields.fail(key, "at least one token id");
  return out;
}

void read_audio(const JsonFields& fields, OmniConfig& config) {
  config.audio_vocab_size = fields.integer("audio_vocab_size", config.audio_vocab_size, 1, kLargestVocabulary);
  const std::int64_t last = config.audio_vocab_size - 1;
  config.audio_pad_token = fields.integer("audio_pad_token", config.audio_pad_token, 0, last);
  config.audio_stop_token = fields.integer("audio_stop_token", config.audio_stop_token, 0, last);
  config.audio_spk_token = fields.integer("audio_spk_token", config.audio_spk_token, 0, last);
  config.audio_hidden_size = fields.integer("audio_hidden_size", config.audio_hidden_size, 1, kLargest);
  config.spk_emb_size = fields.integer("spk_emb_size", config.spk_emb_size, 1, kLargest);
}

}  // namespace

ThinkerConfig OmniConfig::talker() const {
  ThinkerConfig out;
  out.hidden_size = talker_hidden_size;
  out.num_hidden_layers = num_talker_hidden_layers;
  out.use_moe = thinker.use_moe;
  out.head_dim = talker_hidden_size / out.num_attention_heads;
  out.intermediate_size = out.moe_intermediate_size = ThinkerConfig::default_intermediate_size(talker_hidden_size);
  out.max_position_embeddings = thinker.max_position_embeddings;
  out.rope_theta = thinker.rope_theta;
  out.inference_rope_scaling = thinker.inference_rope_scaling;
  return out;
}

nlohmann::ordered_json OmniConfig::to_json(std::string_view dtype) const {
  nlohmann::ordered_json json = thinker.to_json(dtype);
  json["architectures"] = nlohmann::ordered_json::array({"MiniMindOmni"});
  json["model_type"] = "minimind-o";
  json["auto_map"] = {{"AutoConfig", "model_omni.OmniConfig"}, {"AutoModelForCausalLM", "model_omni.MiniMindOmni"}};
  json["num_talker_hidden_layers"] = num_talker_hidden_layers;
  json["talker_hidden_size"] = talker_hidden_size;
  json["audio_ids"] = nlohmann::ordered_json::array({audio_placeholder_id});
  json["audio_special_token"] = "<|audio_pad|>";
  json["audio_hidden_size"] = audio_hidden_size;
  json["audio_vocab_size"] = audio_vocab_size;
  json["audio_pad_token"] = audio_pad_token;
  json["audio_stop_token"] = audio_stop_token;
  json["audio_spk_token"] = audio_spk_token;
  json["spk_emb_size"] = spk_emb_size;
  json["think_end_ids"] = think_end_ids;
  json["image_ids"] = nlohmann::ordered_json::array({image_placeholder_id});
  json["image_special_token"] = "<|image_pad|>";
  json["image_hidden_size"] = image_hidden_size;
  json["image_token_len"] = image_token_len;
  json["bridge_layer"] = bridge_layer;
  return json;
}

OmniConfig parse_omni_config(std::string_view text, const std::string& name) {
  const nlohmann::json json = parse_json<nlohmann::json>(text, name);
  const JsonFields fields(json, name);
  OmniConfig config;
  config.thinker = read_thinker_config(fields);
  config.thinker.model_type = "minimind-o";
  config.num_talker_hidden_layers =
      fields.integer("num_talker_hidden_layers", config.num_talker_hidden_layers, 1, 1024);
  config.talker_hidden_size = fields.integer("talker_hidden_size", config.talker_hidden_size, 1, kLargest);
  const ThinkerConfig talker = config.talker();
  if (talker.hidden_size % (2 * talker.num_attention_heads) != 0 || talker.head_dim > 128)
    fields.fail("talker_hidden_size", "a multiple of 16, at most 1024 (8 heads)");
  read_audio(fields, config);
  const std::int64_t vocabulary = config.thinker.vocab_size;
  config.audio_placeholder_id = ids_of(fields, "audio_ids", {16}, vocabulary)[0];
  config.image_placeholder_id = ids_of(fields, "image_ids", {12}, vocabulary)[0];
  config.think_end_ids = ids_of(fields, "think_end_ids", config.think_end_ids, vocabulary);
  config.image_hidden_size = fields.integer("image_hidden_size", config.image_hidden_size, 1, kLargest);
  config.image_token_len = fields.integer("image_token_len", config.image_token_len, 1, kLargest);
  config.bridge_layer = fields.integer("bridge_layer", config.thinker.num_hidden_layers / 2 - 1, -1,
                                       config.thinker.num_hidden_layers - 1);
  return config;
}

OmniConfig load_omni_config(const std::filesystem::path& path) {
  const std::filesystem::path file = std::filesystem::is_directory(path) ? path / "config.json" : path;
  return parse_omni_config(read_text_file(file), file.string());
}

}  // namespace omni
