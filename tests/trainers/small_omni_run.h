#pragma once
// Shards and a recipe of the omni model so small that a run takes a moment.

#include "tests/support/omni_shard.h"
#include "tests/trainers/small_run.h"

namespace omni {

inline constexpr std::int64_t kCodes = 35;  // of the small omni model; those from here on are reserved

// A spoken question, a picture, a speaker and a reference clip, each in some of the samples.
inline ShardFiles omni_sample(std::int64_t number) {
  const std::string key = "k" + std::to_string(number), image = number % 3 == 0 ? " <image>" : "";
  ShardFiles files = {{key + ".json", R"({"conversations": [{"role": "system", "content": "s"},
                          {"role": "user", "content": "q)" +
                                          image + R"("}, {"role": "assistant", "content": "ab"}]})"},
                      {key + ".answer.0.npy", codes_file(3 + number % 4, number, kCodes)}};
  if (number % 4 != 0) files.emplace_back(key + ".reference.npy", codes_file(4, number + 1, kCodes));
  if (number % 4 != 1) files.emplace_back(key + ".speaker.npy", npy_file(some_floats(24, number), {24}));
  if (number % 2 == 0) files.emplace_back(key + ".question.0.npy", npy_file(some_floats(3 * 40, number), {3, 40}));
  if (!image.empty()) files.emplace_back(key + ".image.npy", npy_file(some_floats(4 * 56, number), {4, 56}));
  return files;
}

inline std::string omni_yaml(const std::filesystem::path& folder, const std::string& output) {
  const std::string path = folder.string();
  return "config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,\n"
         "         vocab_size: 320, intermediate_size: 48, moe_intermediate_size: 48, max_position_embeddings: 128,\n"
         "         talker_hidden_size: 32, num_talker_hidden_layers: 1, audio_vocab_size: 40, audio_pad_token: 36,\n"
         "         audio_stop_token: 37, audio_spk_token: 38, audio_hidden_size: 40, image_hidden_size: 56,\n"
         "         image_token_len: 4, spk_emb_size: 24}\n"
         "tokenizer: " +
         path + "/tokenizer\ndata: " + path + "/omni.tar\noutput: " + path + "/" + output +
         "\nsteps: 10\nbatch_size: 3\nmax_seq_len: 90\nsave_interval: 0\nworkers: 1\nthreads: 1\n";
}

// A folder with tokenizer/ and omni.tar.
class SmallOmniRun {
 public:
  SmallOmniRun() {
    write_byte_tokenizer(folder / "tokenizer");
    std::vector<ShardFiles> samples;
    for (std::int64_t i = 0; i < 12; ++i) samples.push_back(omni_sample(i));
    write_text_file(folder / "omni.tar", shard_of(samples));
  }
  TalkerRecipe recipe(const std::string& output, const std::vector<std::string>& overrides = {}) const {
    return parse_talker_recipe(omni_yaml(folder.path(), output), "small_omni.yaml", overrides);
  }

  TemporaryFolder folder;
};

}  // namespace omni
