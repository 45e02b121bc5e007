#pragma once
// What the training loop (trainers/trainer.h) trains: a model, the batches that it learns from, and its objective.

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "autograd/module.h"
#include "autograd/tape.h"
#include "trainers/batches.h"
#include "trainers/checkpoint.h"

namespace omni {

// Numbers in the weights, counted from the configuration.
struct ParameterCounts {
  std::int64_t all = 0;
  std::int64_t per_token = 0;  // in matrices that every token is multiplied with (of the experts only the chosen ones)
  std::int64_t head = 0;       // in the output matrices, with which only labelled positions are multiplied
};

// Labels and rows of a whole batch, of which a process may have only a part.
struct BatchTotals {
  double rows = 0;
  std::array<double, kLabelKinds> labelled{};
};

class TrainingTask {
 public:
  virtual ~TrainingTask() = default;

  // Known before the model takes any memory.
  virtual const BatchSource& source() const = 0;
  virtual const TextFiles& tokenizer() const = 0;
  virtual ParameterCounts parameters() const = 0;
  virtual double flops(const Batch& batch) const = 0;  // of forward and backward, useful work only
  virtual std::int64_t activation_bytes(std::int64_t rows, std::int64_t labelled) const = 0;  // with their gradients

  // The model from the recipe, or from a checkpoint of the run.
  virtual void start(const std::optional<Checkpoint>& checkpoint, Device& device) = 0;
  virtual ParameterStore& store() = 0;
  virtual std::vector<const Parameter*> milestones() const = 0;
  virtual void save(const std::filesystem::path& directory, DType dtype) const = 0;  // a model directory

  // How many rows of a batch go through the model at a time.
  virtual std::int64_t rows_per_pass() const = 0;
  struct Pass {
    Tensor loss;
    double weight = 1;           // of the loss in that of the whole batch
    std::vector<Tensor> losses;  // what is reported, one or more numbers each, times the weight; may be absent
    Tensor hits;                 // targets that are the largest logit, by kind (hit_names); may be absent
  };
  // Forward pass over rows [first, end) of a batch.
  virtual Pass forward(Tape& tape, const Batch& batch, std::int64_t first, std::int64_t end,
                       const BatchTotals& totals) = 0;
  // Names of the numbers in Pass::losses, the first of which is "loss", and of those in Pass::hits.
  virtual const std::vector<std::string>& loss_names() const = 0;
  virtual const std::vector<std::string>& hit_names() const = 0;
  // How many targets of each kind there are in a batch.
  virtual std::vector<double> hit_totals(const Batch& batch) const = 0;
};

}  // namespace omni
