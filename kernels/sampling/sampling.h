#pragma once
#include "kernels/instruction.h"

namespace omni {

// Draws the next token of each row. Tokens are ordered by logit, the largest first; with equal logits the lower id
// comes first. In this order:
//   temperature         logits are divided by it
//   repetition_penalty  logits of seen tokens are divided by it if positive, multiplied if not; those of recent tokens
//                       after that, once for each time they are listed
//   greedy              the first token; else
//   top_k               keeps the k first, ties with the last one included; 0 keeps all
//   top_p               keeps a token while the probability of those before it does not exceed this; >= 1 keeps all
//   uniform             picks the first token up to which the kept probabilities sum to more than uniform * their sum
// Probabilities are counted in whole units (weight.h), so that all devices draw the same tokens. A NaN is an error.
//   token    i64 [rows]
//   logits   f32 [rows, classes], changed by temperature and penalty
//   seen     u8 [rows, classes], optional: not zero where a token occurs in the sequence so far
//   recent   i64 [rows, any], optional: tokens; an id outside of the classes stands for none
//   uniform  f64 [rows], each in [0, 1); may be absent if greedy
struct SampleToken {
  static constexpr const char* name = "sample_token";
  static constexpr std::int64_t kMaxClasses = std::int64_t{1} << 23;  // the sum of their weights fits 64 bits
  View token, logits;
  ConstView seen = {}, recent = {}, uniform = {};
  double temperature = 1, repetition_penalty = 1;
  std::int64_t top_k = 0;
  double top_p = 1;
  bool greedy = false;

  std::int64_t classes() const { return logits.width(); }
  bool is_cut_by_rank() const { return top_k > 0 && top_k < classes(); }
  void check(Check& that) const;
  Work work() const {
    return {.bytes = token.bytes() + 2 * logits.bytes() + seen.bytes() + recent.bytes() + uniform.bytes(),
            .flops = 4 * logits.count()};
  }
};

void run(const CpuContext&, const SampleToken&);
void run(const CudaContext&, const SampleToken&);

}  // namespace omni
