#pragma once
// The chat template of MiniMind: a conversation as the text that the model is trained on and prompted with.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace omni {

struct ChatOptions {
  nlohmann::ordered_json tools;        // a list of function descriptions; null or empty for none
  bool add_generation_prompt = false;  // open an assistant turn at the end
  std::optional<bool> open_thinking;   // true: leave the think block of that turn open
};

// Renders `messages`, a list of objects with "role" (system, user, assistant, tool; others are skipped), "content"
// (text; anything else counts as empty) and, for the assistant, "reasoning_content" and "tool_calls". Every assistant
// turn gets a think block; its reasoning is taken from "reasoning_content" or else from <think>...</think> in the
// content. Bytes that are not valid UTF-8 are passed through. Throws std::runtime_error that names the message for
// other shapes.
std::string render_chat(const nlohmann::ordered_json& messages, const ChatOptions& options = {});

}  // namespace omni
