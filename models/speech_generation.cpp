#include "models/speech_generation.h"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace omni {

SpeechGenerator::SpeechGenerator(Device& device, OmniModel& model, std::int64_t rows, std::int64_t capacity)
    : sequences_(device, model, rows, capacity),
      sampler_(device, model.config, rows),
      config_(model.config),
      conversations_(static_cast<std::size_t>(rows)),
      steps_(conversations_.size()),
      drawing_(conversations_.size()),
      draws_(conversations_.size()) {}

bool SpeechGenerator::is_full() const {
  return std::all_of(conversations_.begin(), conversations_.end(), [](const auto& each) { return each.has_value(); });
}

bool SpeechGenerator::is_idle() const {
  return std::none_of(conversations_.begin(), conversations_.end(), [](const auto& each) { return each.has_value(); });
}

void SpeechGenerator::begin(SpeechRequest request) {
  if (is_full()) throw std::runtime_error("generation: all rows are taken");
  const auto free = std::find(conversations_.begin(), conversations_.end(), std::nullopt);
  const std::int64_t row = free - conversations_.begin();
  const SpeechStream stream(config_, request.settings);
  sequences_.show(row, request.prompt);
  sampler_.forget_seen(row);
  for (const std::int32_t id : request.prompt.ids) sampler_.mark_seen(row, id);
  const std::uint64_t seed = request.settings.seed;
  free->emplace(Conversation{std::move(request), stream, Philox(seed, RandomStream::sampling)});
}

void SpeechGenerator::end(std::size_t row, bool cancelled) {
  const Conversation ended = std::move(*conversations_[row]);
  conversations_[row].reset();
  sequences_.clear(static_cast<std::int64_t>(row));
  if (ended.request.on_end) ended.request.on_end({ended.stream.text_ids(), ended.stream.frames(), cancelled});
}

bool SpeechGenerator::wants_text() const {
  return std::any_of(conversations_.begin(), conversations_.end(),
                     [](const auto& each) { return each && !each->stream.text_finished(); });
}

// Three quarters of a typical answer are spoken when the text has ended. What the Thinker reads then is known, and does
// not depend on the codes: it reads it many positions at a time, its weights once for all of them.
void SpeechGenerator::read_ahead() {
  std::array<std::int64_t, OmniSequences::kMostAhead> text;
  for (std::size_t row = 0; row < conversations_.size(); ++row) {
    const auto& conversation = conversations_[row];
    if (!conversation || sequences_.is_ahead(static_cast<std::int64_t>(row))) continue;
    const std::int64_t count = std::min<std::int64_t>(std::ssize(text), conversation->stream.steps_left());
    for (std::int64_t i = 0; i < count; ++i) text[static_cast<std::size_t>(i)] = conversation->stream.text_ahead(i);
    sequences_.read_ahead(static_cast<std::int64_t>(row), std::span(text).first(static_cast<std::size_t>(count)));
  }
}

// All but those in their first step read what they gave last.
void SpeechGenerator::feed_rows() {
  bool reads = false;
  for (std::size_t row = 0; row < conversations_.size(); ++row) {
    const auto& conversation = conversations_[row];
    steps_[row] = {};
    if (!conversation || conversation->stream.step() == 0) continue;
    steps_[row] = {.reads = true, .text = conversation->stream.text(), .codes = conversation->stream.codes()};
    reads = true;
  }
  if (reads) sequences_.append(steps_);
}

void SpeechGenerator::advance_row(std::size_t row) {
  Conversation& conversation = *conversations_[row];
  const auto emission = conversation.stream.advance(draws_[row].text, draws_[row].codes);
  if (!emission) return end(row, false);
  const auto place = static_cast<std::int64_t>(row);
  sampler_.mark_seen(place, conversation.stream.text());
  const bool goes_on = !conversation.request.on_emission || conversation.request.on_emission(*emission);
  if (!goes_on || conversation.stream.finished() || sequences_.length(place) >= sequences_.capacity())
    end(row, !goes_on);
}

// Runs body; if it throws, nothing of the conversations is left.
template <class Body>
void SpeechGenerator::or_drop_all(const Body& body) {
  try {
    body();
  } catch (...) {
    for (std::size_t row = 0; row < conversations_.size(); ++row) {
      conversations_[row].reset();
      sequences_.clear(static_cast<std::int64_t>(row));
    }
    throw;
  }
}

void SpeechGenerator::step_all() {
  for (std::size_t row = 0; row < conversations_.size(); ++row) {
    const auto& conversation = conversations_[row];
    if (conversation && conversation->request.cancelled && *conversation->request.cancelled) end(row, true);
  }
  if (is_idle()) return;
  const bool text = wants_text();
  if (!text) read_ahead();
  feed_rows();
  const OmniSequences::Logits logits = sequences_.logits(text);
  for (std::size_t row = 0; row < conversations_.size(); ++row) {
    auto& conversation = conversations_[row];
    drawing_[row] = {};
    if (!conversation) continue;
    drawing_[row] = {&conversation->request.settings, &conversation->stream, &conversation->random};
    if (hook_) hook_(static_cast<std::int64_t>(row), conversation->stream.step(), conversation->request, logits);
  }
  sampler_.draw(logits, drawing_, draws_);
  for (std::size_t row = 0; row < conversations_.size(); ++row)
    if (conversations_[row]) advance_row(row);
}

void SpeechGenerator::step() {
  or_drop_all([&] { step_all(); });
}

std::vector<SpeechResult> SpeechGenerator::generate(std::span<const SpeechRequest> requests) {
  std::vector<SpeechResult> out(requests.size());
  or_drop_all([&] {
    for (std::size_t next = 0; next < requests.size() || !is_idle(); step_all())
      for (; next < requests.size() && !is_full(); ++next) {
        SpeechRequest request = requests[next];
        request.on_end = [&result = out[next], on_end = requests[next].on_end](SpeechResult ended) {
          if (on_end) on_end(ended);
          result = std::move(ended);
        };
        begin(std::move(request));
      }
  });
  return out;
}

}  // namespace omni
