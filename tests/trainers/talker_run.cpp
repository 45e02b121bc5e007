// Runs of train_talker: determinism, resuming, freezing, where a run starts from, what it reports.

#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <fstream>
#include <sstream>

#include "engine/safetensors.h"
#include "tests/support/numbers.h"
#include "tests/trainers/small_omni_run.h"
#include "trainers/omni_plan.h"
#include "trainers/talker_trainer.h"
#include "trainers/thinker_trainer.h"

namespace omni {
namespace {

using Catch::Contains;

TrainOptions options(bool resume = false) {
  TrainOptions out;
  out.resume = resume;
  out.limits = MachineLimits{1e12, 1e12, 1e11};  // measuring them takes longer than the run
  return out;
}

std::string train(const TalkerRecipe& recipe, bool resume = false) {
  std::ostringstream log;
  REQUIRE(train_talker(recipe, options(resume), log) == 0);
  return log.str();
}

std::vector<nlohmann::json> steps_of(const TalkerRecipe& recipe) {
  std::ifstream in(recipe.output / "metrics.jsonl");
  std::vector<nlohmann::json> out;
  std::string line;
  for (std::getline(in, line); std::getline(in, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}

std::map<std::string, std::vector<double>> weights_of(const std::filesystem::path& model) {
  const SafetensorsFile file(model / "model.safetensors");
  std::map<std::string, std::vector<double>> out;
  for (const std::string& name : file.names()) out[name] = values_of(file.at(name));
  return out;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

// Stops after the first step.
void train_and_stop(const TalkerRecipe& recipe) {
  struct Raise : std::stringbuf {
    std::streamsize xsputn(const char* text, std::streamsize count) override {
      if (std::string_view(text, static_cast<std::size_t>(count)).find("step ") == 0) std::raise(SIGTERM);
      return count;
    }
  } buffer;
  std::ostream out(&buffer);
  REQUIRE(train_talker(recipe, options(), out) == SIGTERM);
}

TEST_CASE("train_talker: the loss falls, everything is reported, equal seeds give equal bytes") {
  const SmallOmniRun small;
  for (const std::string dtype : {"f32", "bf16"}) {
    const TalkerRecipe a = small.recipe("a" + dtype, {"dtype=" + dtype, "steps=12", "learning_rate=2e-3"});
    const TalkerRecipe b = small.recipe("b" + dtype, {"dtype=" + dtype, "steps=12", "learning_rate=2e-3", "workers=3"});
    train(a);
    train(b);
    REQUIRE(files_of(a.output / "model") == files_of(b.output / "model"));
    const std::vector<nlohmann::json> steps = steps_of(a);
    REQUIRE(steps.size() == 12);
    REQUIRE(steps.back().at("loss") < steps.front().at("loss").get<double>() - 0.5);
    for (const nlohmann::json& step : steps) {
      double codebooks = 0;
      for (int q = 0; q < 8; ++q) codebooks += step.at("audio_loss_" + std::to_string(q)).get<double>() / 8;
      REQUIRE(std::abs(codebooks - step.at("audio_loss").get<double>()) < 1e-4);
      REQUIRE(std::abs(step.at("text_loss").get<double>() + codebooks - step.at("loss").get<double>()) < 1e-4);
      for (const char* part : {"text_accuracy", "code_accuracy", "stop_recall"}) {
        REQUIRE(step.at(part) >= 0.0);
        REQUIRE(step.at(part) <= 1.0);
      }
    }
    REQUIRE(std::filesystem::directory_iterator(a.output / "tensorboard") != std::filesystem::directory_iterator());
  }
}

TEST_CASE("train_talker: a stopped and resumed run ends with the bytes of an undisturbed one") {
  const SmallOmniRun small;
  for (const std::vector<std::string>& overrides :
       {std::vector<std::string>{"dtype=bf16"}, {"config.use_moe=true", "accumulation_steps=2", "steps=4"}}) {
    const TalkerRecipe whole = small.recipe("whole", overrides), parts = small.recipe("parts", overrides);
    train(whole);
    train_and_stop(parts);
    REQUIRE_THAT(train(parts, true), Contains("Continuing after step 1."));
    REQUIRE(files_of(whole.output / "model") == files_of(parts.output / "model"));
    std::filesystem::remove_all(whole.output);
    std::filesystem::remove_all(parts.output);
  }
}

TEST_CASE("train_talker: the rows of a batch together or one after the other follow one curve") {
  const SmallOmniRun small;
  const TalkerRecipe alone = small.recipe("alone"), together = small.recipe("together", {"rows_alone=false"});
  train(alone);
  train(together);
  const std::vector<nlohmann::json> a = steps_of(alone), b = steps_of(together);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    for (const char* name : {"loss", "text_loss", "audio_loss", "grad_norm"}) {
      CAPTURE(i, name);
      REQUIRE(std::abs(a[i].at(name).get<double>() - b[i].at(name).get<double>()) <=
              1e-4 * std::abs(b[i].at(name).get<double>()));
    }
}

TEST_CASE("the plan of train_talker counts the parameters of the published models") {
  OmniConfig config;
  CHECK(count_parameters(config).all == 113131266);
  config.thinker.use_moe = true;
  CHECK(count_parameters(config).all == 314887938);
}

TEST_CASE("train_talker: only what the recipe says learns") {
  const SmallOmniRun small;
  train(small.recipe("start", {"steps=1"}));
  const std::filesystem::path start = small.folder / "start/model";
  const auto before = weights_of(start);
  struct Case {
    std::string setting;
    std::vector<std::string> learns;  // beginnings of names
  };
  for (const Case& one : {Case{"mode=audio_proj", {"audio_proj."}},
                          {"mode=vision_proj", {"vision_proj."}},
                          {"freeze_backbone=all", {"talker.", "audio_proj.", "vision_proj."}},
                          {"freeze_backbone=last1", {"model.layers.1.", "talker.", "audio_proj.", "vision_proj."}}}) {
    CAPTURE(one.setting);
    const std::string path = small.folder.path().string();
    std::ostringstream log;
    const TalkerRecipe recipe =
        parse_talker_recipe("model: " + start.string() + "\ntokenizer: " + path + "/tokenizer\ndata: " + path +
                                "/omni.tar\noutput: " + path +
                                "/frozen\nsteps: 3\nbatch_size: 3\nmax_seq_len: 90\nthreads: 1\noverwrite: true\n",
                            "frozen.yaml", {one.setting});
    REQUIRE(train_talker(recipe, options(), log) == 0);
    for (const auto& [name, values] : weights_of(recipe.output / "model")) {
      CAPTURE(name);
      const bool learns = std::any_of(one.learns.begin(), one.learns.end(),
                                      [&](const std::string& beginning) { return name.starts_with(beginning); });
      REQUIRE((values != before.at(name)) == learns);
    }
  }
}

TEST_CASE("train_talker: beside a Thinker the Talker starts with its last blocks, where they have its shapes") {
  const std::string omni_part =
      "config: {talker_hidden_size: 32, num_talker_hidden_layers: 1, audio_vocab_size: 40, audio_pad_token: 36, "
      "audio_stop_token: 37, audio_spk_token: 38, audio_hidden_size: 40, image_hidden_size: 56, image_token_len: 4, "
      "spk_emb_size: 24}\n";
  // The Talker has eight heads of its own whatever the Thinker has.
  const std::vector<std::string> same = {"steps=1", "config.num_attention_heads=8", "config.num_key_value_heads=4",
                                         "config.head_dim=4", "config.intermediate_size=128"};
  for (const auto& overrides : {same, {"steps=1"}}) {
    const bool fits = overrides.size() > 1;
    CAPTURE(fits);
    const SmallRun texts;
    std::ostringstream log;
    REQUIRE(train_thinker(texts.recipe("thinker", overrides), options(), log) == 0);
    const SmallOmniRun small;
    const std::string path = small.folder.path().string();
    const std::filesystem::path thinker = texts.folder / "thinker/model";
    const TalkerRecipe recipe =
        parse_talker_recipe("model: " + thinker.string() + "\n" + omni_part + "tokenizer: " + path +
                                "/tokenizer\ndata: " + path + "/omni.tar\noutput: " + path +
                                "/omni\nsteps: 1\nbatch_size: 3\nmax_seq_len: 90\nthreads: 1\nlearning_rate: 1e-12\n",
                            "start.yaml", {});
    REQUIRE((train(recipe).find("start as the Thinker's last ones") != std::string::npos) == fits);
    const auto before = weights_of(thinker), after = weights_of(recipe.output / "model");
    const std::string last = "model.layers.1.";
    std::size_t blocks = 0;
    for (const auto& [name, values] : before) {
      CAPTURE(name);
      REQUIRE(largest_difference(values, after.at(name)) < 1e-9);
      if (!name.starts_with(last) || !fits) continue;
      REQUIRE(largest_difference(values, after.at("talker.layers.0." + name.substr(last.size()))) < 1e-9);
      ++blocks;
    }
    REQUIRE(blocks == (fits ? 11 : 0));
  }
}

}  // namespace
}  // namespace omni
