#include "trainers/thinker_trainer.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <thread>

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

std::unique_ptr<BatchSource> open_data(const Recipe& recipe, const ThinkerConfig& config, std::ostream& out) {
  const auto tokenizer = std::make_shared<const Tokenizer>(Tokenizer::load(recipe.tokenizer));
  if (tokenizer->vocab_size() > config.vocab_size)
    throw std::runtime_error(recipe.tokenizer.string() + ": the tokenizer has " +
                             std::to_string(tokenizer->vocab_size()) + " tokens, more than the model's vocab_size " +
                             std::to_string(config.vocab_size));
  const auto dataset =
      std::make_shared<const Dataset>(recipe.stage, recipe.data, static_cast<int>(std::thread::hardware_concurrency()));
  out << "data     " << dataset->size() << " samples in " << count_text(static_cast<double>(dataset->bytes())) << "B\n";
  report_skipped(out, *dataset);
  return std::make_unique<TextBatches>(dataset, tokenizer, recipe);
}

Inputs open_inputs(const Recipe& recipe, const std::optional<Checkpoint>& checkpoint, std::ostream& out) {
  Inputs inputs;
  inputs.config = checkpoint ? load_config(checkpoint->path) : config_of(recipe);
  if (!recipe.tokenizer.empty()) inputs.tokenizer = read_tokenizer_files(recipe.tokenizer);
  if (recipe.replay.empty())
    inputs.source = open_data(recipe, inputs.config, out);
  else
    inputs.source = std::make_unique<ReplayBatches>(recipe.replay, inputs.config.vocab_size);
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
  Trainer(const Recipe& recipe, const TrainOptions& options, Device& device, Inputs inputs, const MachineLimits& limits,
          const nlohmann::ordered_json& identity, const std::optional<Checkpoint>& checkpoint, std::ostream& out)
      : recipe_(recipe),
        options_(options),
        device_(device),
        inputs_(std::move(inputs)),
        limits_(limits),
        identity_(identity),
        schedule_(schedule_of(recipe, *inputs_.source)),
        model_(start(checkpoint)),
        optimizer_(model_->store),
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
    MetricsFile metrics(recipe_.output / "metrics.jsonl", done_, header());
    Loader loader(*inputs_.source, schedule_.micro_batches_of(done_ + 1).first, schedule_.micro_batches,
                  recipe_.workers);
    while (done_ < schedule_.steps) {
      const StepMetrics step = train_step(loader);
      done_ = step.step;
      metrics.write(step);
      progress_.show(step);
      const bool last = done_ == schedule_.steps;
      const bool due = recipe_.save_interval > 0 && done_ % recipe_.save_interval == 0;
      if (last) export_model();
      if (last || due || stop.received() != 0) save(metrics, last);
      if (!last && stop.received() != 0) break;
      if (options_.profile) device_.profiler().set_mode(Profiler::Mode::totals);  // the first step only warms up
    }
    progress_.end_line();
    if (options_.profile) device_.profiler().report(out_, limits_);
    return done_ == schedule_.steps ? 0 : stop.received();
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
            {"steps", schedule_.steps},   {"device", device_.name()}, {"threads", device_.cpu_context().threads}};
  }

  // One update of the weights: the mean gradient of its micro-batches, clipped.
  StepMetrics train_step(Loader& loader) {
    const auto begin = std::chrono::steady_clock::now();
    StepMetrics step{.step = done_ + 1};
    const Schedule::Range range = schedule_.micro_batches_of(step.step);
    const double share = 1.0 / static_cast<double>(range.end - range.first);
    step.epoch = range.first / inputs_.source->micro_batches_per_epoch() + 1;
    step.learning_rate = schedule_.learning_rate(recipe_.learning_rate, step.step);
    for (std::int64_t i = range.first; i < range.end; ++i) accumulate(loader.next(), i - range.first, share, step);
    add_losses(range, share, step);
    step.grad_norm = optimizer_.step(step.learning_rate, recipe_.grad_clip);
    if (!std::isfinite(step.grad_norm)) fail(step, "the gradient norm is " + std::to_string(step.grad_norm), range);
    step.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    step.peak_flops_per_s = peak_of(limits_, recipe_.dtype);
    return step;
  }

  // Forward and backward of one micro-batch; its losses stay on the device until the step's work is under way. One
  // without any label adds nothing: its mean loss would be 0 / 0.
  void accumulate(const Batch& batch, std::int64_t index, double share, StepMetrics& step) {
    step.tokens += batch.tokens;
    step.labelled += batch.labelled;
    step.truncated += batch.truncated;
    step.flops += training_flops(inputs_.config, batch);
    const View losses = slice(losses_.view(), index * kLosses, {kLosses});
    if (batch.labelled == 0) return device_.run(Fill{.y = losses, .value = 0});
    tape_.reset();
    const TextLoss loss = text_loss(tape_, model_->thinker, batch.input_ids, batch.labels);
    device_.copy(slice(losses, 0, {1}), loss.loss);
    device_.copy(slice(losses, 1, {1}), loss.text_loss);
    if (loss.aux_loss) device_.copy(slice(losses, 2, {1}), loss.aux_loss);
    tape_.backward(loss.loss, share);
  }

  // The losses of the step's micro-batches, which the GPU has finished when this returns.
  void add_losses(Schedule::Range range, double share, StepMetrics& step) {
    std::vector<float> losses(static_cast<std::size_t>(losses_.view().count()));
    device_.copy(view_of(losses.data(), losses_.view().shape), losses_);
    for (std::int64_t i = 0; i < range.end - range.first; ++i) {
      const float* one = losses.data() + i * kLosses;
      step.loss += share * static_cast<double>(one[0]);
      step.text_loss += share * static_cast<double>(one[1]);
      step.aux_loss += share * static_cast<double>(one[2]);
      if (!std::isfinite(one[0]))
        fail(step, "the loss is " + std::to_string(one[0]), {range.first + i, range.first + i + 1});
    }
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

  static constexpr std::int64_t kLosses = 3;

  const Recipe& recipe_;
  const TrainOptions& options_;
  Device& device_;
  Inputs inputs_;
  MachineLimits limits_;
  nlohmann::ordered_json identity_;
  Schedule schedule_;
  std::unique_ptr<ThinkerModel> model_;
  AdamWOptimizer optimizer_;
  Tape tape_;
  OwnedTensor losses_;  // loss, text_loss, aux_loss of every micro-batch of a step
  std::int64_t done_;
  Progress progress_;
  std::ostream& out_;
};

}  // namespace

int train_thinker(const Recipe& recipe, const TrainOptions& options, std::ostream& out) {
  std::optional<RunFolder> folder;
  std::optional<Checkpoint> checkpoint;
  if (!options.plan) folder.emplace(recipe, options.resume);
  if (options.resume) checkpoint = find_checkpoint(recipe.output, out);
  if (options.resume && !checkpoint) out << recipe.output.string() << " holds no checkpoint: starting at step 1\n";
  if (checkpoint && checkpoint->state.finished) {
    out << "This run is finished (step " << checkpoint->state.step << "). Its model is in "
        << (recipe.output / "model").string() << "\n";
    return 0;
  }

  Device device = Device::named(recipe.device, recipe.threads);
  Inputs inputs = open_inputs(recipe, checkpoint, out);
  nlohmann::ordered_json identity = recipe.identity();
  identity["data"] = inputs.source->fingerprint();
  if (checkpoint) check_identity(*checkpoint, identity);

  const MachineLimits limits = options.limits ? *options.limits : measure_machine(device);
  print_plan(out, make_plan(inputs.config, recipe, *inputs.source, schedule_of(recipe, *inputs.source), limits),
             recipe);
  if (options.plan) return 0;

  Trainer trainer(recipe, options, device, std::move(inputs), limits, identity, checkpoint, out);
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

}  // namespace omni
