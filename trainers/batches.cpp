#include "trainers/batches.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "kernels/cross_entropy/cross_entropy.h"
#include "trainers/checksum.h"

namespace omni {

void count_tokens(Batch& batch, std::int64_t pad_id) {
  const View ids = batch.input_ids, labels = batch.labels;
  const std::int64_t length = ids.shape[1];
  batch.rows = ids.shape[0];
  for (std::int64_t row = 0; row < ids.shape[0]; ++row) {
    const std::int64_t* id = ids.as<std::int64_t>() + row * length;
    const std::int64_t* label = labels.as<std::int64_t>() + row * length;
    std::int64_t end = length;
    while (end > 0 && id[end - 1] == pad_id && label[end - 1] == kIgnoreIndex) --end;
    batch.tokens += end;
    batch.attention_pairs += end * (end + 1) / 2;
    for (std::int64_t t = 1; t < length; ++t) batch.labelled[0] += label[t] != kIgnoreIndex;
  }
}

std::vector<std::uint32_t> permutation(std::int64_t size, std::uint64_t seed, std::int64_t epoch) {
  std::vector<std::uint32_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), 0u);
  Philox random(seed, RandomStream::data_order, static_cast<std::uint64_t>(epoch));
  for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[random.below(left)]);
  return order;
}

TextBatches::TextBatches(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const Tokenizer> tokenizer,
                         const Recipe& recipe, const RowShard& shard)
    : BatchSource(shard),
      dataset_(std::move(dataset)),
      tokenizer_(std::move(tokenizer)),
      assembler_(*tokenizer_, recipe.max_seq_len),
      stage_(recipe.stage),
      seed_(recipe.seed),
      order_(dataset_->size(), recipe.batch_size, recipe.seed) {}

EpochOrder::EpochOrder(std::int64_t size, std::int64_t batch_size, std::uint64_t seed)
    : size_(size), batch_size_(batch_size), seed_(seed) {
  if (size_ > UINT32_MAX) throw std::runtime_error("more than 4 billion samples");
}

std::shared_ptr<const std::vector<std::uint32_t>> EpochOrder::order_of(std::int64_t epoch) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [number, order] : orders_)
    if (number == epoch) return order;
  if (orders_.size() == 2) orders_.erase(orders_.begin());
  orders_.emplace_back(epoch, std::make_shared<const std::vector<std::uint32_t>>(permutation(size_, seed_, epoch)));
  return orders_.back().second;
}

std::vector<std::int64_t> EpochOrder::rows_of(std::int64_t position, const RowShard& shard) const {
  const auto order = order_of(position / batches());
  const std::int64_t first = position % batches() * batch_size_;
  const std::int64_t rows = std::min(batch_size_, size_ - first);
  return {order->begin() + first + shard.first(rows), order->begin() + first + shard.end(rows)};
}

Sample TextBatches::sample(std::int64_t row, std::int64_t epoch) const try {
  const std::string line = dataset_->line(row);
  if (stage_ == Stage::pretrain) return assembler_.pretrain(parse_pretrain(line));
  const Conversation conversation = parse_conversation(line);
  Philox random(seed_, RandomStream::augmentation, static_cast<std::uint64_t>(epoch * dataset_->size() + row));
  return assembler_.sft(conversation, draw_decisions(random));
} catch (const BadSample& error) {
  throw std::runtime_error(dataset_->place(row) + ": the file has changed while it was in use: " + error.what());
}

Batch TextBatches::batch(std::int64_t position) const {
  const std::vector<std::int64_t> rows = order_.rows_of(position, shard());
  const std::int64_t length = assembler_.max_seq_len();
  Batch batch;
  batch.position = position;
  batch.input_ids = OwnedTensor(DType::i64, {static_cast<std::int64_t>(rows.size()), length});
  batch.labels = OwnedTensor(DType::i64, {static_cast<std::int64_t>(rows.size()), length});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Sample one = sample(rows[i], position / micro_batches_per_epoch());
    const std::int64_t offset = static_cast<std::int64_t>(i) * length;
    std::copy(one.ids.begin(), one.ids.end(), batch.input_ids.as<std::int64_t>() + offset);
    std::copy(one.labels.begin(), one.labels.end(), batch.labels.as<std::int64_t>() + offset);
    batch.truncated += one.truncated;
  }
  count_tokens(batch, tokenizer_->pad_id());
  return batch;
}

std::string TextBatches::samples_of(std::int64_t position) const {
  return places_of(order_.rows_of(position, shard()), [&](std::int64_t row) { return dataset_->place(row); });
}

Tokenizer load_tokenizer(const std::filesystem::path& directory, std::int64_t vocab_size) {
  Tokenizer tokenizer = Tokenizer::load(directory);
  if (tokenizer.vocab_size() > vocab_size)
    throw std::runtime_error(directory.string() + ": the tokenizer has " + std::to_string(tokenizer.vocab_size()) +
                             " tokens, more than the model's vocab_size " + std::to_string(vocab_size));
  return tokenizer;
}

void check_length(const Recipe& recipe, std::int64_t length, const ThinkerConfig& config) {
  if (length > config.max_position_embeddings)
    throw std::runtime_error(recipe.name + ": samples of " + std::to_string(length) +
                             " tokens, more than the model's max_position_embeddings " +
                             std::to_string(config.max_position_embeddings));
}

std::uint64_t fingerprint_of(const Tokenizer& tokenizer) {
  std::uint64_t tokens = 0;
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    std::string_view bytes;
    try {
      bytes = tokenizer.token_bytes(id);
    } catch (const std::runtime_error&) {  // an id between others that no token has
    }
    tokens = tokens * 31 + checksum(bytes);
  }
  return tokens;
}

std::string TextBatches::fingerprint() const {
  return std::to_string(dataset_->size()) + " samples, checksum " + hex(dataset_->fingerprint()) + ", vocabulary " +
         hex(fingerprint_of(*tokenizer_));
}

ReplayBatches::ReplayBatches(const std::filesystem::path& path, std::int64_t vocab_size, const RowShard& shard)
    : BatchSource(shard), file_(path) {
  ids_ = file_.at("input_ids");
  labels_ = file_.at("labels");
  for (const auto& [name, view] : {std::pair("input_ids", ids_), std::pair("labels", labels_)}) {
    const std::string where = path.string() + ": " + name + ": ";
    if (view.dtype != DType::i64 || view.shape.rank() != 3 || view.count() == 0)
      throw std::runtime_error(where + "expected i64 [N, batch, length], found " + omni::name_of(view.dtype) + " " +
                               view.shape.text());
    if (view.shape != ids_.shape)
      throw std::runtime_error(where + "expected " + ids_.shape.text() + " as input_ids, found " + view.shape.text());
    for (std::int64_t i = 0; i < view.count(); ++i) {
      const std::int64_t value = view.as<std::int64_t>()[i];
      if ((value >= 0 && value < vocab_size) || (view.data == labels_.data && value == kIgnoreIndex)) continue;
      throw std::runtime_error(where + "element " + std::to_string(i) +
                               ": expected a token id below the vocabulary size " + std::to_string(vocab_size) +
                               ", found " + std::to_string(value));
    }
  }
}

Batch ReplayBatches::batch(std::int64_t position) const {
  const std::int64_t all = ids_.shape[1], first = shard().first(all), rows = shard().end(all) - first;
  const std::int64_t offset = (position % micro_batches_per_epoch() * all + first) * length(), count = rows * length();
  Batch batch;
  batch.position = position;
  batch.input_ids = OwnedTensor(DType::i64, {rows, length()});
  batch.labels = OwnedTensor(DType::i64, {rows, length()});
  std::copy_n(ids_.as<std::int64_t>() + offset, count, batch.input_ids.as<std::int64_t>());
  std::copy_n(labels_.as<std::int64_t>() + offset, count, batch.labels.as<std::int64_t>());
  count_tokens(batch, 0);
  return batch;
}

std::string ReplayBatches::samples_of(std::int64_t position) const {
  return file_.path() + ": batch " + std::to_string(position % micro_batches_per_epoch());
}

std::string ReplayBatches::fingerprint() const {
  const auto bytes = [](const ConstView& view) {
    return std::span(static_cast<const std::byte*>(view.data), static_cast<std::size_t>(view.bytes()));
  };
  return "replay " + ids_.shape.text() + ", checksum " + hex(checksum(bytes(ids_)) * 31 + checksum(bytes(labels_)));
}

}  // namespace omni
