#pragma once
// A conversation of the omni stages, as it lies in a shard (trainers/shards.h tells how).

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace omni {

struct OmniRow {
  // What a frozen encoder made of a recording or a picture. The encoders themselves are not run here: a shard holds
  // their output beside the recording, or the recording is left out of the sample.
  struct States {
    std::int64_t rows = 0;      // 0: absent
    std::vector<float> values;  // [rows, width]
  };

  nlohmann::ordered_json messages;                      // a list of {"role": ..., "content": ...}
  std::vector<std::vector<std::int64_t>> answer_codes;  // per assistant turn [frames * 8], frame by frame; may be empty
  std::vector<std::int64_t> reference_codes;            // the same of a clip of the answering voice; may be empty
  std::vector<States> questions;                        // per user turn; may be empty
  States image;
  std::vector<float> speaker;  // [spk_emb_size], or empty
};

}  // namespace omni
