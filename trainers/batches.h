#pragma once
// Micro-batches: from the position in a run to ids and labels. A batch depends on nothing but its position (and the
// recipe), so any thread may make it, and a resumed run needs only the number of the step it stopped at.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/memory.h"
#include "engine/safetensors.h"
#include "trainers/dataset.h"
#include "trainers/samples.h"

namespace omni {

// Which rows of every batch a process takes: an equal share of neighbours.
struct RowShard {
  std::int64_t rank = 0, ranks = 1;

  std::int64_t first(std::int64_t rows) const { return rows * rank / ranks; }
  std::int64_t end(std::int64_t rows) const { return rows * (rank + 1) / ranks; }
  std::int64_t most(std::int64_t rows) const { return (rows + ranks - 1) / ranks; }
};

struct Batch {
  std::int64_t position = 0;
  OwnedTensor input_ids, labels;     // i64 [batch, length]
  std::int64_t tokens = 0;           // without the padding at the ends of rows
  std::int64_t labelled = 0;         // predictions that the loss counts: labels other than -100, first column excepted
  std::int64_t attention_pairs = 0;  // sum over rows of n * (n + 1) / 2 for n tokens: what causal attention looks at
  std::int64_t truncated = 0;        // samples that did not fit
};

// Counts tokens, labelled and attention_pairs from the content.
void count_tokens(Batch& batch, std::int64_t pad_id);

class BatchSource {
 public:
  explicit BatchSource(const RowShard& shard) : shard_(shard) {}
  virtual ~BatchSource() = default;
  const RowShard& shard() const { return shard_; }
  virtual std::int64_t micro_batches_per_epoch() const = 0;
  virtual Batch batch(std::int64_t position) const = 0;  // the share of it; may be called from several threads
  virtual std::string samples_of(std::int64_t position) const = 0;  // for error messages
  virtual std::int64_t max_rows() const = 0;                        // of a share
  virtual std::int64_t length() const = 0;
  // Changes whenever the batches do; guards a resume. The same for all shards.
  virtual std::string fingerprint() const = 0;

 private:
  RowShard shard_;
};

// The order of the samples in an epoch: a permutation by Fisher and Yates, drawn from (seed, epoch).
std::vector<std::uint32_t> permutation(std::int64_t size, std::uint64_t seed, std::int64_t epoch);

// Samples of a dataset, in a new order each epoch. The last batch of an epoch may be short.
class TextBatches : public BatchSource {
 public:
  TextBatches(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const Tokenizer> tokenizer, const Recipe& recipe,
              const RowShard& shard = {});

  std::int64_t micro_batches_per_epoch() const override;
  Batch batch(std::int64_t position) const override;
  std::string samples_of(std::int64_t position) const override;
  std::int64_t max_rows() const override { return shard().most(std::min(batch_size_, dataset_->size())); }
  std::int64_t length() const override { return assembler_.max_seq_len(); }
  std::string fingerprint() const override;

  // The sample that row `row` of the dataset becomes in an epoch.
  Sample sample(std::int64_t row, std::int64_t epoch) const;

 private:
  std::vector<std::int64_t> rows_of(std::int64_t position) const;
  std::shared_ptr<const std::vector<std::uint32_t>> order_of(std::int64_t epoch) const;

  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  SampleAssembler assembler_;
  Stage stage_;
  std::int64_t batch_size_;
  std::uint64_t seed_;
  mutable std::mutex mutex_;
  // Of the two epochs that a queue of batches may touch.
  mutable std::vector<std::pair<std::int64_t, std::shared_ptr<const std::vector<std::uint32_t>>>> orders_;
};

// Ready-made batches from a file: input_ids and labels, i64 [N, batch, length]; position p takes batch p mod N.
class ReplayBatches : public BatchSource {
 public:
  // Throws std::runtime_error naming file and tensor for other shapes, ids outside of the vocabulary and labels that
  // are neither ids nor -100.
  ReplayBatches(const std::filesystem::path& path, std::int64_t vocab_size, const RowShard& shard = {});

  std::int64_t micro_batches_per_epoch() const override { return ids_.shape[0]; }
  Batch batch(std::int64_t position) const override;
  std::string samples_of(std::int64_t position) const override;
  std::int64_t max_rows() const override { return shard().most(ids_.shape[1]); }
  std::int64_t length() const override { return ids_.shape[2]; }
  std::string fingerprint() const override;

 private:
  SafetensorsFile file_;
  ConstView ids_, labels_;
};

}  // namespace omni
