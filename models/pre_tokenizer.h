#pragma once
// The first half of byte-level BPE: cutting a text into pieces that merges never cross.

#include <memory>
#include <string_view>
#include <vector>

namespace omni {

// The pattern of GPT-2 (Radford et al. 2019), tried in this order at each position:
//   's 't 're 've 'm 'll 'd | optional space + letters | optional space + digits | optional space + others |
//   blanks that are not followed by a non-blank | blanks
// Letters and digits are the Unicode categories L and N; blanks are Unicode White_Space. In a run of blanks before a
// word the last one therefore stands alone, or joins the word if it is a plain space. Concurrent use is safe.
class PreTokenizer {
 public:
  PreTokenizer();

  // Cuts `text`, which must be valid UTF-8, into pieces that together are the text; appends them to `pieces`.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct FreeCode {
    void operator()(void* code) const;
  };
  std::unique_ptr<void, FreeCode> code_;  // the compiled pattern, machine code where PCRE2 can make it
};

}  // namespace omni
