#include "trainers/omni_samples.h"

#include <algorithm>
#include <array>

#include "kernels/cross_entropy/cross_entropy.h"
#include "models/chat_template.h"
#include "models/talker.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kRoomForAnswer = 100;  // positions that must be left behind a prompt for its turn to be chosen
constexpr std::int64_t kThinkSearch = 50;  // positions of an answer among which the end of a think block is looked for

std::string repeated(std::string_view text, std::int64_t times) {
  std::string out;
  for (std::int64_t i = 0; i < times; ++i) out += text;
  return out;
}

std::string replaced(std::string_view text, std::string_view part, std::string_view by) {
  std::string out;
  for (std::size_t at; (at = text.find(part)) != std::string_view::npos; text.remove_prefix(at + part.size()))
    (out += text.substr(0, at)) += by;
  return out += text;
}

// The length of the blank character that `text` begins with, 0 if it begins with none: White_Space of Unicode and the
// four separators U+001C .. U+001F, which is what Python strips.
std::size_t blank_length(std::string_view text) {
  static constexpr std::array<std::string_view, 19> kLong = {
      "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81", "\xE2\x80\x82", "\xE2\x80\x83",
      "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A",
      "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};
  if (text.empty()) return 0;
  const char first = text.front();
  if (first == ' ' || (first >= '\t' && first <= '\r') || (first >= '\x1c' && first <= '\x1f')) return 1;
  for (const std::string_view blank : kLong)
    if (text.starts_with(blank)) return blank.size();
  return 0;
}

std::string stripped(std::string_view text) {
  while (const std::size_t length = blank_length(text)) text.remove_prefix(length);
  for (bool more = true; more;) {
    more = false;
    for (std::size_t length = 1; length <= std::min<std::size_t>(3, text.size()) && !more; ++length)
      if (blank_length(text.substr(text.size() - length)) == length) {
        text.remove_suffix(length);
        more = true;
      }
  }
  return std::string(text);
}

std::string with_audio(const std::string& text, const std::string& placeholders, AudioForm form) {
  switch (form) {
    case AudioForm::audio_only:
      return placeholders;
    case AudioForm::text_only:
      return text;
    case AudioForm::audio_first:
      return placeholders + "\n\n" + text;
    case AudioForm::text_first:
      return text + "\n\n" + placeholders;
  }
  return text;
}

std::string with_image_moved(const std::string& text, ImageForm form) {
  if (text.find(kImageMarker) == std::string::npos) return text;
  const std::string rest = stripped(replaced(text, kImageMarker, "")), marker(kImageMarker);
  switch (form) {
    case ImageForm::line_before:
      return marker + "\n" + rest;
    case ImageForm::paragraph_before:
      return marker + "\n\n" + rest;
    case ImageForm::line_after:
      return rest + "\n" + marker;
    case ImageForm::paragraph_after:
      return rest + "\n\n" + marker;
  }
  return text;
}

}  // namespace

OmniDecisions draw_omni_decisions(Philox& random, const OmniRow& row) {
  OmniDecisions out;
  const std::int64_t answers = count_role(row.messages, "assistant");
  if (answers > 1) out.turn = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(answers)));
  const SftDecisions text = draw_decisions(random);
  out.system = text.system;
  out.remove_think = text.remove_think;
  const double audio = random.uniform(), image = random.uniform();
  out.audio_form = audio < 0.4   ? AudioForm::audio_only
                   : audio < 0.6 ? AudioForm::text_only
                   : audio < 0.8 ? AudioForm::audio_first
                                 : AudioForm::text_first;
  out.image_form = image < 0.2   ? ImageForm::line_before
                   : image < 0.4 ? ImageForm::paragraph_before
                   : image < 0.6 ? ImageForm::line_after
                                 : ImageForm::paragraph_after;
  out.use_reference = random.uniform() > 0.5;
  return out;
}

ScheduledSampling draw_scheduled_sampling(Philox& random, const OmniConfig& config, std::int64_t time) {
  ScheduledSampling out;
  const auto below = [&](std::int64_t count) {
    return static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(count)));
  };
  for (std::int64_t t = 0; t < time; ++t) out.audio_draws.push_back(static_cast<float>(random.uniform()));
  for (std::int64_t i = 0; i < kCodebooks * time; ++i) out.audio_codes.push_back(below(config.audio_vocab_size));
  for (std::int64_t t = 0; t < time; ++t) out.text_draws.push_back(static_cast<float>(random.uniform()));
  for (std::int64_t t = 0; t < time; ++t) out.text_ids.push_back(below(config.thinker.vocab_size));
  return out;
}

OmniAssembler::OmniAssembler(const Tokenizer& tokenizer, const OmniConfig& config, std::int64_t max_seq_len,
                             OmniFrontEnds front_ends)
    : tokenizer_(tokenizer),
      config_(config),
      max_seq_len_(max_seq_len),
      front_ends_(front_ends),
      turns_(tokenizer),
      audio_placeholder_(tokenizer.token_bytes(static_cast<std::int32_t>(config.audio_placeholder_id))),
      image_placeholders_(repeated(tokenizer.token_bytes(static_cast<std::int32_t>(config.image_placeholder_id)),
                                   config.image_token_len)) {}

// The conversation up to the assistant's turn that is to be learnt: the one drawn, or the nearest before it whose
// prompt leaves room for an answer.
Json OmniAssembler::turns_up_to_answer(const OmniRow& row, const OmniDecisions& decisions) const {
  std::vector<std::size_t> answers;  // where the assistant speaks
  for (std::size_t i = 0; i < row.messages.size(); ++i)
    if (row.messages[i]["role"] == "assistant") answers.push_back(i);
  if (answers.size() <= 1) return row.messages;
  for (std::int64_t turn = decisions.turn;; --turn) {
    const auto end = row.messages.begin() + static_cast<std::ptrdiff_t>(answers.at(static_cast<std::size_t>(turn)) + 1);
    Json kept(std::vector<Json>(row.messages.begin(), end));
    const auto length = static_cast<std::int64_t>(prompt(kept, nullptr, decisions).ids.size());
    if (turn == 0 || length + kRoomForAnswer < max_seq_len_) return kept;
  }
}

// Without a row: the text alone, neither recording nor picture, to see how long it is.
OmniAssembler::Prompt OmniAssembler::prompt(const Json& messages, const OmniRow* row,
                                            const OmniDecisions& decisions) const {
  Prompt out;
  std::int64_t audio_rows = 0;
  const std::int64_t users = count_role(messages, "user");
  if (row != nullptr && front_ends_.audio && users > 0 && static_cast<std::int64_t>(row->questions.size()) >= users) {
    audio_rows = row->questions[static_cast<std::size_t>(users - 1)].rows;
    if (audio_rows > 0) out.question = users - 1;
  }
  Json spoken = Json::array();
  std::int64_t user = 0;
  for (const Json& message : messages) {
    std::string content = content_of(message);
    if (message["role"] == "user" && ++user == users && audio_rows > 0)
      content = with_audio(content, repeated(audio_placeholder_, audio_rows), decisions.audio_form);
    spoken.push_back({{"role", message["role"]}, {"content", with_image_moved(content, decisions.image_form)}});
  }
  if (decisions.system >= 0 && !spoken.empty() && spoken.front()["role"] != "system")
    insert_system_prompt(spoken, decisions.system);
  std::string text = render_chat(spoken);
  if (decisions.remove_think) text = without_empty_thinks(text);
  if (row != nullptr && front_ends_.image) text = replaced(text, kImageMarker, image_placeholders_);
  const std::vector<std::int32_t> tokens = tokenizer_.encode(text);
  out.ids.assign(tokens.begin(), tokens.end());
  return out;
}

void OmniAssembler::write_text_labels(OmniSample& sample, const std::vector<std::int64_t>& ids,
                                      const TurnFinder::Turn& turn) const {
  for (std::size_t at = std::max<std::size_t>(turn.begin, 1); at < turn.behind; ++at)
    sample.text_labels[at - 1] = ids[at];
}

void OmniAssembler::write_codes(OmniSample& sample, const OmniRow& row, const std::vector<std::int64_t>& answer,
                                const std::vector<std::int64_t>& ids, const TurnFinder::Turn& turn,
                                bool use_reference) const {
  const std::int64_t length = max_seq_len_, time = sample.time;
  const std::vector<std::int64_t>& think_end = config_.think_end_ids;
  auto begin = static_cast<std::int64_t>(turn.begin);
  const std::int64_t last = std::min(static_cast<std::int64_t>(turn.end), begin + kThinkSearch);
  for (std::int64_t p = begin; p < last && p + static_cast<std::int64_t>(think_end.size()) <= length; ++p)
    if (std::equal(think_end.begin(), think_end.end(), ids.begin() + p)) {
      begin = p + static_cast<std::int64_t>(think_end.size());
      break;
    }
  // The last position is a label only.
  const auto put = [&](std::int64_t q, std::int64_t position, std::int64_t code) {
    if (position < time) sample.input_ids[static_cast<std::size_t>(q * time + position)] = code;
  };
  const std::int64_t speaker = row.speaker.empty() ? 0 : 1;
  std::int64_t first = begin;  // of the reference
  if (use_reference) {
    const std::int64_t frames = static_cast<std::int64_t>(row.reference_codes.size()) / kCodebooks;
    first = frames == 0 ? begin : std::max(speaker, begin - frames);
    for (std::int64_t p = first; p < begin; ++p)
      for (std::int64_t q = 0; q < kCodebooks; ++q)
        put(q, p, row.reference_codes[static_cast<std::size_t>((frames - (begin - p)) * kCodebooks + q)]);
  }
  if (speaker != 0 && first > 0)
    for (std::int64_t q = 0; q < kCodebooks; ++q) put(q, first - 1, config_.audio_spk_token);
  const std::int64_t frames = static_cast<std::int64_t>(answer.size()) / kCodebooks;
  for (std::int64_t q = 0; q < kCodebooks; ++q)
    for (std::int64_t f = 0; f <= frames; ++f) {
      const std::int64_t position = begin + q + 1 + f;
      const std::int64_t code =
          f < frames ? answer[static_cast<std::size_t>(f * kCodebooks + q)] : config_.audio_stop_token;
      if (position >= length) {
        sample.truncated = true;
        break;
      }
      put(q, position, code);
      sample.audio_labels[static_cast<std::size_t>(q * time + position - 1)] = code;
    }
}

OmniSample OmniAssembler::assemble(const OmniRow& row, const OmniDecisions& decisions) const {
  const Json messages = turns_up_to_answer(row, decisions);
  Prompt text = prompt(messages, &row, decisions);
  OmniSample sample;
  sample.time = max_seq_len_ - 1;
  sample.question = text.question;
  const auto answers = static_cast<std::size_t>(count_role(messages, "assistant"));
  sample.turn = static_cast<std::int64_t>(std::max<std::size_t>(answers, 1)) - 1;
  sample.truncated = static_cast<std::int64_t>(text.ids.size()) > max_seq_len_;
  sample.text_length = std::min(static_cast<std::int64_t>(text.ids.size()), max_seq_len_);
  text.ids.resize(static_cast<std::size_t>(max_seq_len_), tokenizer_.pad_id());
  const auto time = static_cast<std::size_t>(sample.time);
  sample.input_ids.assign((kCodebooks + 1) * time, config_.audio_pad_token);
  std::copy_n(text.ids.begin(), time, sample.input_ids.begin() + static_cast<std::ptrdiff_t>(kCodebooks * time));
  sample.text_labels.assign(time, kIgnoreIndex);
  sample.audio_labels.assign(kCodebooks * time, kIgnoreIndex);

  const std::vector<TurnFinder::Turn> turns = turns_.find(text.ids);
  sample.unanswered = turns.empty();
  if (turns.empty()) return sample;
  write_text_labels(sample, text.ids, turns.back());
  if (answers == 0 || row.answer_codes.size() < answers || row.answer_codes[answers - 1].empty()) return sample;
  write_codes(sample, row, row.answer_codes[answers - 1], text.ids, turns.back(), decisions.use_reference);
  return sample;
}

void OmniAssembler::apply(OmniSample& sample, const ScheduledSampling& draws, double probability) const {
  const auto limit = static_cast<float>(probability);
  const std::int64_t time = sample.time;
  const auto at = [&](std::int64_t row, std::int64_t t) { return static_cast<std::size_t>(row * time + t); };
  for (std::int64_t t = 0; t < time; ++t) {
    bool speaks = false;
    for (std::int64_t q = 0; q < kCodebooks; ++q) speaks = speaks || sample.audio_labels[at(q, t)] != kIgnoreIndex;
    if (speaks && draws.audio_draws[at(0, t)] < limit)
      for (std::int64_t q = 0; q < kCodebooks; ++q) sample.input_ids[at(q, t)] = draws.audio_codes[at(q, t)];
    std::int64_t& id = sample.input_ids[at(kCodebooks, t)];
    if (sample.text_labels[at(0, t)] != kIgnoreIndex && id != config_.image_placeholder_id &&
        draws.text_draws[at(0, t)] < limit)
      id = draws.text_ids[at(0, t)];
  }
}

}  // namespace omni
