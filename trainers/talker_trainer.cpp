#include "trainers/talker_trainer.h"

#include <ostream>

#include "engine/files.h"
#include "models/json_text.h"
#include "models/omni_model.h"
#include "trainers/metrics.h"
#include "trainers/omni_batches.h"
#include "trainers/omni_plan.h"

namespace omni {
namespace {

using Mode = TalkerRecipe::Mode;
using Frozen = TalkerRecipe::Frozen;

// The configuration of the recipe's model, which may be a Thinker's, with what the recipe says over it.
OmniConfig config_of(const TalkerRecipe& recipe) {
  if (recipe.model.empty()) return parse_omni_config(recipe.config_text, recipe.config_name);
  const std::filesystem::path path = model_directory(recipe.model) / "config.json";
  if (recipe.config_text.empty()) return load_omni_config(path);
  auto merged = parse_json<nlohmann::json>(read_text_file(path), path.string());
  merged.merge_patch(parse_json<nlohmann::json>(recipe.config_text, recipe.config_name));
  return parse_omni_config(merged.dump(), path.string() + " with " + recipe.config_name);
}

bool is_thinkers(const std::string& name) {
  return !name.starts_with("talker.") && !name.starts_with("audio_proj.") && !name.starts_with("vision_proj.");
}

// Whether the recipe lets a parameter learn.
bool learns(const TalkerRecipe& recipe, const OmniConfig& config, const std::string& name) {
  if (recipe.mode == Mode::audio_proj) return name.starts_with("audio_proj.");
  if (recipe.mode == Mode::vision_proj) return name.starts_with("vision_proj.");
  if (recipe.freeze_backbone == Frozen::none || !is_thinkers(name)) return true;
  return recipe.freeze_backbone == Frozen::last1 &&
         name.starts_with("model.layers." + std::to_string(config.thinker.num_hidden_layers - 1) + ".");
}

std::unique_ptr<BatchSource> open_data(const TalkerRecipe& recipe, const OmniConfig& config, const RowShard& shard,
                                       std::ostream& out) {
  const auto tokenizer = std::make_shared<const Tokenizer>(load_tokenizer(recipe.tokenizer, config.thinker.vocab_size));
  const auto shards = std::make_shared<const ShardSet>(recipe.data, limits_of(config));
  out << "data     " << shards->size() << " samples in " << count_text(static_cast<double>(shards->bytes())) << "B\n";
  return std::make_unique<ShardBatches>(shards, tokenizer, config, recipe, shard);
}

class TalkerTask : public TrainingTask {
 public:
  TalkerTask(const TalkerRecipe& recipe, const std::optional<Checkpoint>& checkpoint, const RowShard& shard,
             std::ostream& out)
      : recipe_(recipe), out_(out) {
    config_ = checkpoint ? load_omni_config(checkpoint->path) : config_of(recipe);
    if (!recipe.tokenizer.empty()) tokenizer_ = read_tokenizer_files(recipe.tokenizer);
    if (recipe.replay.empty())
      source_ = open_data(recipe, config_, shard, out);
    else
      source_ = std::make_unique<OmniReplay>(recipe.replay, config_, shard);
    check_length(recipe, source_->length(), config_.thinker);
    // Experts balance the load over all rows of a batch, so these stay together. On a GPU they fill it.
    const bool alone = recipe.rows_alone && recipe.device == "cpu" && !config_.thinker.use_moe;
    rows_per_pass_ = alone ? 1 : source_->max_rows();
  }

  const BatchSource& source() const override { return *source_; }
  const TextFiles& tokenizer() const override { return tokenizer_; }
  ParameterCounts parameters() const override { return count_parameters(config_); }
  double flops(const Batch& batch) const override {
    const bool all = recipe_.mode == Mode::all;
    return training_flops(config_, {.thinker = all && recipe_.freeze_backbone == Frozen::none, .talker = all}, batch);
  }
  std::int64_t activation_bytes(std::int64_t rows, std::int64_t labelled) const override {
    const std::int64_t together = std::min(rows, rows_per_pass_);
    return omni::activation_bytes(config_, recipe_.dtype, together, source_->length(), labelled * together / rows,
                                  recipe_.recompute);
  }

  void start(const std::optional<Checkpoint>& checkpoint, Device& device) override {
    if (checkpoint) {
      model_ = OmniModel::load(checkpoint->path, recipe_.dtype, Purpose::training, device);
    } else if (recipe_.model.empty()) {
      model_ = OmniModel::create(config_, recipe_.dtype, recipe_.seed, device);
    } else {
      bool copied = false;
      model_ = OmniModel::start_from(recipe_.model, config_, recipe_.dtype, recipe_.seed, device, copied);
      if (copied) out_ << "The Talker's blocks start as the Thinker's last ones.\n";
    }
    std::int64_t learning = 0;
    for (Parameter& parameter : model_->store.parameters()) {
      parameter.trainable = learns(recipe_, config_, parameter.parts.front().name);
      if (parameter.trainable) learning += parameter.master.count();
    }
    out_ << "learning " << count_text(static_cast<double>(learning)) << " parameters\n";
  }
  ParameterStore& store() override { return model_->store; }
  std::vector<const Parameter*> milestones() const override { return model_->omni.milestones(); }
  void save(const std::filesystem::path& directory, DType dtype) const override { model_->save(directory, dtype); }

  std::int64_t rows_per_pass() const override { return rows_per_pass_; }
  Pass forward(Tape& tape, const Batch& batch, std::int64_t first, std::int64_t end,
               const BatchTotals& totals) override;
  const std::vector<std::string>& loss_names() const override {
    static const std::vector<std::string> names = {"loss",         "text_loss",    "audio_loss",   "aux_loss",
                                                   "audio_loss_0", "audio_loss_1", "audio_loss_2", "audio_loss_3",
                                                   "audio_loss_4", "audio_loss_5", "audio_loss_6", "audio_loss_7"};
    return names;
  }
  const std::vector<std::string>& hit_names() const override {
    static const std::vector<std::string> names = {"text_accuracy", "code_accuracy", "stop_recall"};
    return names;
  }
  std::vector<double> hit_totals(const Batch& batch) const override {
    return {static_cast<double>(batch.labelled[0]), static_cast<double>(batch.predictions() - batch.labelled[0]),
            static_cast<double>(batch.stop_labels)};
  }

 private:
  const TalkerRecipe& recipe_;
  std::ostream& out_;
  OmniConfig config_;
  TextFiles tokenizer_;
  std::unique_ptr<BatchSource> source_;
  std::unique_ptr<OmniModel> model_;
  std::int64_t rows_per_pass_ = 1;
};

// The mean over the labels of the whole batch is the sum over its passes of (their labels / all labels) times their
// mean. What belongs to all rows alike (the experts' balance) counts by rows.
TrainingTask::Pass TalkerTask::forward(Tape& tape, const Batch& batch, std::int64_t first, std::int64_t end,
                                       const BatchTotals& totals) {
  const OmniBatch part = rows_of(views_of(batch), first, end);
  const double weight = static_cast<double>(end - first) / totals.rows;
  const auto share = [&](std::int64_t labels, std::size_t kind) {
    return labels == 0 ? 1 : static_cast<double>(labels) / totals.labelled[kind] / weight;
  };
  const LabelCounts counts = count_labels(part);
  UploadOptions options{.shares = {}, .count_hits = true, .padding = Padding::skip};
  options.shares.text = share(counts.text, 0);
  for (std::size_t q = 0; q < counts.audio.size(); ++q) options.shares.audio[q] = share(counts.audio[q], q + 1);
  const OmniInputs inputs = upload_inputs(tape, config_, part, model_->store.dtype(), options);
  const OmniLoss loss = omni_loss(tape, model_->omni, inputs);
  return {.loss = loss.loss,
          .weight = weight,
          .losses = {loss.loss, loss.text_loss, loss.audio_loss, loss.aux_loss, loss.codebook_losses},
          .hits = loss.hits};
}

}  // namespace

int train_talker(const TalkerRecipe& recipe, const TrainOptions& options, Ranks& ranks, std::ostream& out) {
  return train(recipe, options, ranks, out,
               [&](const std::optional<Checkpoint>& checkpoint, const RowShard& shard, std::ostream& console) {
                 return std::make_unique<TalkerTask>(recipe, checkpoint, shard, console);
               });
}

int train_talker(const TalkerRecipe& recipe, const TrainOptions& options, std::ostream& out) {
  Ranks alone;
  return train_talker(recipe, options, alone, out);
}

}  // namespace omni
