#pragma once
// What the parts of the CPU attention share: the mask as ranges of keys, and the two blocked passes.

#include <algorithm>

#include "kernels/attention/attention.h"

namespace omni {

// The keys that a query sees: always one contiguous range.
struct KeyRange {
  std::int64_t begin, end;
  std::int64_t count() const { return std::max<std::int64_t>(end - begin, 0); }
};

class AttentionMaskReader {
 public:
  explicit AttentionMaskReader(const Attention& op)
      : keys_(op.keys()),
        causal_(op.mask.causal),
        window_(op.mask.window),
        lengths_(op.mask.lengths.as<std::int64_t>()),
        starts_(op.mask.starts.as<std::int64_t>()) {}

  KeyRange visible(std::int64_t b, std::int64_t query) const {
    const std::int64_t position = query + (starts_ ? starts_[b] : 0);
    KeyRange range{0, lengths_ ? std::clamp<std::int64_t>(lengths_[b], 0, keys_) : keys_};
    if (causal_) range.end = std::min(range.end, position + 1);
    if (window_ > 0) {
      range.begin = std::max<std::int64_t>(0, position - window_ + 1);
      range.end = std::min(range.end, position + window_);
    }
    return range;
  }

 private:
  std::int64_t keys_;
  bool causal_;
  std::int64_t window_;
  const std::int64_t *lengths_, *starts_;
};

template <class T>
void attention_forward_blocks(const CpuContext& cpu, const Attention& op);
template <class T>
void attention_backward_blocks(const CpuContext& cpu, const AttentionBackward& op);

}  // namespace omni
