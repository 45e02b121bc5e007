#include "trainers/recipe.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <map>

#include "engine/files.h"
#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

using Catch::Matchers::Contains;

const std::string kSmall = "stage: sft\nmodel: in\ndata: a.jsonl\noutput: out\nsteps: 7\n";

TEST_CASE("a recipe takes its defaults from the stage") {
  const Recipe sft = parse_recipe(kSmall, "r.yaml");
  CHECK(sft.stage == Stage::sft);
  CHECK(sft.batch_size == 16);
  CHECK(sft.max_seq_len == 768);
  CHECK(sft.learning_rate == 1e-5);
  CHECK(sft.tokenizer == "in");
  const Recipe pretrain = parse_recipe(kSmall, "r.yaml", {"stage=pretrain"});
  CHECK(pretrain.batch_size == 32);
  CHECK(pretrain.max_seq_len == 340);
  CHECK(pretrain.learning_rate == 5e-4);
}

TEST_CASE("overrides replace settings, also inside of config") {
  const std::string yaml =
      "stage: pretrain\nconfig: {hidden_size: 32}\ntokenizer: t\ndata: [a, b]\noutput: o\nepochs: 2\n";
  const Recipe recipe = parse_recipe(
      yaml, "r.yaml",
      {"config.vocab_size=300", "config.hidden_size=64", "dtype=bf16", "epochs=", "steps=3", "learning_rate=2e-3"});
  CHECK(nlohmann::json::parse(recipe.config_text) == nlohmann::json{{"hidden_size", 64}, {"vocab_size", 300}});
  CHECK(recipe.data.size() == 2);
  CHECK(recipe.dtype == DType::bf16);
  CHECK(recipe.save_dtype == DType::bf16);
  CHECK(recipe.epochs == 0);
  CHECK(recipe.steps == 3);
  CHECK(recipe.learning_rate == 2e-3);
}

TEST_CASE("errors of a recipe name file, line, key, what was expected and what was found") {
  const auto error = [](const std::string& yaml, const std::vector<std::string>& overrides = {}) -> std::string {
    try {
      parse_recipe(yaml, "r.yaml", overrides);
    } catch (const std::runtime_error& what) {
      return what.what();
    }
    return "no error";
  };
  CHECK(error(kSmall + "batch_sise: 3\n") == "r.yaml:6: unknown key 'batch_sise' (did you mean \"batch_size\"?)");
  CHECK_THAT(error(kSmall + "batch_size: three\n"),
             Contains("r.yaml:6: batch_size: expected an integer from 1 to") && Contains("found 'three'"));
  CHECK_THAT(error(kSmall, {"grad_clip=-1"}), Contains("command line: grad_clip: expected a number from 0"));
  CHECK_THAT(error(kSmall, {"learning_rate=nan"}), Contains("learning_rate: expected a number"));
  CHECK_THAT(error(kSmall, {"steps=1.5"}), Contains("steps: expected an integer"));
  CHECK_THAT(error(kSmall, {"dtype=bf61"}), Contains("expected f32 or bf16, found 'bf61' (did you mean \"bf16\"?)"));
  CHECK_THAT(error(kSmall, {"epochs=1"}), Contains("set beside steps"));
  CHECK_THAT(error(kSmall, {"data="}), Contains("one of the keys data and replay is needed"));
  CHECK_THAT(error(kSmall, {"nonsense"}), Contains("expected key=value, found 'nonsense'"));
  CHECK_THAT(error(kSmall + "seed: 1\nseed: 2\n"), Contains("r.yaml:7: seed: already set at r.yaml:6"));
  CHECK_THAT(error(kSmall, {"model=", "config.hidden=3"}), Contains("unknown field 'hidden'"));
  CHECK_THAT(error(kSmall, {"overwrite=maybe"}), Contains("expected true or false, found 'maybe'"));
  CHECK_THAT(error("stage: [a\n"), Contains("not valid YAML"));
  CHECK_THAT(error("just a text"), Contains("expected a map of settings"));
  CHECK_THAT(error(""), Contains("stage"));
  CHECK_THAT(error("a: &x {b: *x}\nstage: sft\nmodel: m"), Contains("r.yaml:1"));
}

TEST_CASE("a recipe of the omni model: defaults, its own keys, errors") {
  const std::string small = "model: in\ndata: a.tar\noutput: out\nsteps: 7\n";
  const TalkerRecipe recipe = parse_talker_recipe(small, "t.yaml");
  CHECK(recipe.stage == Stage::omni);
  CHECK(recipe.mode == TalkerRecipe::Mode::all);
  CHECK(recipe.freeze_backbone == TalkerRecipe::Frozen::none);
  CHECK(recipe.scheduled_sampling == 0.05);
  CHECK(recipe.max_seq_len == 512);
  CHECK(recipe.batch_size == 32);
  CHECK(recipe.learning_rate == 5e-4);
  CHECK(recipe.rows_alone);
  const TalkerRecipe other = parse_talker_recipe(small, "t.yaml",
                                                 {"mode=vision_proj", "freeze_backbone=last1", "scheduled_sampling=0",
                                                  "rows_alone=false", "config.talker_hidden_size=512"});
  CHECK(other.mode == TalkerRecipe::Mode::vision_proj);
  CHECK(other.freeze_backbone == TalkerRecipe::Frozen::last1);
  CHECK(other.scheduled_sampling == 0);
  CHECK_FALSE(other.rows_alone);
  CHECK(other.model == "in");  // a Thinker, with what it lacks beside it
  CHECK(parse_talker_recipe(small, "t.yaml", {"mode=audio_proj"}).mode == TalkerRecipe::Mode::audio_proj);
  CHECK(parse_talker_recipe(small, "t.yaml", {"freeze_backbone=all"}).freeze_backbone == TalkerRecipe::Frozen::all);
  // A run cannot be resumed with other settings of these.
  for (const char* change : {"mode=audio_proj", "freeze_backbone=all", "scheduled_sampling=0.1", "rows_alone=false"}) {
    CAPTURE(change);
    CHECK(parse_talker_recipe(small, "t.yaml", {change}).identity() != recipe.identity());
  }
  const auto error = [&](const std::string& line) -> std::string {
    try {
      parse_talker_recipe(small + line, "t.yaml");
    } catch (const std::runtime_error& what) {
      return what.what();
    }
    return "no error";
  };
  CHECK(error("freeze_backbon: all\n") == "t.yaml:5: unknown key 'freeze_backbon' (did you mean \"freeze_backbone\"?)");
  CHECK_THAT(error("mode: audio_prj\n"), Contains("t.yaml:5: mode: expected") && Contains("found 'audio_prj'") &&
                                             Contains("did you mean \"audio_proj\"?"));
  CHECK_THAT(error("freeze_backbone: last2\n"), Contains("t.yaml:5: freeze_backbone: expected none or all or last1"));
  CHECK_THAT(error("scheduled_sampling: 1.5\n"), Contains("scheduled_sampling: expected a number from 0 to 1"));
  CHECK_THAT(error("stage: omni\n"), Contains("unknown key 'stage'"));
  CHECK_THAT(error("config: {talker_hiden_size: 512}\n"), Contains("did you mean \"talker_hidden_size\"?"));
}

TEST_CASE("the recipes of the repository are valid, and each stage starts from what the one before it writes") {
  std::map<std::string, TalkerRecipe> pipelines;
  std::size_t others = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(OMNI_SOURCE_DIR) + "/trainers/recipes")) {
    const std::filesystem::path& path = entry.path();
    const std::string name = path.stem().string();
    CAPTURE(name);
    REQUIRE(path.extension() == ".yaml");
    if (name.starts_with("mini_") || name.starts_with("full_")) {
      REQUIRE_NOTHROW(pipelines[name] = load_talker_recipe(path));
    } else {
      CHECK_NOTHROW(load_recipe(path));
      ++others;
    }
  }
  CHECK(others >= 4);
  // The published settings: kind of data, mode, learning rate, epochs, batch, length.
  using Mode = TalkerRecipe::Mode;
  struct Published {
    const char *name, *data;
    Mode mode;
    double learning_rate;
    std::int64_t epochs, batch_size, max_seq_len;
  };
  const Published published[] = {{"mini_1_speak", "t2a", Mode::all, 5e-4, 1, 40, 512},
                                 {"mini_2_listen", "a2a", Mode::audio_proj, 5e-4, 1, 40, 640},
                                 {"mini_3_converse", "a2a", Mode::all, 2e-5, 1, 16, 768},
                                 {"full_1_speak", "t2a", Mode::all, 5e-4, 6, 128, 512},
                                 {"full_2_listen", "a2a", Mode::audio_proj, 5e-4, 1, 128, 1024},
                                 {"full_3_converse", "a2a", Mode::all, 5e-5, 3, 128, 1024},
                                 {"full_4_see", "i2t", Mode::vision_proj, 5e-5, 1, 128, 768},
                                 {"full_5_describe", "i2t", Mode::all, 5e-6, 1, 128, 768},
                                 {"full_6_converse", "a2a", Mode::all, 5e-6, 1, 128, 1024},
                                 {"full_7_see", "i2t", Mode::vision_proj, 5e-6, 1, 128, 768}};
  REQUIRE(pipelines.size() == std::size(published));
  std::string before;
  for (const Published& stage : published) {
    CAPTURE(stage.name);
    REQUIRE(pipelines.count(stage.name) == 1);
    const TalkerRecipe& recipe = pipelines[stage.name];
    CHECK(recipe.data.front().filename().string().starts_with(stage.data));
    CHECK(recipe.mode == stage.mode);
    CHECK(recipe.learning_rate == stage.learning_rate);
    CHECK(recipe.epochs == stage.epochs);
    CHECK(recipe.batch_size * recipe.accumulation_steps == stage.batch_size);
    CHECK(recipe.max_seq_len == stage.max_seq_len);
    if (std::string(stage.name).find("_1_") == std::string::npos) CHECK(recipe.model.string() == before + "/model");
    before = recipe.output.string();
  }
}

}  // namespace
}  // namespace omni
