#include "models/speech_stream.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace omni {
namespace {

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

}  // namespace

SpeechStream::SpeechStream(const OmniConfig& config, const SpeechSettings& settings)
    : config_(config), settings_(settings), finished_(settings.max_new_tokens <= 0) {
  const auto in_vocabulary = [&](const char* name, std::int64_t id) {
    if (id < 0 || id >= config.thinker.vocab_size)
      throw std::invalid_argument("speech: " + std::string(name) + ": expected a token below vocab_size " +
                                  std::to_string(config.thinker.vocab_size) + ", found " + std::to_string(id));
  };
  in_vocabulary("enter_token_id", settings.enter_token_id);
  in_vocabulary("pad_token_id", settings.pad_token_id);
  if (!settings.thinking) speech_begin_ = 1;
  stops_.fill(kNever);
  // A step allocates nothing; very long answers are not expected to come to their end.
  const auto steps = static_cast<std::size_t>(std::clamp<std::int64_t>(settings.max_new_tokens, 0, 1 << 16));
  for (auto& codes : codes_) codes.reserve(steps);
  fed_.reserve(steps);
  text_ids_.reserve(steps);
  frames_.reserve(steps);
}

std::int64_t SpeechStream::delay_step() const { return speech_begin_ ? step_ - *speech_begin_ : -1; }

std::int64_t SpeechStream::drawing() const { return std::clamp<std::int64_t>(delay_step() + 1, 0, kCodebooks); }

std::array<std::int64_t, SpeechStream::kRecent> SpeechStream::recent(std::int64_t codebook) const {
  const std::vector<std::int64_t>& codes = codes_[static_cast<std::size_t>(codebook)];
  std::array<std::int64_t, kRecent> out;
  out.fill(-1);
  const std::size_t count = std::min<std::size_t>(codes.size(), out.size());
  std::copy(codes.end() - static_cast<std::ptrdiff_t>(count), codes.end(), out.begin());
  return out;
}

void SpeechStream::take_codes(const SpeechFrame& drawn) {
  const std::int64_t drawing = this->drawing();
  for (std::size_t q = 0; q < codes_.size(); ++q) {
    const bool draws = static_cast<std::int64_t>(q) < drawing && !(settings_.pad_after_stop && stops_[q] != kNever);
    codes_[q].push_back(draws ? drawn[q] : config_.audio_pad_token);
    if (draws && drawn[q] >= config_.first_reserved_code()) stops_[q] = std::min(stops_[q], step_);
  }
}

std::optional<SpeechFrame> SpeechStream::complete_frame() const {
  if (delay_step() < kCodebooks - 1) return {};
  SpeechFrame frame{};
  for (std::int64_t q = 0; q < kCodebooks; ++q) {
    const auto i = static_cast<std::size_t>(q);
    const std::int64_t at = step_ - (kCodebooks - 1) + q;
    if (at >= stops_[i]) return {};
    frame[i] = codes_[i][static_cast<std::size_t>(at)];
  }
  return frame;
}

void SpeechStream::find_end_of_thinking() {
  const std::vector<std::int64_t>& mark = config_.think_end_ids;
  if (!speech_begin_ && fed_.size() >= mark.size() && std::equal(mark.rbegin(), mark.rend(), fed_.rbegin()))
    speech_begin_ = step_ + 2;  // the first token of the reply is drawn in the next step and fed in that one
}

std::optional<SpeechEmission> SpeechStream::advance(std::int64_t drawn_text, const SpeechFrame& drawn_codes) {
  if (finished_) return {};
  take_codes(drawn_codes);
  SpeechEmission out;
  if (text_finished_) {
    if (std::find(stops_.begin(), stops_.end(), kNever) == stops_.end()) {
      finished_ = true;
      return {};
    }
    fed_.push_back(text_ahead(1));
  } else {
    fed_.push_back(drawn_text);
    out.text = static_cast<std::int32_t>(drawn_text);
    text_ids_.push_back(*out.text);
    text_finished_ = drawn_text == config_.thinker.eos_token_id;
    find_end_of_thinking();
  }
  out.frame = complete_frame();
  if (out.frame) frames_.push_back(*out.frame);
  ++step_;
  // Without the end of the think block nothing will ever be spoken.
  finished_ = step_ >= settings_.max_new_tokens || (text_finished_ && !speech_begin_);
  return out;
}

std::int64_t SpeechStream::text_ahead(std::int64_t i) const {
  if (i == 0) return text();
  return fed_.size() + static_cast<std::size_t>(i) == text_ids_.size() + 1 ? settings_.enter_token_id
                                                                           : settings_.pad_token_id;
}

SpeechFrame SpeechStream::codes() const {
  SpeechFrame out{};
  for (std::size_t q = 0; q < out.size(); ++q) out[q] = codes_[q].back();
  return out;
}

}  // namespace omni
