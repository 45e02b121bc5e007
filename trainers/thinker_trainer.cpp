#include "trainers/thinker_trainer.h"

#include <ostream>
#include <thread>

#include "models/text_loss.h"
#include "models/thinker_model.h"
#include "trainers/metrics.h"
#include "trainers/plan.h"

namespace omni {
namespace {

std::unique_ptr<BatchSource> open_data(const Recipe& recipe, const ThinkerConfig& config, const RowShard& shard,
                                       std::ostream& out) {
  const auto tokenizer = std::make_shared<const Tokenizer>(load_tokenizer(recipe.tokenizer, config.vocab_size));
  const auto dataset =
      std::make_shared<const Dataset>(recipe.stage, recipe.data, static_cast<int>(std::thread::hardware_concurrency()));
  out << "data     " << dataset->size() << " samples in " << count_text(static_cast<double>(dataset->bytes())) << "B\n";
  report_skipped(out, *dataset);
  return std::make_unique<TextBatches>(dataset, tokenizer, recipe, shard);
}

class ThinkerTask : public TrainingTask {
 public:
  ThinkerTask(const Recipe& recipe, const std::optional<Checkpoint>& checkpoint, const RowShard& shard,
              std::ostream& out)
      : recipe_(recipe) {
    config_ = checkpoint             ? load_config(checkpoint->path)
              : recipe.model.empty() ? parse_config(recipe.config_text, recipe.config_name)
                                     : load_config(recipe.model);
    if (!recipe.tokenizer.empty()) tokenizer_ = read_tokenizer_files(recipe.tokenizer);
    if (recipe.replay.empty())
      source_ = open_data(recipe, config_, shard, out);
    else
      source_ = std::make_unique<ReplayBatches>(recipe.replay, config_.vocab_size, shard);
    check_length(recipe, source_->length(), config_);
  }

  const BatchSource& source() const override { return *source_; }
  const TextFiles& tokenizer() const override { return tokenizer_; }
  ParameterCounts parameters() const override { return count_parameters(config_); }
  double flops(const Batch& batch) const override { return training_flops(config_, batch); }
  std::int64_t activation_bytes(std::int64_t rows, std::int64_t labelled) const override {
    return omni::activation_bytes(config_, recipe_.dtype, rows, source_->length(), labelled, recipe_.recompute);
  }

  void start(const std::optional<Checkpoint>& checkpoint, Device& device) override {
    const std::filesystem::path from = checkpoint ? checkpoint->path : recipe_.model;
    model_ = from.empty() ? ThinkerModel::create(config_, recipe_.dtype, recipe_.seed, device)
                          : ThinkerModel::load(from, recipe_.dtype, Purpose::training, device);
  }
  ParameterStore& store() override { return model_->store; }
  std::vector<const Parameter*> milestones() const override { return model_->thinker.milestones(); }
  void save(const std::filesystem::path& directory, DType dtype) const override { model_->save(directory, dtype); }

  std::int64_t rows_per_pass() const override { return source_->max_rows(); }
  Pass forward(Tape& tape, const Batch& batch, std::int64_t first, std::int64_t end,
               const BatchTotals& totals) override {
    const auto rows = [&](const ConstView& all) {
      return slice(all, first * all.shape[1], {end - first, all.shape[1]});
    };
    const TextLoss loss = text_loss(tape, model_->thinker, rows(batch.input_ids), rows(batch.labels));
    return {.loss = loss.loss,
            .weight = static_cast<double>(loss.labelled) / totals.labelled[0],
            .losses = {loss.loss, loss.text_loss, loss.aux_loss},
            .hits = {}};
  }
  const std::vector<std::string>& loss_names() const override {
    static const std::vector<std::string> names = {"loss", "text_loss", "aux_loss"};
    return names;
  }
  const std::vector<std::string>& hit_names() const override {
    static const std::vector<std::string> none;
    return none;
  }
  std::vector<double> hit_totals(const Batch&) const override { return {}; }

 private:
  const Recipe& recipe_;
  ThinkerConfig config_;
  TextFiles tokenizer_;
  std::unique_ptr<BatchSource> source_;
  std::unique_ptr<ThinkerModel> model_;
};

}  // namespace

int train_thinker(const Recipe& recipe, const TrainOptions& options, Ranks& ranks, std::ostream& out) {
  return train(recipe, options, ranks, out,
               [&](const std::optional<Checkpoint>& checkpoint, const RowShard& shard, std::ostream& console) {
                 return std::make_unique<ThinkerTask>(recipe, checkpoint, shard, console);
               });
}

int train_thinker(const Recipe& recipe, const TrainOptions& options, std::ostream& out) {
  Ranks alone;
  return train_thinker(recipe, options, alone, out);
}

}  // namespace omni
