#include "models/omni_targets.h"

#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "kernels/cross_entropy/cross_entropy.h"

namespace omni {
namespace {

constexpr double kStopWeight = 10;

Tensor floats(Tape& tape, const std::vector<float>& values, const Shape& shape, DType dtype) {
  return cast(tape, tape.upload(view_of(values.data(), shape)), dtype);
}

}  // namespace

OmniTargets::OmniTargets(const OmniConfig& config, const OmniBatch& batch, const UploadOptions& options)
    : config_(config),
      batch_(batch),
      options_(options),
      samples_(batch.input_ids.shape[0]),
      time_(batch.input_ids.shape[2]),
      columns_(time_),
      has_labels_(batch.text_labels),
      skip_(has_labels_ && options.padding == Padding::skip) {
  if (!has_labels_) return;
  std::int64_t text_columns = time_;
  if (skip_ && !config.thinker.use_moe) {
    std::int64_t last_text = 0, last = 0;  // columns up to the last label
    for (std::int64_t b = 0; b < samples_; ++b)
      for (std::int64_t t = 0; t < time_; ++t) {
        const bool has_text = label(batch.text_labels, b, t) != kIgnoreIndex;
        if (has_text) last_text = std::max(last_text, t + 1);
        if (has_text || is_spoken(b, t)) last = std::max(last, t + 1);
      }
    const auto rounded = [&](std::int64_t columns) {
      return std::min(std::max(round_up(columns, kColumnUnit), kColumnUnit), time_);
    };
    columns_ = rounded(last);
    text_columns = rounded(last_text);
    trims_upper_ = text_columns < columns_ && config.bridge_layer + 1 < config.thinker.num_hidden_layers;
    if (!trims_upper_) text_columns = columns_;
  }
  text_ = labelled(text_columns,
                   [&](std::int64_t b, std::int64_t t) { return label(batch.text_labels, b, t) != kIgnoreIndex; });
  audio_ = labelled(columns_, [&](std::int64_t b, std::int64_t t) { return is_spoken(b, t); });
}

bool OmniTargets::is_spoken(std::int64_t sample, std::int64_t column) const {
  for (std::int64_t q = 0; q < kCodebooks; ++q)
    if (label(batch_.audio_labels, sample * kCodebooks + q, column) != kIgnoreIndex) return true;
  return false;
}

template <class HasLabel>
OmniTargets::Rows OmniTargets::labelled(std::int64_t columns, const HasLabel& has_label) const {
  Rows rows{columns, samples_ * columns, {}};
  for (std::int64_t b = 0; b < samples_; ++b)
    for (std::int64_t t = 0; t < columns; ++t)
      if (!skip_ || has_label(b, t)) rows.source.push_back(b * columns + t);
  if (skip_)
    rows.count = std::clamp<std::int64_t>(round_up(static_cast<std::int64_t>(rows.source.size()), kRowUnit), 1,
                                          samples_ * columns);
  rows.source.resize(static_cast<std::size_t>(rows.count), -1);
  return rows;
}

std::int64_t OmniTargets::integers() const {
  if (!has_labels_) return 0;
  const std::int64_t maps = CodebookMapsInBlock::integers(audio_.count),
                     targets = text_.count + kCodebooks * audio_.count;
  const std::int64_t picked = text_.count + audio_.count + samples_ * (text_.columns + audio_.columns);
  const std::int64_t upper = samples_ * (text_.columns + columns_);
  return maps + targets + picked + upper;
}

std::int64_t OmniTargets::audio_label(std::int64_t codebook, std::int64_t position) const {
  return label(batch_.audio_labels, position / columns_ * kCodebooks + codebook, position % columns_);
}

void OmniTargets::take(IntegerBlock& block) {
  if (!has_labels_) return;
  maps_ = CodebookMapsInBlock(block, audio_.count);
  text_targets_ = block.take(text_.count);
  audio_targets_ = block.take(kCodebooks * audio_.count);
  for (std::int64_t i = 0; i < text_.count; ++i) {
    const std::int64_t at = text_.source[static_cast<std::size_t>(i)];
    text_targets_[i] = at < 0 ? kIgnoreIndex : label(batch_.text_labels, at / text_.columns, at % text_.columns);
  }
  for (std::int64_t q = 0; q < kCodebooks; ++q)
    for (std::int64_t i = 0; i < audio_.count; ++i) {
      const std::int64_t at = audio_.source[static_cast<std::size_t>(i)];
      audio_targets_[q * audio_.count + i] = at < 0 ? kIgnoreIndex : audio_label(q, at);
    }
  const auto pick = [&](const Rows& rows, std::int64_t*& source, std::int64_t*& inverse) {
    source = block.take(rows.count);
    inverse = block.take(samples_ * rows.columns);
    std::copy(rows.source.begin(), rows.source.end(), source);
    std::fill_n(inverse, samples_ * rows.columns, -1);
    for (std::int64_t i = 0; i < rows.count; ++i)
      if (source[i] >= 0) inverse[source[i]] = i;
  };
  if (!skip_) return;
  pick(text_, text_source_, text_inverse_);
  pick(audio_, audio_source_, audio_inverse_);
  if (!trims_upper_) return;
  Rows upper{columns_, samples_ * text_.columns, {}};
  for (std::int64_t b = 0; b < samples_; ++b)
    for (std::int64_t t = 0; t < text_.columns; ++t) upper.source.push_back(b * columns_ + t);
  pick(upper, upper_source_, upper_inverse_);
}

void OmniTargets::write(OmniInputs& out, const IntegerBlock& block, Tape& tape, DType dtype) const {
  if (!has_labels_) return;
  const std::int64_t codes = kCodebooks * audio_.count;
  out.head_maps = maps_.on_device(block);
  out.text_targets = block.on_device(text_targets_, {text_.count});
  out.audio_targets = block.on_device(audio_targets_, {codes});
  out.audio_weights = floats(tape, audio_weights(), {codes}, wide_of(dtype));
  if (options_.shares.text != 1)
    out.text_weights = floats(
        tape, std::vector<float>(static_cast<std::size_t>(text_.count), static_cast<float>(options_.shares.text)),
        {text_.count}, wide_of(dtype));
  if (options_.count_hits) out.hit_kinds = floats(tape, hit_kinds(), {3, text_.count + codes}, wide_of(dtype));
  if (!skip_) return;
  out.text_rows = {block.on_device(text_source_, {text_.count}),
                   block.on_device(text_inverse_, {samples_ * text_.columns})};
  out.audio_rows = {block.on_device(audio_source_, {audio_.count}),
                    block.on_device(audio_inverse_, {samples_ * columns_})};
  if (!trims_upper_) return;
  out.upper_time = text_.columns;
  out.upper = {block.on_device(upper_source_, {samples_ * text_.columns}),
               block.on_device(upper_inverse_, {samples_ * columns_})};
}

std::vector<float> OmniTargets::audio_weights() const {
  std::vector<float> weights;
  weights.reserve(static_cast<std::size_t>(kCodebooks * audio_.count));
  for (std::int64_t q = 0; q < kCodebooks; ++q)
    for (std::int64_t i = 0; i < audio_.count; ++i) {
      const bool stops = audio_targets_[q * audio_.count + i] == config_.audio_stop_token;
      weights.push_back(
          static_cast<float>((stops ? kStopWeight : 1) * options_.shares.audio[static_cast<std::size_t>(q)]));
    }
  return weights;
}

std::vector<float> OmniTargets::hit_kinds() const {
  const auto text = static_cast<std::size_t>(text_.count), codes = static_cast<std::size_t>(kCodebooks * audio_.count),
             all = text + codes;
  std::vector<float> kinds(3 * all, 0);
  std::fill_n(kinds.begin(), text, 1.f);
  std::fill_n(kinds.begin() + static_cast<std::ptrdiff_t>(all + text), codes, 1.f);
  for (std::size_t i = 0; i < codes; ++i)
    kinds[2 * all + text + i] = audio_targets_[i] == config_.audio_stop_token ? 1.f : 0.f;
  return kinds;
}

}  // namespace omni
