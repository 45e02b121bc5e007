#include "models/speech_sampler.h"

#include <algorithm>

#include "kernels/sampling/sampling.h"

namespace omni {
namespace {

// The original's constants for codes.
constexpr double kTemperature = 0.2, kPenalty = 1.05;
constexpr std::int64_t kTopK = 50;
constexpr double kEpsilon = 1e-9;  // added to the temperature of the text

bool draws_text_alike(const SpeechSettings& a, const SpeechSettings& b) {
  return a.greedy == b.greedy && a.temperature == b.temperature && a.top_p == b.top_p &&
         a.repetition_penalty == b.repetition_penalty;
}

}  // namespace

SpeechSampler::SpeechSampler(Device& device, const OmniConfig& config, std::int64_t rows)
    : device_(device),
      rows_(rows),
      vocab_(config.thinker.vocab_size),
      tokens_(DType::i64, {(kCodebooks + 1) * rows}, device.place()),
      uniforms_(DType::f64, {(kCodebooks + 1) * rows}, device.place()),
      recent_(DType::i64, {kCodebooks * rows, SpeechStream::kRecent}, device.place()),
      seen_(DType::u8, {rows, vocab_}, device.place()),
      tokens_on_host_(static_cast<std::size_t>((kCodebooks + 1) * rows)),
      recent_on_host_(static_cast<std::size_t>(kCodebooks * rows * SpeechStream::kRecent)),
      uniforms_on_host_(tokens_on_host_.size()),
      seen_on_host_(static_cast<std::size_t>(rows * vocab_)) {}

void SpeechSampler::forget_seen(std::int64_t row) {
  std::fill_n(seen_on_host_.begin() + row * vocab_, vocab_, std::uint8_t{0});
}

void SpeechSampler::upload(std::span<const Row> rows) {
  // The number 0 draws the most probable token.
  std::fill(uniforms_on_host_.begin(), uniforms_on_host_.end(), 0.0);
  std::fill(recent_on_host_.begin(), recent_on_host_.end(), -1);
  for (std::int64_t row = 0; row < rows_; ++row) {
    const auto& [settings, stream, random] = rows[static_cast<std::size_t>(row)];
    if (!settings) continue;
    const auto uniform = [&] { return settings->greedy ? 0.0 : random->uniform(); };
    uniforms_on_host_[static_cast<std::size_t>(kCodebooks * rows_ + row)] = uniform();
    for (std::int64_t q = 0; q < stream->drawing(); ++q) {
      const std::int64_t place = q * rows_ + row;
      uniforms_on_host_[static_cast<std::size_t>(place)] = uniform();
      const auto recent = stream->recent(q);
      std::copy(recent.begin(), recent.end(), recent_on_host_.begin() + place * SpeechStream::kRecent);
    }
  }
  device_.copy(uniforms_, view_of(uniforms_on_host_.data(), uniforms_.view().shape));
  device_.copy(recent_, view_of(recent_on_host_.data(), recent_.view().shape));
}

// Rows first .. first + count - 1, in which nobody waits for text drawn otherwise.
void SpeechSampler::draw_text(const View& logits, std::int64_t first, std::int64_t count,
                              const SpeechSettings& settings) {
  const std::int64_t place = kCodebooks * rows_ + first;
  SampleToken op{.token = slice(tokens_.view(), place, {count}),
                 .logits = slice(logits, first * vocab_, {count, vocab_}),
                 .uniform = slice(uniforms_.view(), place, {count}),
                 .temperature = settings.temperature + kEpsilon,
                 .repetition_penalty = settings.repetition_penalty,
                 .top_p = settings.top_p > 0 ? settings.top_p : 1,
                 .greedy = settings.greedy};
  if (settings.repetition_penalty != 1) {
    const View seen = slice(seen_.view(), first * vocab_, {count, vocab_});
    device_.copy(seen, view_of(seen_on_host_.data() + first * vocab_, seen.shape));
    op.seen = seen;
  }
  device_.run(op);
}

void SpeechSampler::draw(const OmniSequences::Logits& logits, std::span<const Row> rows, std::span<Draw> draws) {
  upload(rows);
  // As many rows in one launch as are drawn alike; most often that is all of them.
  const auto waits = [&](std::int64_t row) {
    const Row& each = rows[static_cast<std::size_t>(row)];
    return each.settings != nullptr && !each.stream->text_finished();
  };
  const auto settings_of = [&](std::int64_t row) -> const SpeechSettings& {
    return *rows[static_cast<std::size_t>(row)].settings;
  };
  for (std::int64_t row = 0; row < rows_;) {
    const std::int64_t first = row++;
    if (!waits(first)) continue;
    while (row < rows_ && (!waits(row) || draws_text_alike(settings_of(first), settings_of(row)))) ++row;
    draw_text(logits.text, first, row - first, settings_of(first));
  }
  const bool greedy = std::all_of(rows.begin(), rows.end(),
                                  [](const Row& each) { return each.settings == nullptr || each.settings->greedy; });
  device_.run(SampleToken{.token = slice(tokens_.view(), 0, {kCodebooks * rows_}),
                          .logits = logits.audio,
                          .recent = recent_,
                          .uniform = slice(uniforms_.view(), 0, {kCodebooks * rows_}),
                          .temperature = kTemperature,
                          .repetition_penalty = kPenalty,
                          .top_k = kTopK,
                          .greedy = greedy});
  device_.copy(view_of(tokens_on_host_.data(), tokens_.view().shape), tokens_);
  for (std::size_t row = 0; row < draws.size(); ++row) {
    const auto token = [&](std::int64_t q) { return tokens_on_host_[static_cast<std::size_t>(q * rows_) + row]; };
    draws[row].text = token(kCodebooks);
    for (std::int64_t q = 0; q < kCodebooks; ++q) draws[row].codes[static_cast<std::size_t>(q)] = token(q);
  }
}

}  // namespace omni
