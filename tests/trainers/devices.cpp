// Training runs on every device that is there follow one curve.

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <functional>
#include <sstream>

#include "kernels/cuda/runtime.h"
#include "tests/support/omni_shard.h"
#include "tests/trainers/small_run.h"
#include "trainers/talker_trainer.h"
#include "trainers/thinker_trainer.h"

namespace omni {
namespace {

std::vector<double> column_of(const std::filesystem::path& output, const std::string& name) {
  std::ifstream in(output / "metrics.jsonl");
  std::vector<double> out;
  std::string line;
  std::getline(in, line);  // the header
  while (std::getline(in, line)) out.push_back(nlohmann::json::parse(line).at(name));
  return out;
}

// Ten steps of the CPU, and of a GPU twice. train(device, output) leaves a run in the folder `output`.
void compare_devices(const std::filesystem::path& folder, const std::string& dtype,
                     const std::vector<std::string>& columns,
                     const std::function<int(const std::string& device, const std::string& output)>& train) {
  for (const std::string name : {"cpu", "cuda", "again"}) REQUIRE(train(name == "again" ? "cuda" : name, name) == 0);
  for (const std::string& column : columns) {
    CAPTURE(column);
    const auto cpu = column_of(folder / "cpu", column), cuda = column_of(folder / "cuda", column);
    REQUIRE(cpu.size() == 10);
    REQUIRE(cuda.size() == 10);
    for (std::size_t i = 0; i < cpu.size(); ++i)
      REQUIRE(std::abs(cuda[i] - cpu[i]) <= (dtype == "bf16" ? 2e-2 : 1e-4) * cpu[i]);
  }
  REQUIRE(files_of(folder / "cuda/model") == files_of(folder / "again/model"));
}

constexpr std::int64_t kCodes = 35;  // of the small omni model; those from here on are reserved

// A spoken question, a picture, a speaker and a reference clip, each in some of the samples.
ShardFiles omni_sample(std::int64_t number) {
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

TalkerRecipe omni_recipe(const std::filesystem::path& folder, const std::string& output,
                         const std::vector<std::string>& overrides) {
  const std::string path = folder.string();
  const std::string yaml =
      "config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,\n"
      "         vocab_size: 320, intermediate_size: 48, moe_intermediate_size: 48, max_position_embeddings: 128,\n"
      "         talker_hidden_size: 32, num_talker_hidden_layers: 1, audio_vocab_size: 40, audio_pad_token: 36,\n"
      "         audio_stop_token: 37, audio_spk_token: 38, audio_hidden_size: 40, image_hidden_size: 56,\n"
      "         image_token_len: 4, spk_emb_size: 24}\n"
      "tokenizer: " +
      path + "/tokenizer\ndata: " + path + "/omni.tar\noutput: " + path + "/" + output +
      "\nsteps: 10\nbatch_size: 3\nmax_seq_len: 90\nsave_interval: 0\nworkers: 1\nthreads: 1\n";
  return parse_talker_recipe(yaml, "small_omni.yaml", overrides);
}

}  // namespace

TEST_CASE("ten steps on a GPU: the losses of the CPU; twice the same bytes") {
  if (cuda_device_count() == 0) {
    WARN("no GPU: nothing to compare");
    return;
  }
  for (const std::string experts : {"false", "true"})
    for (const std::string dtype : {"f32", "bf16"}) {
      CAPTURE(experts, dtype);
      const SmallRun run;
      compare_devices(run.folder.path(), dtype, {"loss"}, [&](const std::string& device, const std::string& output) {
        std::ostringstream log;
        const Recipe recipe = run.recipe(
            output, {"steps=10", "dtype=" + dtype, "device=" + device, "config.use_moe=" + experts, "workers=1"});
        return train_thinker(recipe, {.limits = MachineLimits{1e12, 1e12, 1e11}}, log);
      });
    }
}

// The CPU takes the rows of a dense model's batch one after the other, a GPU all at once.
TEST_CASE("ten steps of the omni model on a GPU: the losses of the CPU; twice the same bytes") {
  if (cuda_device_count() == 0) {
    WARN("no GPU: nothing to compare");
    return;
  }
  TemporaryFolder folder;
  write_byte_tokenizer(folder / "tokenizer");
  std::vector<ShardFiles> samples;
  for (std::int64_t i = 0; i < 12; ++i) samples.push_back(omni_sample(i));
  write_text_file(folder / "omni.tar", shard_of(samples));
  for (const std::string experts : {"false", "true"})
    for (const std::string dtype : {"f32", "bf16"}) {
      CAPTURE(experts, dtype);
      compare_devices(
          folder.path(), dtype, {"loss", "text_loss", "audio_loss", "audio_loss_0", "audio_loss_7", "grad_norm"},
          [&](const std::string& device, const std::string& output) {
            std::ostringstream log;
            const TalkerRecipe recipe =
                omni_recipe(folder.path(), output,
                            {"dtype=" + dtype, "device=" + device, "config.use_moe=" + experts, "overwrite=true"});
            return train_talker(recipe, {.limits = MachineLimits{1e12, 1e12, 1e11}}, log);
          });
    }
}

}  // namespace omni
