#pragma once
// From a line of a JSONL file to token ids and labels: the text-only stages of MiniMind.
//
// The random decisions of a sample are drawn by one function and executed by another, so that a sample can be assembled
// from decisions made elsewhere, and so that nothing depends on which thread assembles it.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "engine/philox.h"
#include "models/tokenizer.h"

namespace omni {

// A line that is no sample. `kind` is one of a few fixed texts, by which such lines are counted; what() tells more.
class BadSample : public std::runtime_error {
 public:
  BadSample(const char* kind, const std::string& detail) : std::runtime_error(detail), kind_(kind) {}
  const char* kind() const { return kind_; }

 private:
  const char* kind_;
};

// {"text": "..."} -> the text; a number counts as its digits. Throws BadSample.
std::string parse_pretrain(std::string_view line);

// {"conversations": [{"role", "content", "reasoning_content", "tools", "tool_calls"}, ...]}, all texts or absent;
// "tools" (of a system message) and "tool_calls" hold JSON as text.
struct Conversation {
  nlohmann::ordered_json messages;  // as the chat template takes them: tool_calls parsed
  nlohmann::ordered_json tools;     // of the last system message that has any, else null
  bool mentions_tools = false;      // some message has a non-empty "tools"
};
Conversation parse_conversation(std::string_view line);  // throws BadSample

struct SftDecisions {
  int system = -1;            // which of system_prompts() to put in front, -1: none; only where one is allowed
  bool remove_think = false;  // remove all empty think blocks
};

const std::vector<std::string>& system_prompts();

// In the front of a list of messages.
void insert_system_prompt(nlohmann::ordered_json& messages, int index);
std::string without_empty_thinks(std::string_view text);

// One fifth of the conversations get a system prompt (if they have neither a system message at the front nor tools);
// four fifths lose their empty think blocks, as most speech has none.
SftDecisions draw_decisions(Philox& random);

// ids and labels have max_seq_len entries; ids are padded with the tokenizer's pad token. labels[i] is ids[i] where
// that token is to be learnt, else -100; they are aligned with ids (the model shifts them).
struct Sample {
  std::vector<std::int64_t> ids, labels;
  std::int64_t length = 0;  // ids before the padding
  bool truncated = false;   // the text had more tokens than fit
};

// What the assistant says in a rendered conversation: behind each header "<bos>assistant\n" up to the end marker
// "<eos>\n".
class TurnFinder {
 public:
  explicit TurnFinder(const Tokenizer& tokenizer);

  struct Turn {
    std::size_t begin, end, behind;  // [begin, end) is said; behind the end marker, or where the text was cut
  };
  std::vector<Turn> find(const std::vector<std::int64_t>& ids) const;

 private:
  std::vector<std::int32_t> header_, end_;  // the tokens of a turn's begin and end
};

class SampleAssembler {
 public:
  // `tokenizer` must outlive the assembler and must know bos, eos and pad. max_seq_len >= 2.
  SampleAssembler(const Tokenizer& tokenizer, std::int64_t max_seq_len);

  // bos, at most max_seq_len - 2 tokens, eos. Every token but padding is learnt.
  Sample pretrain(std::string_view text) const;
  // The rendered conversation, cut at max_seq_len. Learnt is what the assistant says, of every turn, with its end
  // marker.
  Sample sft(const Conversation& conversation, const SftDecisions& decisions) const;

  std::int64_t max_seq_len() const { return max_seq_len_; }

 private:
  Sample padded(std::vector<std::int64_t> ids, bool truncated) const;

  const Tokenizer& tokenizer_;
  std::int64_t max_seq_len_, bos_, eos_, pad_;
  TurnFinder turns_;
};

}  // namespace omni
