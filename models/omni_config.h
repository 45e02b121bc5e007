#pragma once
// The configuration of the omni model: the Thinker's fields and those of what stands around it, in one config.json.

#include <algorithm>

#include "models/config.h"

namespace omni {

struct OmniConfig {
  ThinkerConfig thinker;
  std::int64_t num_talker_hidden_layers = 4;
  std::int64_t talker_hidden_size = 768;
  std::int64_t audio_placeholder_id = 16, image_placeholder_id = 12;  // text ids; the first of audio_ids and image_ids
  std::int64_t audio_hidden_size = 512, image_hidden_size = 768;      // widths of the frozen encoders
  std::int64_t image_token_len = 64;                                  // rows of an image
  std::int64_t audio_vocab_size = 2112;
  std::int64_t audio_pad_token = 2049, audio_stop_token = 2050, audio_spk_token = 2051;
  std::int64_t spk_emb_size = 192;
  std::int64_t bridge_layer = 3;    // the Thinker's block that feeds the Talker; -1: its embeddings
  std::int64_t adapter_rank = 256;  // of the codebooks' adapters; no field of config.json, where it is always this
  std::vector<std::int64_t> think_end_ids = {26, 234, 234};

  // The codes from here on are no sound: a codebook that draws one has ended. The one before the pad code is never
  // used.
  std::int64_t first_reserved_code() const {
    return std::min({audio_pad_token, audio_stop_token, audio_spk_token}) - 1;
  }
  // The Talker's blocks: its own width, experts as in the Thinker, everything else by default, but for the rotary
  // table.
  ThinkerConfig talker() const;
  nlohmann::ordered_json to_json(std::string_view dtype = "bfloat16") const;
  bool operator==(const OmniConfig&) const = default;
};

// Missing fields take their defaults; bridge_layer is then num_hidden_layers / 2 - 1. Errors as in models/config.h.
OmniConfig parse_omni_config(std::string_view text, const std::string& name);
// `path` is a config.json or a directory that holds one.
OmniConfig load_omni_config(const std::filesystem::path& path);

}  // namespace omni
