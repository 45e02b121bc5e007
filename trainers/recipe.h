#pragma once
// A recipe: everything that a training run depends on, read from a YAML file.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/dtype.h"

namespace omni {

enum class Stage { pretrain, sft, omni };
const char* name_of(Stage stage);

// Paths are relative to the current directory. Keys and defaults:
struct Recipe {
  virtual ~Recipe() = default;

  std::string name;                      // the recipe's path, for messages
  Stage stage = Stage::pretrain;         // stage: pretrain | sft
  std::filesystem::path model;           // model: directory to start from, or
  std::string config_text, config_name;  // config: path of a config.json, or its members as a map: start from nothing
  std::filesystem::path tokenizer;       // tokenizer: directory (default: the model's)
  std::vector<std::filesystem::path> data;  // data: a JSONL file or a list of them, or
  std::filesystem::path replay;             // replay: safetensors with input_ids and labels, i64 [N, batch, length]
  std::filesystem::path output;             // output: folder of checkpoint/, model/ and metrics.jsonl
  std::int64_t steps = 0, epochs = 0;       // steps: optimiser updates, or epochs: passes over the data
  std::int64_t batch_size = 32;             // batch_size: samples of a micro-batch
  std::int64_t accumulation_steps = 1;      // accumulation_steps: micro-batches of a step
  std::int64_t max_seq_len = 340;           // max_seq_len: tokens of a sample (340 for pretrain, 768 for sft)
  double learning_rate = 5e-4;              // learning_rate: at the start (5e-4 for pretrain, 1e-5 for sft)
  double grad_clip = 1;                     // grad_clip: largest L2 norm of all gradients, 0: no clipping
  DType dtype = DType::f32;                 // dtype: f32 | bf16, what matrices and activations are kept in
  DType save_dtype = DType::f32;            // save_dtype: of the final model (default: dtype)
  std::string device = "cpu";               // device: cpu
  int threads = 0;                          // threads: of the device, 0: all
  std::uint64_t seed = 42;                  // seed: initial weights, order of the data, random choices in samples
  std::int64_t save_interval = 1000;        // save_interval: steps between checkpoints, 0: only at the end
  int workers = 2;                          // workers: threads that prepare batches, 0: none
  bool recompute = false;                   // recompute: half the activations' memory for a seventh more arithmetic,
                                            // with experts their blocks' input alone for a third
  bool overwrite = false;                   // overwrite: start anew in an output folder that holds a run

  // What decides about the numbers, as the recipe says it: a run can be resumed only with an equal one. Without paths
  // that may be moved (data, replay, output) and without what changes no result (workers, save_interval, ...).
  virtual nlohmann::ordered_json identity() const;
};

// Of the omni stages. Data are shards or folders of them (trainers/shards.h), a replay holds the tensors of
// models/omni_inputs.h with a leading dimension [N]; defaults that differ: max_seq_len 512.
struct TalkerRecipe : Recipe {
  enum class Mode { all, audio_proj, vision_proj };
  enum class Frozen { none, all, last1 };
  Mode mode = Mode::all;  // mode: what is trained: all, or one of the projectors alone
  Frozen freeze_backbone =
      Frozen::none;                  // freeze_backbone: none | all: the Thinker | last1: all of it but its last block
  double scheduled_sampling = 0.05;  // scheduled_sampling: part of the inputs that are replaced by random ones
  bool rows_alone = true;  // rows_alone: on a CPU, the rows of a batch one after the other, each without its padding

  nlohmann::ordered_json identity() const override;
};

// Reads a recipe; overrides are "key=value". Throws std::runtime_error naming file, line, key, what was expected and
// found.
Recipe load_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});
TalkerRecipe load_talker_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});
TalkerRecipe parse_talker_recipe(const std::string& yaml, const std::string& name,
                                 const std::vector<std::string>& overrides = {});
Recipe parse_recipe(const std::string& yaml, const std::string& name, const std::vector<std::string>& overrides = {});

}  // namespace omni
