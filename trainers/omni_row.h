#pragma once
// A conversation of the omni stages, as it lies in a shard (trainers/shards.h tells how).

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace omni {

inline constexpr std::string_view kImageMarker = "<image>";  // in a message: here the picture stands

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

// A member of a sample in a shard. `name` is what follows the key: "json", "answer.0.npy".
struct ShardMember {
  std::string name, bytes;
};

// What the model of a run expects.
struct OmniRowLimits {
  std::int64_t codes = 2048;  // real codes are 0 .. codes - 1
  std::int64_t speaker = 192;
  std::int64_t audio_width = 512;
  std::int64_t image_rows = 64, image_width = 768;
};

struct OmniRowProblems {
  std::vector<std::string> errors, warnings;  // "<member>: <field>: expected ..., found ..."
};

// The row of a sample. Members of unknown names, recordings and pictures are ignored. Throws BadSample
// (trainers/samples.h) for the first error.
OmniRow parse_omni_row(std::span<const ShardMember> members, const OmniRowLimits& limits);

// The same with all errors collected; the row is complete only if there are none. Unknown members are errors, and so
// are recordings and pictures whose first bytes do not fit their names (only the first 16 bytes are looked at).
OmniRow check_omni_row(std::span<const ShardMember> members, const OmniRowLimits& limits, OmniRowProblems& problems);

// What a message says, empty if it has no content, and how many of the messages a role has.
std::string content_of(const nlohmann::ordered_json& message);
std::int64_t count_role(const nlohmann::ordered_json& messages, std::string_view role);

// Whether parse_omni_row needs the content of the member of this name.
bool is_read_by_omni_row(std::string_view name);

}  // namespace omni
