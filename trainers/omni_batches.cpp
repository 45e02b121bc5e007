#include "trainers/omni_batches.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/cross_entropy/cross_entropy.h"
#include "trainers/checksum.h"

namespace omni {
namespace {

// The positions of a row up to the last one that holds a token, a code or a label.
std::int64_t length_of(const OmniConfig& config, const OmniBatch& batch, std::int64_t row) {
  const std::int64_t time = batch.input_ids.shape[2];
  const std::int64_t* inputs = batch.input_ids.as<std::int64_t>() + row * (kCodebooks + 1) * time;
  const std::int64_t* text = batch.text_labels.as<std::int64_t>() + row * time;
  const std::int64_t* audio = batch.audio_labels.as<std::int64_t>() + row * kCodebooks * time;
  const auto is_padding = [&](std::int64_t t) {
    bool empty = inputs[kCodebooks * time + t] == 0 && text[t] == kIgnoreIndex;
    for (std::int64_t q = 0; q < kCodebooks; ++q)
      empty = empty && inputs[q * time + t] == config.audio_pad_token && audio[q * time + t] == kIgnoreIndex;
    return empty;
  };
  std::int64_t length = time;
  while (length > 0 && is_padding(length - 1)) --length;
  return length;
}

void count_content(Batch& batch, const OmniConfig& config) {
  const OmniBatch views = views_of(batch);
  for (std::int64_t row = 0; row < batch.rows; ++row) {
    const std::int64_t length = length_of(config, views, row);
    batch.tokens += length;
    batch.attention_pairs += length * (length + 1) / 2;
  }
  const LabelCounts counts = count_labels(views);
  batch.labelled[0] = counts.text;
  std::copy(counts.audio.begin(), counts.audio.end(), batch.labelled.begin() + 1);
  const std::int64_t* codes = views.audio_labels.as<std::int64_t>();
  batch.stop_labels = std::count(codes, codes + views.audio_labels.count(), config.audio_stop_token);
}

void copy_row(OwnedTensor& to, std::int64_t row, const std::vector<std::int64_t>& values) {
  std::copy(values.begin(), values.end(), to.as<std::int64_t>() + row * static_cast<std::int64_t>(values.size()));
}

// States of the rows of a batch as one tensor [batch, most rows, width], zeros behind each; absent if no row has any.
OwnedTensor padded_states(const std::vector<const OmniRow::States*>& states, std::int64_t width) {
  std::int64_t most = 0;
  for (const OmniRow::States* one : states) most = std::max(most, one == nullptr ? 0 : one->rows);
  if (most == 0) return {};
  OwnedTensor out(DType::f32, {static_cast<std::int64_t>(states.size()), most, width});
  std::fill_n(out.as<float>(), out.view().count(), 0.f);
  for (std::size_t i = 0; i < states.size(); ++i)
    if (states[i] != nullptr)
      std::copy(states[i]->values.begin(), states[i]->values.end(),
                out.as<float>() + static_cast<std::int64_t>(i) * most * width);
  return out;
}

OwnedTensor speakers_of(const std::vector<OmniRow>& rows, std::int64_t width) {
  if (std::all_of(rows.begin(), rows.end(), [](const OmniRow& row) { return row.speaker.empty(); })) return {};
  OwnedTensor out(DType::f32, {static_cast<std::int64_t>(rows.size()), width});
  std::fill_n(out.as<float>(), out.view().count(), 0.f);
  for (std::size_t i = 0; i < rows.size(); ++i)
    std::copy(rows[i].speaker.begin(), rows[i].speaker.end(), out.as<float>() + static_cast<std::int64_t>(i) * width);
  return out;
}

}  // namespace

OmniBatch views_of(const Batch& batch) {
  return {.input_ids = batch.input_ids,
          .text_labels = batch.labels,
          .audio_labels = batch.audio_labels,
          .audio_states = batch.audio_states,
          .audio_lens = batch.audio_lens,
          .image_states = batch.image_states,
          .spk_emb = batch.speakers};
}

OmniRowLimits limits_of(const OmniConfig& config) {
  return {.codes = config.first_reserved_code(),
          .speaker = config.spk_emb_size,
          .audio_width = config.audio_hidden_size,
          .image_rows = config.image_token_len,
          .image_width = config.image_hidden_size};
}

ShardBatches::ShardBatches(std::shared_ptr<const ShardSet> shards, std::shared_ptr<const Tokenizer> tokenizer,
                           const OmniConfig& config, const TalkerRecipe& recipe, const RowShard& shard)
    : BatchSource(shard),
      shards_(std::move(shards)),
      tokenizer_(std::move(tokenizer)),
      assembler_(*tokenizer_, config, recipe.max_seq_len),
      seed_(recipe.seed),
      scheduled_sampling_(recipe.scheduled_sampling),
      order_(shards_->size(), recipe.batch_size, recipe.seed) {}

Philox ShardBatches::random_of(std::int64_t number, std::int64_t epoch) const {
  return {seed_, RandomStream::augmentation, static_cast<std::uint64_t>(epoch * shards_->size() + number)};
}

OmniDecisions ShardBatches::decisions(const OmniRow& row, std::int64_t number, std::int64_t epoch) const {
  Philox random = random_of(number, epoch);
  return draw_omni_decisions(random, row);
}

OmniSample ShardBatches::sample(const OmniRow& row, std::int64_t number, std::int64_t epoch) const {
  Philox random = random_of(number, epoch);
  OmniSample sample = assembler_.assemble(row, draw_omni_decisions(random, row));
  if (scheduled_sampling_ > 0)
    assembler_.apply(sample, draw_scheduled_sampling(random, assembler_.config(), sample.time), scheduled_sampling_);
  return sample;
}

Batch ShardBatches::batch(std::int64_t position) const {
  const OmniConfig& config = assembler_.config();
  const std::vector<std::int64_t> numbers = order_.rows_of(position, shard());
  const auto count = static_cast<std::int64_t>(numbers.size());
  std::vector<OmniRow> rows;
  rows.reserve(numbers.size());
  for (const std::int64_t number : numbers) rows.push_back(shards_->read(number));
  Batch batch;
  batch.position = position;
  batch.rows = count;
  batch.input_ids = OwnedTensor(DType::i64, {count, kCodebooks + 1, length()});
  batch.labels = OwnedTensor(DType::i64, {count, length()});
  batch.audio_labels = OwnedTensor(DType::i64, {count, kCodebooks, length()});
  batch.audio_lens = OwnedTensor(DType::i64, {count});
  std::vector<const OmniRow::States*> questions, images;
  for (std::int64_t i = 0; i < count; ++i) {
    const OmniRow& row = rows[static_cast<std::size_t>(i)];
    const OmniSample one = sample(row, numbers[static_cast<std::size_t>(i)], position / micro_batches_per_epoch());
    copy_row(batch.input_ids, i, one.input_ids);
    copy_row(batch.labels, i, one.text_labels);
    copy_row(batch.audio_labels, i, one.audio_labels);
    questions.push_back(one.question < 0 ? nullptr : &row.questions[static_cast<std::size_t>(one.question)]);
    images.push_back(row.image.rows > 0 ? &row.image : nullptr);
    batch.audio_lens.as<std::int64_t>()[i] = questions.back() == nullptr ? 0 : questions.back()->rows;
    batch.truncated += one.truncated || one.unanswered;
  }
  batch.audio_states = padded_states(questions, config.audio_hidden_size);
  if (!batch.audio_states.view()) batch.audio_lens = {};
  batch.image_states = padded_states(images, config.image_hidden_size);
  batch.speakers = speakers_of(rows, config.spk_emb_size);
  count_content(batch, config);
  return batch;
}

std::string ShardBatches::samples_of(std::int64_t position) const {
  return places_of(order_.rows_of(position, shard()), [&](std::int64_t row) { return shards_->place(row); });
}

std::string ShardBatches::fingerprint() const {
  return std::to_string(shards_->size()) + " samples, checksum " + hex(shards_->fingerprint()) + ", vocabulary " +
         hex(fingerprint_of(*tokenizer_));
}

OmniReplay::OmniReplay(const std::filesystem::path& path, const OmniConfig& config, const RowShard& shard)
    : BatchSource(shard), file_(path), config_(config) {
  const ConstView ids = file_.at("input_ids");
  if (ids.dtype != DType::i64 || ids.shape.rank() != 4 || ids.count() == 0)
    throw std::runtime_error(path.string() + ": input_ids: expected i64 [N, batch, 9, time], found " +
                             Check::text(ids));
  for (std::int64_t i = 0; i < ids.shape[0]; ++i) try {
      check_batch(config, read_omni_batch(file_, i), true);
    } catch (const std::invalid_argument& error) {
      throw std::runtime_error(path.string() + ": batch " + std::to_string(i) + ": " + error.what());
    }
}

Batch OmniReplay::batch(std::int64_t position) const {
  const OmniBatch all = read_omni_batch(file_, position % micro_batches_per_epoch());
  const std::int64_t rows = all.input_ids.shape[0], first = shard().first(rows), end = shard().end(rows);
  Batch batch;
  batch.position = position;
  batch.rows = end - first;
  if (batch.rows == 0) return batch;
  const OmniBatch part = rows_of(all, first, end);
  batch.input_ids = copy_of(part.input_ids);
  batch.labels = copy_of(part.text_labels);
  batch.audio_labels = copy_of(part.audio_labels);
  batch.audio_states = copy_of(part.audio_states);
  batch.audio_lens = copy_of(part.audio_lens);
  batch.image_states = copy_of(part.image_states);
  batch.speakers = copy_of(part.spk_emb);
  count_content(batch, config_);
  return batch;
}

std::string OmniReplay::samples_of(std::int64_t position) const {
  return file_.path() + ": batch " + std::to_string(position % micro_batches_per_epoch());
}

std::string OmniReplay::fingerprint() const {
  std::uint64_t sum = 0;
  for (const char* name :
       {"input_ids", "text_labels", "audio_labels", "audio_states", "audio_lens", "image_states", "spk_emb"})
    if (file_.contains(name)) {
      const ConstView view = file_.at(name);
      sum = sum * 31 +
            checksum(std::span(static_cast<const std::byte*>(view.data), static_cast<std::size_t>(view.bytes())));
    }
  return "replay " + file_.at("input_ids").shape.text() + ", checksum " + hex(sum);
}

}  // namespace omni
