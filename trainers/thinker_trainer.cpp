#include "trainers/thinker_trainer.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <thread>

#include "autograd/gradient_sum.h"
#include "engine/machine.h"
#include "kernels/elementwise/elementwise.h"
#include "models/text_loss.h"
#include "models/thinker_model.h"
#include "trainers/batches.h"
#include "trainers/checkpoint.h"
#include "trainers/loader.h"
#include "trainers/metrics.h"
#include "trainers/plan.h"
#include "trainers/run_folder.h"
#include "trainers/schedule.h"
#include "trainers/stop_signal.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

// What a run reads: the model's configuration, and where its batches come from.
struct Inputs {
  ThinkerConfig config;
  std::unique_ptr<BatchSource> source;
  TextFiles tokenizer;
};

ThinkerConfig config_of(const Recipe& recipe) {
  return recipe.model.empty() ? parse_config(recipe.config_text, recipe.config_name) : load_config(recipe.model);
}

std::unique_ptr<BatchSource> open_data(const Recipe& recipe, const ThinkerConfig& config, const RowShard& shard,
                                       std::ostream& out) {
  const auto tokenizer = std::make_shared<const Tokenizer>(Tokenizer::load(recipe.tokenizer));
  if (tokenizer->vocab_size() > config.vocab_size)
    throw std::runtime_error(recipe.tokenizer.string() + ": the tokenizer has " +
                             std::to_string(tokenizer->vocab_size()) + " tokens, more than the model's vocab_size " +
                             std::to_string(config.vocab_size));
  const auto dataset =
      std::make_shared<const Dataset>(recipe.stage, recipe.data, static_cast<int>(std::thread::hardware_concurrency()));
  out << "data     " << dataset->size() << " samples in " << count_text(static_cast<double>(dataset->bytes())) << "B\n";
  report_skipped(out, *dataset);
  return std::make_unique<TextBatches>(dataset, tokenizer, recipe, shard);
}

Inputs open_inputs(const Recipe& recipe, const std::optional<Checkpoint>& checkpoint, const RowShard& shard,
                   std::ostream& out) {
  Inputs inputs;
  inputs.config = checkpoint ? load_config(checkpoint->path) : config_of(recipe);
  if (!recipe.tokenizer.empty()) inputs.tokenizer = read_tokenizer_files(recipe.tokenizer);
  if (recipe.replay.empty())
    inputs.source = open_data(recipe, inputs.config, shard, out);
  else
    inputs.source = std::make_unique<ReplayBatches>(recipe.replay, inputs.config.vocab_size, shard);
  if (inputs.source->length() > inputs.config.max_position_embeddings)
    throw std::runtime_error(recipe.name + ": samples of " + std::to_string(inputs.source->length()) +
                             " tokens, more than the model's max_position_embeddings " +
                             std::to_string(inputs.config.max_position_embeddings));
  return inputs;
}

// Replayed batches form one endless epoch, so that no step is cut short at the end of the file.
Schedule schedule_of(const Recipe& recipe, const BatchSource& source) {
  if (recipe.replay.empty())
    return Schedule::make(source.micro_batches_per_epoch(), recipe.accumulation_steps, recipe.steps, recipe.epochs);
  const std::int64_t all =
      recipe.steps > 0 ? recipe.steps * recipe.accumulation_steps : recipe.epochs * source.micro_batches_per_epoch();
  return Schedule::make(all, recipe.accumulation_steps, 0, 1);
}

class Trainer {
 public:
  Trainer(const Recipe& recipe, const TrainOptions& options, Ranks& ranks, Device& device, Inputs inputs,
          const MachineLimits& limits, const nlohmann::ordered_json& identity,
          const std::optional<Checkpoint>& checkpoint, std::ostream& out)
      : recipe_(recipe),
        options_(options),
        ranks_(ranks),
        device_(device),
        inputs_(std::move(inputs)),
        limits_(limits),
        identity_(identity),
        schedule_(schedule_of(recipe, *inputs_.source)),
        model_(start(checkpoint)),
        optimizer_(model_->store),
        gradient_sum_(ranks, model_->store, model_->thinker.milestones()),
        tape_(device),
        losses_(DType::f32, {recipe.accumulation_steps, kLosses}, device.place()),
        done_(checkpoint ? checkpoint->state.step : 0),
        progress_(out, options.terminal, schedule_.steps),
        out_(out) {
    tape_.set_recompute(recipe.recompute);
    if (checkpoint) restore_optimizer(*checkpoint, *model_, optimizer_);
  }

  // Steps until the end or a signal; returns the signal.
  int run() {
    const StopSignal stop;
    std::optional<MetricsFile> metrics;
    if (ranks_.is_root()) metrics.emplace(recipe_.output / "metrics.jsonl", done_, header());
    Loader loader(*inputs_.source, schedule_.micro_batches_of(done_ + 1).first, schedule_.micro_batches,
                  recipe_.workers);
    while (done_ < schedule_.steps) {
      const StepMetrics step = train_step(loader);
      done_ = step.step;
      if (metrics) metrics->write(step);
      progress_.show(step);
      const bool last = done_ == schedule_.steps;
      const bool due = recipe_.save_interval > 0 && done_ % recipe_.save_interval == 0;
      const int signal = agreed_signal(stop);
      if (metrics && last) export_model();
      if (metrics && (last || due || signal != 0)) save(*metrics, last);
      if (last || due || signal != 0) ranks_.barrier("checkpoint");
      if (!last && signal != 0) {
        progress_.end_line();
        return signal;
      }
      if (options_.profile) device_.profiler().set_mode(Profiler::Mode::totals);  // the first step only warms up
    }
    progress_.end_line();
    if (options_.profile) device_.profiler().report(out_, limits_);
    return 0;
  }

  std::int64_t steps_done() const { return done_; }

 private:
  std::unique_ptr<ThinkerModel> start(const std::optional<Checkpoint>& checkpoint) {
    if (checkpoint) return ThinkerModel::load(checkpoint->path, recipe_.dtype, Purpose::training, device_);
    if (!recipe_.model.empty()) return ThinkerModel::load(recipe_.model, recipe_.dtype, Purpose::training, device_);
    return ThinkerModel::create(inputs_.config, recipe_.dtype, recipe_.seed, device_);
  }

  nlohmann::ordered_json header() const {
    return {{"format", "omni metrics 1"}, {"recipe", identity_},      {"parameters", model_->store.parameter_count()},
            {"steps", schedule_.steps},   {"device", device_.name()}, {"threads", device_.cpu_context().threads},
            {"processes", ranks_.size()}};
  }

  // The signal that any of the processes has received.
  int agreed_signal(const StopSignal& stop) {
    double received[] = {stop.received() == SIGINT ? 1.0 : 0.0, stop.received() == SIGTERM ? 1.0 : 0.0};
    ranks_.sum(received, "end of a step");
    return received[0] > 0 ? SIGINT : received[1] > 0 ? SIGTERM : 0;
  }

  // One update of the weights: the mean gradient of its micro-batches, clipped.
  StepMetrics train_step(Loader& loader) {
    const auto begin = std::chrono::steady_clock::now();
    StepMetrics step{.step = done_ + 1};
    const Schedule::Range range = schedule_.micro_batches_of(step.step);
    const double share = 1.0 / static_cast<double>(range.end - range.first);
    step.epoch = range.first / inputs_.source->micro_batches_per_epoch() + 1;
    step.learning_rate = schedule_.learning_rate(recipe_.learning_rate, step.step);
    std::vector<double> weights;
    for (std::int64_t i = range.first; i < range.end; ++i)
      weights.push_back(accumulate(loader.next(), {i - range.first, i + 1 == range.end}, share, step));
    gradient_sum_.finish();
    add_losses(range, weights, step);
    step.grad_norm = optimizer_.step(step.learning_rate, recipe_.grad_clip);
    if (!std::isfinite(step.grad_norm)) fail(step, "the gradient norm is " + std::to_string(step.grad_norm), range);
    step.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    step.peak_flops_per_s = peak_of(limits_, recipe_.dtype) * ranks_.size();
    return step;
  }

  struct Turn {
    std::int64_t index;  // of the micro-batch in its step
    bool last;
  };

  // Forward and backward of one micro-batch; its losses stay on the device until the step's work is under way. Returns
  // the weight of its loss: `share`, times the part of the batch's labels that this process has. A batch without any
  // label adds nothing: its mean loss would be 0 / 0.
  double accumulate(const Batch& batch, Turn turn, double share, StepMetrics& step) {
    double counts[] = {static_cast<double>(batch.labelled), static_cast<double>(batch.tokens),
                       static_cast<double>(batch.truncated), training_flops(inputs_.config, batch)};
    ranks_.sum(counts, "counts of a batch");
    step.labelled += static_cast<std::int64_t>(counts[0]);
    step.tokens += static_cast<std::int64_t>(counts[1]);
    step.truncated += static_cast<std::int64_t>(counts[2]);
    step.flops += counts[3];
    const View losses = slice(losses_.view(), turn.index * kLosses, {kLosses});
    if (batch.labelled == 0) {
      device_.run(Fill{.y = losses, .value = 0});
      return 0;
    }
    tape_.reset();
    const TextLoss loss = text_loss(tape_, model_->thinker, batch.input_ids, batch.labels);
    device_.copy(slice(losses, 0, {1}), loss.loss);
    device_.copy(slice(losses, 1, {1}), loss.text_loss);
    if (loss.aux_loss) device_.copy(slice(losses, 2, {1}), loss.aux_loss);
    const double weight = share * (static_cast<double>(batch.labelled) / counts[0]);
    if (turn.last && !ranks_.alone())
      tape_.set_milestone_listener([this](const Parameter& milestone) { gradient_sum_.reached(milestone); });
    tape_.backward(loss.loss, weight);
    tape_.set_milestone_listener({});
    return weight;
  }

  // The losses of the step's micro-batches, which the GPU has finished when this returns.
  void add_losses(Schedule::Range range, const std::vector<double>& weights, StepMetrics& step) {
    std::vector<float> losses(static_cast<std::size_t>(losses_.view().count()));
    device_.copy(view_of(losses.data(), losses_.view().shape), losses_);
    double sums[kLosses] = {};
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const float* one = losses.data() + i * kLosses;
      for (std::size_t k = 0; k < kLosses; ++k) sums[k] += weights[i] * static_cast<double>(one[k]);
      step.loss = sums[0];  // for the message
      const std::int64_t position = range.first + static_cast<std::int64_t>(i);
      if (!std::isfinite(one[0])) fail(step, "the loss is " + std::to_string(one[0]), {position, position + 1});
    }
    ranks_.sum(sums, "losses of a step");
    step.loss = sums[0];
    step.text_loss = sums[1];
    step.aux_loss = sums[2];
  }

  [[noreturn]] void fail(const StepMetrics& step, const std::string& what, Schedule::Range range) {
    progress_.end_line();
    std::string samples;
    for (std::int64_t i = range.first; i < range.end; ++i)
      samples += (i == range.first ? "" : "; ") + inputs_.source->samples_of(i);
    char numbers[128];
    std::snprintf(numbers, sizeof numbers, " (loss %g, learning rate %g)", step.loss, step.learning_rate);
    throw std::runtime_error("step " + std::to_string(step.step) + ": " + what + numbers +
                             ". The step was not applied; checkpoints are as they were. Samples: " + samples);
  }

  void save(MetricsFile& metrics, bool finished) {
    metrics.flush();
    try {
      save_checkpoint(recipe_.output, *model_, optimizer_, {done_, finished, identity_}, inputs_.tokenizer);
    } catch (const std::exception& error) {
      progress_.end_line();
      throw std::runtime_error("step " + std::to_string(done_) +
                               ": the checkpoint could not be saved, the former one is " +
                               "as it was: " + error.what());
    }
  }

  void export_model() const {
    AtomicFolder folder(recipe_.output / "model");
    model_->save(folder.staging(), recipe_.save_dtype);
    write_text_files(folder.staging(), inputs_.tokenizer);
    folder.commit();
  }

  static constexpr std::size_t kLosses = 3;

  const Recipe& recipe_;
  const TrainOptions& options_;
  Ranks& ranks_;
  Device& device_;
  Inputs inputs_;
  MachineLimits limits_;
  nlohmann::ordered_json identity_;
  Schedule schedule_;
  std::unique_ptr<ThinkerModel> model_;
  AdamWOptimizer optimizer_;
  GradientSum gradient_sum_;
  Tape tape_;
  OwnedTensor losses_;  // loss, text_loss, aux_loss of every micro-batch of a step
  std::int64_t done_;
  Progress progress_;
  std::ostream& out_;
};

}  // namespace

int train_thinker(const Recipe& recipe, const TrainOptions& options, Ranks& ranks, std::ostream& console) {
  std::ostream silence(nullptr);
  std::ostream& out = ranks.is_root() ? console : silence;
  std::optional<RunFolder> folder;
  std::optional<Checkpoint> checkpoint;
  if (!options.plan && ranks.is_root()) folder.emplace(recipe, options.resume);
  if (options.resume && ranks.is_root()) checkpoint = find_checkpoint(recipe.output, out);
  ranks.barrier("opening the output folder");
  if (options.resume && !ranks.is_root()) checkpoint = find_checkpoint(recipe.output, out);
  if (options.resume && !checkpoint) out << recipe.output.string() << " holds no checkpoint: starting at step 1\n";
  if (checkpoint && checkpoint->state.finished) {
    out << "This run is finished (step " << checkpoint->state.step << "). Its model is in "
        << (recipe.output / "model").string() << "\n";
    return 0;
  }

  Device device = Device::named(recipe.device, recipe.threads, ranks.local_rank());
  ranks.connect(device);
  Inputs inputs = open_inputs(recipe, checkpoint, {ranks.rank(), ranks.size()}, out);
  nlohmann::ordered_json identity = recipe.identity();
  identity["data"] = inputs.source->fingerprint();
  if (checkpoint) check_identity(*checkpoint, identity);

  const MachineLimits limits = options.limits ? *options.limits : measure_machine(device);
  print_plan(out, make_plan(inputs.config, recipe, *inputs.source, schedule_of(recipe, *inputs.source), limits),
             recipe);
  if (options.plan) return 0;

  Trainer trainer(recipe, options, ranks, device, std::move(inputs), limits, identity, checkpoint, out);
  if (checkpoint) out << "Continuing after step " << trainer.steps_done() << ".\n";
  const int signal = trainer.run();
  if (signal == 0)
    out << "Finished after step " << trainer.steps_done() << ". The model is in " << (recipe.output / "model").string()
        << "\n";
  else
    out << "Stopped by signal " << signal << " after step " << trainer.steps_done() << ", with a checkpoint. "
        << "The same command with --resume continues.\n";
  return signal;
}

int train_thinker(const Recipe& recipe, const TrainOptions& options, std::ostream& out) {
  Ranks alone;
  return train_thinker(recipe, options, alone, out);
}

}  // namespace omni
