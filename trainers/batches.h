#pragma once
// Micro-batches: from the position in a run to ids and labels. A batch depends on nothing but its position (and the
// recipe), so any thread may make it, and a resumed run needs only the number of the step it stopped at.

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "engine/memory.h"
#include "engine/safetensors.h"
#include "models/config.h"
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

// Text, and each codebook.
inline constexpr std::size_t kLabelKinds = 9;

struct Batch {
  std::int64_t position = 0;
  OwnedTensor input_ids, labels;  // i64 [batch, length], aligned; omni: [batch, 9, time] and [batch, time], shifted
  // Omni stages only (models/omni_inputs.h); what no row has is absent.
  OwnedTensor audio_labels, audio_states, audio_lens, image_states, speakers;
  std::int64_t rows = 0;
  std::int64_t tokens = 0;                           // without the padding at the ends of rows
  std::array<std::int64_t, kLabelKinds> labelled{};  // predictions that the loss counts: labels other than -100
  std::int64_t stop_labels = 0;                      // of them stop codes
  std::int64_t attention_pairs = 0;  // sum over rows of n * (n + 1) / 2 for n tokens: what causal attention looks at
  std::int64_t truncated = 0;        // samples that did not fit

  std::int64_t predictions() const { return std::accumulate(labelled.begin(), labelled.end(), std::int64_t{0}); }
};

// Counts tokens, labelled and attention_pairs of a batch of texts from its content.
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

// Rows of a dataset in batches, in a new order each epoch. The last batch of an epoch may be short.
class EpochOrder {
 public:
  EpochOrder(std::int64_t size, std::int64_t batch_size, std::uint64_t seed);

  std::int64_t size() const { return size_; }
  std::int64_t batches() const { return (size_ - 1) / batch_size_ + 1; }  // of an epoch
  std::int64_t max_rows(const RowShard& shard) const { return shard.most(std::min(batch_size_, size_)); }
  // The share of a batch; may be called from several threads.
  std::vector<std::int64_t> rows_of(std::int64_t position, const RowShard& shard) const;

 private:
  std::shared_ptr<const std::vector<std::uint32_t>> order_of(std::int64_t epoch) const;

  std::int64_t size_, batch_size_;
  std::uint64_t seed_;
  mutable std::mutex mutex_;
  // Of the two epochs that a queue of batches may touch.
  mutable std::vector<std::pair<std::int64_t, std::shared_ptr<const std::vector<std::uint32_t>>>> orders_;
};

// The places of the first few rows of a batch, for messages.
template <class Place>
std::string places_of(const std::vector<std::int64_t>& rows, const Place& place) {
  constexpr std::size_t kShown = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(rows.size(), kShown); ++i) text += (i == 0 ? "" : ", ") + place(rows[i]);
  if (rows.size() > kShown) text += " and " + std::to_string(rows.size() - kShown) + " more";
  return text;
}

// A tokenizer whose tokens a model of this vocabulary has. Throws std::runtime_error naming both numbers.
Tokenizer load_tokenizer(const std::filesystem::path& directory, std::int64_t vocab_size);
// Throws std::runtime_error if samples of `length` positions are too long for the model.
void check_length(const Recipe& recipe, std::int64_t length, const ThinkerConfig& config);

// The tokens of a tokenizer as one number: another tokenizer makes other batches of the same texts.
std::uint64_t fingerprint_of(const Tokenizer& tokenizer);

class TextBatches : public BatchSource {
 public:
  TextBatches(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const Tokenizer> tokenizer, const Recipe& recipe,
              const RowShard& shard = {});

  std::int64_t micro_batches_per_epoch() const override { return order_.batches(); }
  Batch batch(std::int64_t position) const override;
  std::string samples_of(std::int64_t position) const override;
  std::int64_t max_rows() const override { return order_.max_rows(shard()); }
  std::int64_t length() const override { return assembler_.max_seq_len(); }
  std::string fingerprint() const override;

  // The sample that row `row` of the dataset becomes in an epoch.
  Sample sample(std::int64_t row, std::int64_t epoch) const;

 private:
  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  SampleAssembler assembler_;
  Stage stage_;
  std::uint64_t seed_;
  EpochOrder order_;
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
