#include "trainers/recipe.h"

#include <catch2/catch.hpp>

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

TEST_CASE("the recipes of the repository are valid") {
  for (const char* name : {"pretrain_thinker", "sft_thinker"})
    CHECK_NOTHROW(load_recipe(std::string(OMNI_SOURCE_DIR) + "/trainers/recipes/" + name + ".yaml"));
}

}  // namespace
}  // namespace omni
