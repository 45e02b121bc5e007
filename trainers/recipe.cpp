#include "trainers/recipe.h"

#include <algorithm>
#include <stdexcept>

#include "engine/files.h"
#include "engine/suggest.h"
#include "models/omni_config.h"
#include "trainers/settings.h"

namespace omni {
namespace {

constexpr std::int64_t kMany = std::int64_t{1} << 40;

// Exactly one of two keys must be there; which one it is.
bool first_of(const Settings& settings, const char* first, const char* second) {
  const bool has_first = settings.has(first), has_second = settings.has(second);
  if (has_first && has_second)
    settings.fail(second, std::string("set beside ") + first + ", only one of the two is possible");
  if (!has_first && !has_second)
    settings.fail(first, std::string("one of the keys ") + first + " and " + second + " is needed");
  return has_first;
}

// config.json files of others hold many fields that mean nothing here; in a recipe such a field is a misspelt one.
void check_config_keys(const Settings& settings, const nlohmann::ordered_json& config,
                       const nlohmann::ordered_json& defaults) {
  std::vector<std::string> known;
  for (const auto& member : defaults.items()) known.push_back(member.key());
  for (const auto& member : config.items())
    if (std::find(known.begin(), known.end(), member.key()) == known.end())
      settings.fail("config", "unknown field '" + member.key() + "'" + did_you_mean(member.key(), known));
}

void read_model(const Settings& settings, Recipe& recipe) {
  // A Thinker may be given what the omni model has besides; in all other cases it is either of the two.
  const bool both = recipe.stage == Stage::omni && settings.has("model") && settings.has("config");
  if (both || first_of(settings, "model", "config")) recipe.model = settings.text("model", "");
  recipe.tokenizer = settings.text("tokenizer", recipe.model.string());
  if (!settings.has("config")) return;
  if (settings.is_map("config")) {
    const nlohmann::ordered_json config = settings.json("config");
    check_config_keys(settings, config,
                      recipe.stage == Stage::omni ? OmniConfig{}.to_json() : ThinkerConfig{}.to_json());
    recipe.config_text = config.dump();
    recipe.config_name = settings.place("config") + ": config";
  } else {
    recipe.config_name = settings.text("config", "");
    recipe.config_text = read_text_file(recipe.config_name);
  }
}

void read_data(const Settings& settings, Recipe& recipe) {
  if (first_of(settings, "data", "replay")) {
    for (const std::string& path : settings.texts("data")) recipe.data.emplace_back(path);
    if (recipe.data.empty()) settings.fail("data", "expected at least one file, found an empty list");
    if (recipe.tokenizer.empty())
      settings.fail("tokenizer", "the key tokenizer is needed to train on texts from nothing");
  } else {
    recipe.replay = settings.text("replay", "");
  }
}

void read_optimisation(const Settings& settings, Recipe& recipe) {
  struct Defaults {
    std::int64_t batch_size, max_seq_len;
    double learning_rate;
  };
  const Defaults defaults = recipe.stage == Stage::pretrain ? Defaults{32, 340, 5e-4}
                            : recipe.stage == Stage::sft    ? Defaults{16, 768, 1e-5}
                                                            : Defaults{32, 512, 5e-4};
  if (first_of(settings, "steps", "epochs"))
    recipe.steps = settings.integer("steps", 0, 1, kMany);
  else
    recipe.epochs = settings.integer("epochs", 0, 1, 1'000'000);
  recipe.batch_size = settings.integer("batch_size", defaults.batch_size, 1, 1 << 20);
  recipe.accumulation_steps = settings.integer("accumulation_steps", 1, 1, 1 << 20);
  recipe.max_seq_len = settings.integer("max_seq_len", defaults.max_seq_len, 4, 1 << 20);
  recipe.learning_rate = settings.number("learning_rate", defaults.learning_rate, 0, 1000);
  recipe.grad_clip = settings.number("grad_clip", 1, 0, 1e30);
  recipe.seed = static_cast<std::uint64_t>(settings.integer("seed", 42, 0, INT64_MAX));
}

void read_machine(const Settings& settings, Recipe& recipe) {
  const auto dtype = [&](const char* key, DType fallback) {
    return settings.choice(key, {"f32", "bf16"}, name_of(fallback)) == "f32" ? DType::f32 : DType::bf16;
  };
  recipe.dtype = dtype("dtype", DType::f32);
  recipe.save_dtype = dtype("save_dtype", recipe.dtype);
  recipe.device = settings.text("device", "cpu");
  recipe.threads = static_cast<int>(settings.integer("threads", 0, 0, 4096));
  recipe.workers = static_cast<int>(settings.integer("workers", 2, 0, 256));
  recipe.save_interval = settings.integer("save_interval", 1000, 0, kMany);
  recipe.output = settings.text("output", "");
  if (recipe.output.empty()) settings.fail("output", "the key output is needed");
  recipe.recompute = settings.boolean("recompute", false);
  recipe.overwrite = settings.boolean("overwrite", false);
}

const std::vector<std::string> kCommonKeys = {
    "model",       "config",        "tokenizer", "data",          "replay",
    "output",      "steps",         "epochs",    "batch_size",    "accumulation_steps",
    "max_seq_len", "learning_rate", "grad_clip", "dtype",         "save_dtype",
    "device",      "threads",       "seed",      "save_interval", "workers",
    "recompute",   "overwrite"};
const std::vector<std::string> kModes = {"all", "audio_proj", "vision_proj"};  // in the order of the enumerations
const std::vector<std::string> kFrozen = {"none", "all", "last1"};

void read_common(const Settings& settings, Recipe& recipe) {
  read_model(settings, recipe);
  read_data(settings, recipe);
  read_optimisation(settings, recipe);
  read_machine(settings, recipe);
}

}  // namespace

const char* name_of(Stage stage) {
  return stage == Stage::pretrain ? "pretrain" : stage == Stage::sft ? "sft" : "omni";
}

nlohmann::ordered_json Recipe::identity() const {
  nlohmann::ordered_json out;
  out["stage"] = name_of(stage);
  if (!model.empty()) out["model"] = model.string();
  if (!config_text.empty()) out["config"] = nlohmann::ordered_json::parse(config_text, nullptr, false);
  if (steps > 0) out["steps"] = steps;
  if (epochs > 0) out["epochs"] = epochs;
  out["batch_size"] = batch_size;
  out["accumulation_steps"] = accumulation_steps;
  out["max_seq_len"] = max_seq_len;
  out["learning_rate"] = learning_rate;
  out["grad_clip"] = grad_clip;
  out["dtype"] = omni::name_of(dtype);
  out["seed"] = seed;
  return out;
}

nlohmann::ordered_json TalkerRecipe::identity() const {
  nlohmann::ordered_json out = Recipe::identity();
  out["mode"] = kModes[static_cast<std::size_t>(mode)];
  out["freeze_backbone"] = kFrozen[static_cast<std::size_t>(freeze_backbone)];
  out["scheduled_sampling"] = scheduled_sampling;
  out["rows_alone"] = rows_alone;
  return out;
}

Recipe parse_recipe(const std::string& yaml, const std::string& name, const std::vector<std::string>& overrides) {
  std::vector<std::string> keys = kCommonKeys;
  keys.insert(keys.begin(), "stage");
  const Settings settings(yaml, name, overrides, keys);
  Recipe recipe;
  recipe.name = name;
  if (!settings.has("stage")) settings.fail("stage", "the key stage is needed: pretrain or sft");
  recipe.stage = settings.choice("stage", {"pretrain", "sft"}, "") == "sft" ? Stage::sft : Stage::pretrain;
  read_common(settings, recipe);
  return recipe;
}

TalkerRecipe parse_talker_recipe(const std::string& yaml, const std::string& name,
                                 const std::vector<std::string>& overrides) {
  std::vector<std::string> keys = kCommonKeys;
  keys.insert(keys.end(), {"mode", "freeze_backbone", "scheduled_sampling", "rows_alone"});
  const Settings settings(yaml, name, overrides, keys);
  TalkerRecipe recipe;
  recipe.name = name;
  recipe.stage = Stage::omni;
  read_common(settings, recipe);
  const auto index = [&](const char* key, const std::vector<std::string>& names) {
    const std::string chosen = settings.choice(key, names, names.front());
    return std::find(names.begin(), names.end(), chosen) - names.begin();
  };
  recipe.mode = static_cast<TalkerRecipe::Mode>(index("mode", kModes));
  recipe.freeze_backbone = static_cast<TalkerRecipe::Frozen>(index("freeze_backbone", kFrozen));
  recipe.scheduled_sampling = settings.number("scheduled_sampling", 0.05, 0, 1);
  recipe.rows_alone = settings.boolean("rows_alone", true);
  return recipe;
}

Recipe load_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  return parse_recipe(read_text_file(path, std::size_t{1} << 20), path.string(), overrides);
}

TalkerRecipe load_talker_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  return parse_talker_recipe(read_text_file(path, std::size_t{1} << 20), path.string(), overrides);
}

}  // namespace omni
