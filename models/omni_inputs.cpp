#include "models/omni_inputs.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "autograd/ops/elementwise.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "models/omni_targets.h"

namespace omni {
namespace {

void require(bool holds, const char* name, const std::string& expected, const ConstView& found) {
  if (!holds)
    throw std::invalid_argument(std::string("omni: ") + name + ": expected " + expected + ", found " +
                                Check::text(found));
}

// Every id is one of `classes`, or is a label that does not count.
void check_ids(const char* name, const ConstView& ids, std::int64_t classes, bool labels) {
  for (std::int64_t i = 0; ids && i < ids.count(); ++i) {
    const std::int64_t id = ids.as<std::int64_t>()[i];
    if ((id >= 0 && id < classes) || (labels && id == kIgnoreIndex)) continue;
    throw std::invalid_argument(std::string("omni: ") + name + ": element " + std::to_string(i) + ": expected 0 .. " +
                                std::to_string(classes - 1) + (labels ? " or -100" : "") + ", found " +
                                std::to_string(id));
  }
}

// source[r] of the first run of `placeholder` in each row of text: the states of that sample, as many as there are.
template <class Available>
void fill_source(std::int64_t* source, const std::int64_t* text, std::int64_t batch, std::int64_t time,
                 std::int64_t placeholder, std::int64_t state_rows, const Available& available) {
  std::fill_n(source, batch * time, -1);
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t* ids = text + b * time;
    const std::int64_t begin = std::find(ids, ids + time, placeholder) - ids;
    for (std::int64_t k = 0; k < available(b) && begin + k < time && ids[begin + k] == placeholder; ++k)
      source[b * time + begin + k] = b * state_rows + k;
  }
}

// Host values of a batch, one after the other.
class Builder {
 public:
  Builder(const OmniConfig& config, const OmniBatch& batch, const UploadOptions& options)
      : config_(config),
        batch_(batch),
        samples_(batch.input_ids.shape[0]),
        all_columns_(batch.input_ids.shape[2]),
        targets_(config, batch, options),
        time_(targets_.columns()),
        rows_(samples_ * time_),
        block_(rows_ * (4 + 2 * kCodebooks) + CodebookMapsInBlock::integers(rows_) + targets_.integers()) {}

  OmniInputs build(Tape& tape, DType dtype) {
    const std::int64_t* text = take_text();
    const auto [codes, in_tables, speaker_source] = take_codes();
    const CodebookMapsInBlock maps(block_, rows_);
    const std::int64_t* audio_source = take_source(text, config_.audio_placeholder_id, batch_.audio_states, true);
    const std::int64_t* image_source = take_source(text, config_.image_placeholder_id, batch_.image_states, false);
    targets_.take(block_);
    block_.upload(tape);

    OmniInputs out;
    out.batch = samples_;
    out.time = time_;
    out.text_ids = block_.on_device(text, {samples_, time_});
    out.codes = block_.on_device(codes, {rows_ * kCodebooks});
    out.codes_in_tables = block_.on_device(in_tables, {kCodebooks * rows_});
    out.maps = maps.on_device(block_);
    out.audio_source = block_.on_device(audio_source, {rows_});
    out.image_source = block_.on_device(image_source, {rows_});
    out.speaker_source = block_.on_device(speaker_source, {rows_});
    targets_.write(out, block_, tape, dtype);
    out.audio_states = states(tape, batch_.audio_states, dtype);
    out.image_states = states(tape, batch_.image_states, dtype);
    out.speaker = states(tape, batch_.spk_emb, dtype);
    return out;
  }

 private:
  const std::int64_t* ids_of(std::int64_t b, std::int64_t row) const {
    return batch_.input_ids.as<std::int64_t>() + (b * (kCodebooks + 1) + row) * all_columns_;
  }

  std::int64_t* take_text() {
    std::int64_t* text = block_.take(rows_);
    for (std::int64_t b = 0; b < samples_; ++b) std::copy_n(ids_of(b, kCodebooks), time_, text + b * time_);
    return text;
  }

  struct Codes {
    std::int64_t *codes, *in_tables, *speaker_source;
  };
  Codes take_codes() {
    const Codes out{block_.take(rows_ * kCodebooks), block_.take(kCodebooks * rows_), block_.take(rows_)};
    for (std::int64_t b = 0; b < samples_; ++b)
      for (std::int64_t t = 0; t < time_; ++t) {
        const std::int64_t r = b * time_ + t;
        for (std::int64_t c = 0; c < kCodebooks; ++c) {
          const std::int64_t code = ids_of(b, c)[t];
          if (code < 0 || code >= config_.audio_vocab_size)
            throw std::invalid_argument("omni: input_ids: code " + std::to_string(code) + " of codebook " +
                                        std::to_string(c) + " at position " + std::to_string(t) + ", expected 0 .. " +
                                        std::to_string(config_.audio_vocab_size - 1));
          out.codes[r * kCodebooks + c] = code;
          out.in_tables[c * rows_ + r] = code + c * config_.audio_vocab_size;
        }
        out.speaker_source[r] = ids_of(b, 0)[t] == config_.audio_spk_token ? b : -1;
      }
    return out;
  }

  std::int64_t* take_source(const std::int64_t* text, std::int64_t placeholder, const ConstView& states,
                            bool has_lengths) {
    std::int64_t* source = block_.take(rows_);
    const std::int64_t state_rows = states ? states.shape[1] : 0;
    fill_source(source, text, samples_, time_, placeholder, state_rows, [&](std::int64_t b) {
      if (!has_lengths || !states) return state_rows;
      const std::int64_t length = batch_.audio_lens.as<std::int64_t>()[b];
      return length <= 0 ? std::int64_t{0} : std::min(length, state_rows);
    });
    return source;
  }

  // [batch, rows, width] as [batch * rows, width] in the dtype of the activations.
  static Tensor states(Tape& tape, const ConstView& host, DType dtype) {
    if (!host) return {};
    ConstView rows = host;
    rows.shape = {host.rows(), host.width()};
    const Tensor uploaded = tape.upload(rows);
    return dtype == uploaded.dtype ? uploaded : cast(tape, uploaded, dtype);
  }

  const OmniConfig& config_;
  const OmniBatch& batch_;
  std::int64_t samples_, all_columns_;
  OmniTargets targets_;
  std::int64_t time_, rows_;
  IntegerBlock block_;
};

}  // namespace

OmniBatch read_omni_batch(const SafetensorsFile& file, std::optional<std::int64_t> index) {
  const auto tensor = [&](const char* name) -> ConstView {
    if (!file.contains(name)) return {};
    const ConstView all = file.at(name);
    if (!index) return all;
    if (all.shape.rank() == 0 || *index < 0 || *index >= all.shape[0])
      throw std::runtime_error(file.path() + ": " + name + ": expected more than " + std::to_string(*index) +
                               " batches, found " + Check::text(all));
    std::vector<std::int64_t> sizes;
    for (int i = 1; i < all.shape.rank(); ++i) sizes.push_back(all.shape[i]);
    const Shape shape{std::span<const std::int64_t>(sizes)};
    return slice(all, *index * shape.count(), shape);
  };
  return {.input_ids = tensor("input_ids"),
          .text_labels = tensor("text_labels"),
          .audio_labels = tensor("audio_labels"),
          .audio_states = tensor("audio_states"),
          .audio_lens = tensor("audio_lens"),
          .image_states = tensor("image_states"),
          .spk_emb = tensor("spk_emb")};
}

void check_batch(const OmniConfig& config, const OmniBatch& batch, bool content) {
  const Shape& ids = batch.input_ids.shape;
  require(batch.input_ids && batch.input_ids.dtype == DType::i64 && ids.rank() == 3 && ids[1] == kCodebooks + 1,
          "input_ids", "i64 [batch, 9, time]", batch.input_ids);
  const auto optional = [&](const char* name, const ConstView& view, DType dtype, const Shape& shape) {
    if (view) require(view.dtype == dtype && view.shape == shape, name, name_of(dtype) + (" " + shape.text()), view);
  };
  optional("text_labels", batch.text_labels, DType::i64, {ids[0], ids[2]});
  optional("audio_labels", batch.audio_labels, DType::i64, {ids[0], kCodebooks, ids[2]});
  optional("spk_emb", batch.spk_emb, DType::f32, {ids[0], config.spk_emb_size});
  const auto states = [&](const char* name, const ConstView& view, std::int64_t width) {
    if (view)
      require(view.dtype == DType::f32 && view.shape.rank() == 3 && view.shape[0] == ids[0] && view.shape[2] == width,
              name, "f32 [batch, rows, " + std::to_string(width) + "]", view);
  };
  states("audio_states", batch.audio_states, config.audio_hidden_size);
  states("image_states", batch.image_states, config.image_hidden_size);
  if (batch.audio_states)
    require(batch.audio_lens && batch.audio_lens.dtype == DType::i64 && batch.audio_lens.shape == Shape{ids[0]},
            "audio_lens", "i64 [batch]", batch.audio_lens);
  require(static_cast<bool>(batch.text_labels) == static_cast<bool>(batch.audio_labels), "audio_labels",
          "labels of both kinds or none", batch.audio_labels);
  if (!content) return;
  const std::int64_t time = ids[2];
  for (std::int64_t b = 0; b < ids[0]; ++b) {
    check_ids("input_ids", slice(batch.input_ids, b * (kCodebooks + 1) * time, {kCodebooks * time}),
              config.audio_vocab_size, false);
    check_ids("input_ids", slice(batch.input_ids, (b * (kCodebooks + 1) + kCodebooks) * time, {time}),
              config.thinker.vocab_size, false);
  }
  check_ids("text_labels", batch.text_labels, config.thinker.vocab_size, true);
  check_ids("audio_labels", batch.audio_labels, config.audio_vocab_size, true);
}

OmniBatch rows_of(const OmniBatch& batch, std::int64_t first, std::int64_t end) {
  const auto part = [&](const ConstView& all) -> ConstView {
    if (!all) return {};
    std::array<std::int64_t, 4> sizes{end - first};
    for (int i = 1; i < all.shape.rank(); ++i) sizes[static_cast<std::size_t>(i)] = all.shape[i];
    const Shape shape{std::span<const std::int64_t>(sizes).first(static_cast<std::size_t>(all.shape.rank()))};
    return slice(all, first * (all.count() / all.shape[0]), shape);
  };
  OmniBatch out{.input_ids = part(batch.input_ids),
                .text_labels = part(batch.text_labels),
                .audio_labels = part(batch.audio_labels),
                .audio_states = part(batch.audio_states),
                .audio_lens = part(batch.audio_lens),
                .image_states = part(batch.image_states),
                .spk_emb = part(batch.spk_emb)};
  const std::int64_t* lengths = out.audio_lens.as<std::int64_t>();
  if (out.audio_states && std::all_of(lengths, lengths + (end - first), [](std::int64_t n) { return n <= 0; }))
    out.audio_states = out.audio_lens = {};
  return out;
}

LabelCounts count_labels(const OmniBatch& batch) {
  const std::int64_t samples = batch.input_ids.shape[0], time = batch.input_ids.shape[2];
  const auto labels = [&](const ConstView& all, std::int64_t row) {
    const std::int64_t* begin = all.as<std::int64_t>() + row * time;
    return std::count_if(begin, begin + time, [](std::int64_t label) { return label != kIgnoreIndex; });
  };
  LabelCounts out;
  for (std::int64_t b = 0; b < samples; ++b) {
    out.text += labels(batch.text_labels, b);
    for (std::int64_t q = 0; q < kCodebooks; ++q)
      out.audio[static_cast<std::size_t>(q)] += labels(batch.audio_labels, b * kCodebooks + q);
  }
  return out;
}

void write_codebook_maps(std::int64_t rows, std::int64_t* starts, std::int64_t* by_codebook,
                         std::int64_t* by_position) {
  for (std::int64_t c = 0; c <= kCodebooks; ++c) starts[c] = c * rows;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < kCodebooks; ++c) {
      by_codebook[c * rows + r] = r * kCodebooks + c;
      by_position[r * kCodebooks + c] = c * rows + r;
    }
}

CodebookMapsInBlock::CodebookMapsInBlock(IntegerBlock& block, std::int64_t rows)
    : rows_(rows),
      starts_(block.take(kCodebooks + 1)),
      by_codebook_(block.take(kCodebooks * rows)),
      by_position_(block.take(kCodebooks * rows)) {
  write_codebook_maps(rows, starts_, by_codebook_, by_position_);
}

CodebookMaps CodebookMapsInBlock::on_device(const IntegerBlock& block) const {
  return {block.on_device(starts_, {kCodebooks + 1}), block.on_device(by_codebook_, {kCodebooks * rows_}),
          block.on_device(by_position_, {kCodebooks * rows_})};
}

OmniInputs upload_inputs(Tape& tape, const OmniConfig& config, const OmniBatch& batch, DType dtype,
                         const UploadOptions& options) {
  check_batch(config, batch);
  return Builder(config, batch, options).build(tape, dtype);
}

}  // namespace omni
