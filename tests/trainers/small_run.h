#pragma once
// A tokenizer, data and a recipe so small that a run takes a moment.

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/files.h"
#include "tests/support/temporary_folder.h"
#include "trainers/recipe.h"

namespace omni {

// Writes a tokenizer of single bytes (ids 3..258) with the three tokens of the chat template before them.
inline void write_byte_tokenizer(const std::filesystem::path& folder) {
  nlohmann::ordered_json vocab, added;
  const std::vector<std::string> specials = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (std::size_t i = 0; i < specials.size(); ++i) {
    vocab[specials[i]] = i;
    added.push_back({{"id", i},
                     {"content", specials[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  // GPT-2's stand-ins: printable bytes are themselves, the others U+0100, U+0101, ...
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const unsigned character = printable ? byte : next++;
    const std::string text = character < 0x80 ? std::string(1, static_cast<char>(character))
                                              : std::string{static_cast<char>(0xc0 | character >> 6),
                                                            static_cast<char>(0x80 | (character & 63))};
    vocab[text] = specials.size() + byte;
  }
  const nlohmann::ordered_json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const nlohmann::ordered_json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::ordered_json::array()}}}};
  std::filesystem::create_directories(folder);
  write_text_file(folder / "tokenizer.json", tokenizer.dump());
  write_text_file(folder / "tokenizer_config.json",
                  R"({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})");
}

inline std::string pretrain_lines(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) {
    std::string text = "line " + std::to_string(i);
    for (int k = 0; k < i % 7; ++k) text += " herons wade";
    out += nlohmann::json{{"text", text}}.dump() + "\n";
  }
  return out;
}

inline std::string sft_lines(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) {
    const std::string number = std::to_string(i);
    nlohmann::json messages = {{{"role", "user"}, {"content", "say " + number}},
                               {{"role", "assistant"}, {"content", "it is " + number}}};
    out += nlohmann::json{{"conversations", messages}}.dump() + "\n";
  }
  return out;
}

// A recipe that trains on what SmallRun puts into `folder`.
inline Recipe small_recipe(const std::filesystem::path& folder, const std::string& output,
                           const std::vector<std::string>& overrides = {}) {
  const std::string path = folder.string();
  const std::string yaml =
      "stage: pretrain\n"
      "config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, vocab_size: "
      "320,\n"
      "         intermediate_size: 48, max_position_embeddings: 128}\n"
      "tokenizer: " +
      path +
      "/tokenizer\n"
      "data: " +
      path +
      "/pretrain.jsonl\n"
      "output: " +
      path + "/" + output +
      "\n"
      "steps: 12\nbatch_size: 4\nmax_seq_len: 48\nsave_interval: 4\nworkers: 2\nthreads: 1\n";
  return parse_recipe(yaml, "small.yaml", overrides);
}

// A folder with tokenizer/, pretrain.jsonl and sft.jsonl.
class SmallRun {
 public:
  SmallRun() {
    write_byte_tokenizer(folder / "tokenizer");
    write_text_file(folder / "pretrain.jsonl", pretrain_lines(23));
    write_text_file(folder / "sft.jsonl", sft_lines(23));
  }
  Recipe recipe(const std::string& output, const std::vector<std::string>& overrides = {}) const {
    return small_recipe(folder.path(), output, overrides);
  }

  TemporaryFolder folder;
};

// The files of a folder by name.
inline std::map<std::string, std::string> files_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    out[entry.path().filename().string()] = read_text_file(entry.path(), std::size_t{1} << 30);
  return out;
}

}  // namespace omni
