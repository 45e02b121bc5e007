#pragma once
// Micro-batches of the omni stages (trainers/batches.h tells what a batch source is).

#include <memory>

#include "models/omni_inputs.h"
#include "trainers/batches.h"
#include "trainers/omni_samples.h"
#include "trainers/shards.h"

namespace omni {

// The tensors of a batch as the model takes them.
OmniBatch views_of(const Batch& batch);

// What the samples of these shards may hold for a model of this configuration.
OmniRowLimits limits_of(const OmniConfig& config);

// Samples of shards, in a new order each epoch. Recordings and pictures enter a sample through the encoder states that
// lie beside them; a question without states is read as text.
class ShardBatches : public BatchSource {
 public:
  ShardBatches(std::shared_ptr<const ShardSet> shards, std::shared_ptr<const Tokenizer> tokenizer,
               const OmniConfig& config, const TalkerRecipe& recipe, const RowShard& shard = {});

  std::int64_t micro_batches_per_epoch() const override { return order_.batches(); }
  Batch batch(std::int64_t position) const override;
  std::string samples_of(std::int64_t position) const override;
  std::int64_t max_rows() const override { return order_.max_rows(shard()); }
  std::int64_t length() const override { return assembler_.max_seq_len() - 1; }
  std::string fingerprint() const override;

  // What is drawn for a row in an epoch, and what it becomes.
  OmniDecisions decisions(const OmniRow& row, std::int64_t number, std::int64_t epoch) const;
  OmniSample sample(const OmniRow& row, std::int64_t number, std::int64_t epoch) const;

 private:
  Philox random_of(std::int64_t number, std::int64_t epoch) const;

  std::shared_ptr<const ShardSet> shards_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  OmniAssembler assembler_;
  std::uint64_t seed_;
  double scheduled_sampling_;
  EpochOrder order_;
};

// Ready-made batches from a file: the tensors of OmniBatch, each with a leading dimension [N]; position p takes batch
// p mod N.
class OmniReplay : public BatchSource {
 public:
  // Throws std::runtime_error naming file and tensor where something does not fit the model.
  OmniReplay(const std::filesystem::path& path, const OmniConfig& config, const RowShard& shard = {});

  std::int64_t micro_batches_per_epoch() const override { return file_.at("input_ids").shape[0]; }
  Batch batch(std::int64_t position) const override;
  std::string samples_of(std::int64_t position) const override;
  std::int64_t max_rows() const override { return shard().most(file_.at("input_ids").shape[1]); }
  std::int64_t length() const override { return file_.at("input_ids").shape[3]; }
  std::string fingerprint() const override;

 private:
  SafetensorsFile file_;
  OmniConfig config_;
};

}  // namespace omni
