#include "trainers/trainer.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <optional>
#include <ostream>
#include <stdexcept>

#include "autograd/gradient_sum.h"
#include "engine/machine.h"
#include "trainers/checkpoint.h"
#include "trainers/loader.h"
#include "trainers/metrics.h"
#include "trainers/plan.h"
#include "trainers/run_folder.h"
#include "trainers/run_log.h"
#include "trainers/schedule.h"
#include "trainers/step_losses.h"
#include "trainers/stop_signal.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

// Replayed batches form one endless epoch, so that no step is cut short at the end of the file.
Schedule schedule_of(const Recipe& recipe, const BatchSource& source) {
  if (recipe.replay.empty())
    return Schedule::make(source.micro_batches_per_epoch(), recipe.accumulation_steps, recipe.steps, recipe.epochs);
  const std::int64_t all =
      recipe.steps > 0 ? recipe.steps * recipe.accumulation_steps : recipe.epochs * source.micro_batches_per_epoch();
  return Schedule::make(all, recipe.accumulation_steps, 0, 1);
}

std::int64_t passes_of_a_batch(const TrainingTask& task) {
  return (task.source().max_rows() - 1) / task.rows_per_pass() + 1;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class Trainer {
 public:
  Trainer(const Recipe& recipe, const TrainOptions& options, Ranks& ranks, Device& device, TrainingTask& task,
          const MachineLimits& limits, const nlohmann::ordered_json& identity,
          const std::optional<Checkpoint>& checkpoint, std::ostream& out)
      : recipe_(recipe),
        options_(options),
        ranks_(ranks),
        device_(device),
        task_(task),
        limits_(limits),
        identity_(identity),
        schedule_(schedule_of(recipe, task.source())),
        optimizer_(task.store()),
        gradient_sum_(ranks, task.store(), task.milestones()),
        tape_(device),
        losses_(task, recipe.accumulation_steps * passes_of_a_batch(task), device),
        done_(checkpoint ? checkpoint->state.step : 0),
        progress_(out, options.terminal, schedule_.steps),
        out_(out) {
    tape_.set_recompute(recipe.recompute);
    if (checkpoint) restore_optimizer(*checkpoint, task.store(), optimizer_);
  }

  // Steps until the end or a signal; returns the signal.
  int run() {
    const StopSignal stop;
    std::optional<RunLog> log;
    if (ranks_.is_root()) log.emplace(recipe_.output, done_, header());
    Loader loader(task_.source(), schedule_.micro_batches_of(done_ + 1).first, schedule_.micro_batches,
                  recipe_.workers);
    while (done_ < schedule_.steps) {
      const StepMetrics step = train_step(loader);
      done_ = step.step;
      if (log) log->write(step);
      progress_.show(step);
      const bool last = done_ == schedule_.steps;
      const bool due = recipe_.save_interval > 0 && done_ % recipe_.save_interval == 0;
      const int signal = agreed_signal(stop);
      if (log && last) export_model();
      if (log && (last || due || signal != 0)) save(*log, last);
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
  nlohmann::ordered_json header() const {
    return {{"format", "omni metrics 1"}, {"recipe", identity_},      {"parameters", task_.store().parameter_count()},
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
    StepMetrics step;
    step.step = done_ + 1;
    const Schedule::Range range = schedule_.micro_batches_of(step.step);
    const double share = 1.0 / static_cast<double>(range.end - range.first);
    step.epoch = range.first / task_.source().micro_batches_per_epoch() + 1;
    step.learning_rate = schedule_.learning_rate(recipe_.learning_rate, step.step);
    losses_.begin_step();
    for (std::int64_t i = range.first; i < range.end; ++i) {
      const auto waiting = std::chrono::steady_clock::now();
      const Batch batch = loader.next();
      step.data_seconds += seconds_since(waiting);
      accumulate(batch, share, i + 1 == range.end, step);
    }
    gradient_sum_.finish();
    const auto [values, not_finite] = losses_.finish(ranks_);
    step.values = values;
    if (not_finite >= 0) fail(step, "the loss is " + std::to_string(step.loss()), {not_finite, not_finite + 1});
    step.grad_norm = optimizer_.step(step.learning_rate, recipe_.grad_clip);
    if (!std::isfinite(step.grad_norm)) fail(step, "the gradient norm is " + std::to_string(step.grad_norm), range);
    step.seconds = seconds_since(begin);
    step.peak_flops_per_s = peak_of(limits_, recipe_.dtype) * ranks_.size();
    return step;
  }

  // Forward and backward of one micro-batch, whose gradient counts `share` in the step; its losses stay on the device
  // until the step's work is under way. A batch without any label adds nothing: its mean loss would be 0 / 0.
  void accumulate(const Batch& batch, double share, bool last, StepMetrics& step) {
    std::vector<double> counts = {static_cast<double>(batch.tokens), static_cast<double>(batch.truncated),
                                  task_.flops(batch), static_cast<double>(batch.rows)};
    counts.insert(counts.end(), batch.labelled.begin(), batch.labelled.end());
    ranks_.sum(counts, "counts of a batch");
    step.tokens += static_cast<std::int64_t>(counts[0]);
    step.truncated += static_cast<std::int64_t>(counts[1]);
    step.flops += counts[2];
    BatchTotals totals{.rows = counts[3], .labelled = {}};
    std::copy(counts.begin() + 4, counts.end(), totals.labelled.begin());
    step.labelled += static_cast<std::int64_t>(std::accumulate(counts.begin() + 4, counts.end(), 0.0));
    losses_.add_targets(batch);
    if (batch.predictions() == 0) return;
    const std::int64_t rows = std::min(batch.rows, task_.rows_per_pass());
    for (std::int64_t first = 0; first < batch.rows; first += rows) {
      const std::int64_t end = std::min(first + rows, batch.rows);
      tape_.reset();
      const TrainingTask::Pass pass = task_.forward(tape_, batch, first, end, totals);
      losses_.add(pass, share * pass.weight, batch.position);
      if (last && end == batch.rows && !ranks_.alone())
        tape_.set_milestone_listener([this](const Parameter& milestone) { gradient_sum_.reached(milestone); });
      tape_.backward(pass.loss, share * pass.weight);
      tape_.set_milestone_listener({});
    }
  }

  [[noreturn]] void fail(const StepMetrics& step, const std::string& what, Schedule::Range range) {
    progress_.end_line();
    std::string samples;
    for (std::int64_t i = range.first; i < range.end; ++i)
      samples += (i == range.first ? "" : "; ") + task_.source().samples_of(i);
    char numbers[128];
    std::snprintf(numbers, sizeof numbers, " (loss %g, learning rate %g)", step.loss(), step.learning_rate);
    throw std::runtime_error("step " + std::to_string(step.step) + ": " + what + numbers +
                             ". The step was not applied; checkpoints are as they were. Samples: " + samples);
  }

  void save(RunLog& log, bool finished) {
    log.flush();
    try {
      save_checkpoint(recipe_.output, task_.store(), optimizer_, {done_, finished, identity_}, task_.tokenizer(),
                      [&](const fs::path& folder) { task_.save(folder, DType::f32); });
    } catch (const std::exception& error) {
      progress_.end_line();
      throw std::runtime_error("step " + std::to_string(done_) +
                               ": the checkpoint could not be saved, the former one is " +
                               "as it was: " + error.what());
    }
  }

  void export_model() const {
    AtomicFolder folder(recipe_.output / "model");
    task_.save(folder.staging(), recipe_.save_dtype);
    write_text_files(folder.staging(), task_.tokenizer());
    folder.commit();
  }

  const Recipe& recipe_;
  const TrainOptions& options_;
  Ranks& ranks_;
  Device& device_;
  TrainingTask& task_;
  MachineLimits limits_;
  nlohmann::ordered_json identity_;
  Schedule schedule_;
  AdamWOptimizer optimizer_;
  GradientSum gradient_sum_;
  Tape tape_;
  StepLosses losses_;
  std::int64_t done_;
  Progress progress_;
  std::ostream& out_;
};

}  // namespace

int train(const Recipe& recipe, const TrainOptions& options, Ranks& ranks, std::ostream& console,
          const TaskMaker& make) {
  std::ostream silence(nullptr);
  std::ostream& out = ranks.is_root() ? console : silence;
  Device device = Device::named(recipe.device, recipe.threads, ranks.local_rank());
  ranks.connect(device);
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

  const std::unique_ptr<TrainingTask> task = make(checkpoint, {ranks.rank(), ranks.size()}, out);
  nlohmann::ordered_json identity = recipe.identity();
  identity["data"] = task->source().fingerprint();
  if (checkpoint) check_identity(*checkpoint, identity);

  const MachineLimits limits = options.limits ? *options.limits : measure_machine(device);
  print_plan(out, make_plan(*task, recipe, schedule_of(recipe, task->source()), limits), recipe);
  if (options.plan) return 0;

  task->start(checkpoint, device);
  Trainer trainer(recipe, options, ranks, device, *task, limits, identity, checkpoint, out);
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
