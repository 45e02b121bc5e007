#pragma once
// One pass of a model as a page for a browser: a single file that needs no other one and no network.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "models/forward_trace.h"
#include "models/tokenizer.h"

namespace omni {

// What the page says besides the recording.
struct TracePage {
  std::string model, device, dtype;      // as the user named them
  std::int64_t parameters = 0;           // numbers in the model
  bool on_gpu = false;                   // which of an instruction's two kernels ran
  MachineLimits limits;                  // of the device
  std::string timing;                    // how the times were taken, in words
  ConstView ids;                         // i64 [batch, time], or [batch, 9, time] of the omni model; in host memory
  const Tokenizer* tokenizer = nullptr;  // may be absent: then tokens are numbers only
};

// The content of the page: "model", "prompt" (tokens, codes, the likeliest next tokens), "losses", "limits", "ops",
// "instructions", "results", "pictures", and of what ran "kernels" (lines) and "sources" (texts). tensors: what
// trace_forward or trace_omni returned.
nlohmann::ordered_json trace_json(const TracePage& page, const Recording& recording,
                                  const std::vector<NamedTensor>& tensors);

// The page around such a content. The file is replaced atomically.
void write_trace_page(const std::filesystem::path& path, const nlohmann::ordered_json& content);

}  // namespace omni
