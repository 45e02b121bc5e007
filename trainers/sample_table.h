#pragma once
// A sample of the omni stages for people: what it was made of, and what stands at each position.

#include <string>

#include "trainers/omni_samples.h"

namespace omni {

// The conversation, what was drawn for it, and what of it fits: lines of text.
std::string sample_summary(const OmniRow& row, const OmniDecisions& decisions, const OmniSample& sample,
                           const OmniConfig& config);

// A line per position: text id and label, eight input codes, eight labels, the token. Of four and more lines that are
// alike only the first is shown. `plain` is the sample without scheduled sampling; what differs from it is marked.
std::string sample_table(const OmniSample& sample, const OmniSample& plain, const OmniConfig& config,
                         const Tokenizer& tokenizer);

// Bytes on one line: control characters, backslashes and what is no UTF-8 become \n, \\, \xE9 ...
std::string escaped(std::string_view bytes);

}  // namespace omni
