#include "trainers/sample_table.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "kernels/cross_entropy/cross_entropy.h"
#include "models/talker.h"
#include "models/utf8.h"

namespace omni {
namespace {

constexpr std::int64_t kAlike = 4;  // so many equal lines and more are shortened
constexpr const char* kAudioForms[] = {"recording", "text", "recording, then text", "text, then recording"};
constexpr const char* kImageForms[] = {"on the line before the text", "in a paragraph before the text",
                                       "on the line after the text", "in a paragraph after the text"};

std::string count(std::size_t number, const char* what) {
  return std::to_string(number) + " " + what + (number == 1 ? "" : "s");
}

std::string padded(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, text.size()), ' ') + text;
}

std::int64_t labels_in(const std::vector<std::int64_t>& labels) {
  return std::count_if(labels.begin(), labels.end(), [](std::int64_t label) { return label != kIgnoreIndex; });
}

// The messages with what belongs to them.
std::string conversation_text(const OmniRow& row, const OmniSample& sample) {
  std::string out;
  std::size_t users = 0, answers = 0;
  for (const nlohmann::ordered_json& message : row.messages) {
    const std::string role = message["role"];
    const bool read = answers <= static_cast<std::size_t>(sample.turn);
    out += "  " + role + ": " + escaped(content_of(message));
    if (role == "user" && users < row.questions.size() && row.questions[users].rows > 0)
      out += "  [" + count(static_cast<std::size_t>(row.questions[users].rows), "state") + " of a recording]";
    if (role == "assistant" && answers < row.answer_codes.size() && !row.answer_codes[answers].empty())
      out += "  [" + count(row.answer_codes[answers].size() / kCodebooks, "frame") + " of codes]";
    out += read ? "\n" : "  [not read]\n";
    users += role == "user";
    answers += role == "assistant";
  }
  return out;
}

std::string drawn_text(const OmniRow& row, const OmniDecisions& decisions, const OmniSample& sample) {
  const auto& messages = row.messages;
  const std::int64_t answers = count_role(messages, "assistant");
  const bool has_image = std::any_of(messages.begin(), messages.end(), [](const auto& message) {
    return content_of(message).find(kImageMarker) != std::string::npos;
  });
  const bool own_system = !messages.empty() && messages.front()["role"] == "system";
  const std::size_t reference = row.reference_codes.size() / kCodebooks;
  std::string out = "  answer to learn     " + std::to_string(sample.turn) + " of 0.." +
                    std::to_string(std::max<std::int64_t>(answers, 1) - 1);
  if (sample.turn != decisions.turn) out += ", as " + std::to_string(decisions.turn) + " was drawn and does not fit";
  out += "\n  system prompt       ";
  out += own_system             ? "its own"
         : decisions.system < 0 ? "none"
                                : escaped(system_prompts().at(static_cast<std::size_t>(decisions.system)));
  out += std::string("\n  empty think blocks  ") + (decisions.remove_think ? "removed" : "kept");
  out += "\n  question            ";
  out += sample.question < 0 ? "text, there is no recording" : kAudioForms[static_cast<int>(decisions.audio_form)];
  out += std::string("\n  picture             ") +
         (has_image ? kImageForms[static_cast<int>(decisions.image_form)] : "none");
  out += "\n  reference           ";
  out += reference == 0 ? "none" : (decisions.use_reference ? "used, " : "left out, ") + count(reference, "frame");
  return out + "\n";
}

std::string lengths_text(const OmniRow& row, const OmniSample& sample, const OmniConfig& config) {
  const auto turn = static_cast<std::size_t>(sample.turn);
  const std::size_t codes = turn < row.answer_codes.size() ? row.answer_codes[turn].size() : 0;
  std::string out = "  text                " + std::to_string(sample.text_length) + " of " +
                    std::to_string(sample.time + 1) + " positions, " + std::to_string(labels_in(sample.text_labels)) +
                    " to learn\n  answer              ";
  if (codes == 0) {
    out += "without codes";
  } else {
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.2f", static_cast<double>(codes) / kCodebooks / kFramesPerSecond);
    out += count(codes / kCodebooks, "frame") + ", " + seconds + " s; " +
           std::to_string(labels_in(sample.audio_labels)) + " of " + std::to_string(codes + kCodebooks) +
           " codes to learn, stop codes included";
  }
  out += std::string("\n  voice               ") +
         (row.speaker.empty() ? "no speaker vector"
                              : "speaker vector, marked by code " + std::to_string(config.audio_spk_token));
  out += std::string("\n  truncated           ") + (sample.truncated ? "yes: text or codes were cut off" : "no");
  if (sample.unanswered) out += "\n  unanswered          nothing is learnt: no answer begins before the cut";
  return out + "\n";
}

class Table {
 public:
  Table(const OmniSample& sample, const OmniSample& plain, const OmniConfig& config, const Tokenizer& tokenizer)
      : sample_(sample), plain_(plain), config_(config), tokenizer_(tokenizer) {}

  static std::string heading() {
    std::string names;
    for (std::int64_t q = 0; q < kCodebooks; ++q) names += padded("q" + std::to_string(q), 6);
    return padded("pos", 5) + padded("text", 7) + padded("label", 7) + " |" + names + " |" + names + " | token\n";
  }

  // Without the position.
  std::string line(std::int64_t t) const {
    std::string out = padded(input(kCodebooks, t, std::to_string(id(t))), 7) +
                      padded(label(sample_.text_labels[static_cast<std::size_t>(t)]), 7) + " |";
    for (std::int64_t q = 0; q < kCodebooks; ++q) out += padded(input(q, t, code(sample_.input_ids[at(q, t)])), 6);
    out += " |";
    for (std::int64_t q = 0; q < kCodebooks; ++q) {
      const std::int64_t value = sample_.audio_labels[at(q, t)];
      out += padded(value == kIgnoreIndex ? label(value) : code(value), 6);
    }
    return out + " | " + token(id(t));
  }

 private:
  std::size_t at(std::int64_t row, std::int64_t t) const { return static_cast<std::size_t>(row * sample_.time + t); }
  std::int64_t id(std::int64_t t) const { return sample_.input_ids[at(kCodebooks, t)]; }
  std::string input(std::int64_t row, std::int64_t t, const std::string& text) const {
    return sample_.input_ids[at(row, t)] == plain_.input_ids.at(at(row, t)) ? text : "*" + text;
  }
  static std::string label(std::int64_t value) { return value == kIgnoreIndex ? "." : std::to_string(value); }
  std::string code(std::int64_t value) const {
    return value == config_.audio_pad_token    ? "P"
           : value == config_.audio_stop_token ? "X"
           : value == config_.audio_spk_token  ? "S"
                                               : std::to_string(value);
  }
  // Scheduled sampling draws from the model's vocabulary, of which the tokenizer may have a part.
  std::string token(std::int64_t id) const try {
    return escaped(tokenizer_.token_bytes(static_cast<std::int32_t>(id)));
  } catch (const std::runtime_error&) {
    return "(not in the tokenizer)";
  }

  const OmniSample& sample_;
  const OmniSample& plain_;
  const OmniConfig& config_;
  const Tokenizer& tokenizer_;
};

}  // namespace

std::string escaped(std::string_view bytes) {
  std::string out;
  for (std::size_t i = 0; i < bytes.size();) {
    const Utf8Part part = utf8_part(bytes, i);
    const std::string_view piece = bytes.substr(i, part.length);
    const auto first = static_cast<unsigned char>(piece[0]);
    // C2 80 .. C2 9F are the control characters beyond ASCII.
    const bool control = first < 0x20 || first == 0x7F || (first == 0xC2 && piece.size() == 2 && piece[1] < '\xA0');
    if (piece == "\n" || piece == "\\") {
      out += piece == "\n" ? "\\n" : "\\\\";
    } else if (part.kind == Utf8Kind::character && !control) {
      out += piece;
    } else {
      for (const char byte : piece) {
        char text[8];
        std::snprintf(text, sizeof text, "\\x%02X", static_cast<unsigned char>(byte));
        out += text;
      }
    }
    i += part.length;
  }
  return out;
}

std::string sample_summary(const OmniRow& row, const OmniDecisions& decisions, const OmniSample& sample,
                           const OmniConfig& config) {
  return "conversation\n" + conversation_text(row, sample) + "drawn\n" + drawn_text(row, decisions, sample) +
         "lengths\n" + lengths_text(row, sample, config);
}

std::string sample_table(const OmniSample& sample, const OmniSample& plain, const OmniConfig& config,
                         const Tokenizer& tokenizer) {
  const Table table(sample, plain, config, tokenizer);
  std::string out = Table::heading();
  for (std::int64_t t = 0, end; t < sample.time; t = end) {
    const std::string line = table.line(t);
    for (end = t + 1; end < sample.time && table.line(end) == line;) ++end;
    const bool shortened = end - t >= kAlike;
    for (std::int64_t p = t; p < (shortened ? t + 1 : end); ++p) out += padded(std::to_string(p), 5) + line + "\n";
    if (shortened)
      out += padded("...", 5) + "  and " + std::to_string(end - t - 1) + " more positions like it, up to " +
             std::to_string(end - 1) + "\n";
  }
  return out;
}

}  // namespace omni
