#pragma once
// The mask as ranges: the keys that a query sees are neighbours, and so are the queries that see a key. constexpr, so
// that CPU and GPU read it by the same functions.

#include "kernels/attention/attention.h"

namespace omni {

struct IndexRange {
  std::int64_t begin, end;
  constexpr std::int64_t count() const { return end > begin ? end - begin : 0; }
};

struct AttentionMaskReader {
  std::int64_t queries, keys;
  bool causal;
  std::int64_t window;
  const std::int64_t *lengths, *starts;

  // The keys of a sequence that hold something.
  constexpr std::int64_t length(std::int64_t b) const { return lengths ? within(lengths[b], keys) : keys; }

  // The keys that a query sees. Neither end is before that of an earlier query.
  constexpr IndexRange keys_of(std::int64_t b, std::int64_t query) const {
    const std::int64_t position = query + (starts ? starts[b] : 0), filled = length(b);
    std::int64_t begin = 0, end = filled;
    if (causal) end = within(position + 1, filled);
    if (window > 0) {
      begin = within(position - window + 1, filled);
      end = within(position + window, end);
    }
    return {begin, end};
  }

  // The queries that see at least one of the keys [first, last). Neither end is before that of an earlier key.
  constexpr IndexRange queries_of(std::int64_t b, std::int64_t first, std::int64_t last) const {
    const std::int64_t start = starts ? starts[b] : 0, filled = length(b);
    if (last > filled) last = filled;
    if (first >= last) return {queries, queries};
    std::int64_t begin = 0, end = queries;
    if (causal) begin = within(first - start, queries);
    if (window > 0) {
      if (!causal) begin = within(first - window + 1 - start, queries);
      end = within(last + window - 1 - start, queries);
    }
    return {begin, end};
  }

 private:
  static constexpr std::int64_t within(std::int64_t value, std::int64_t end) {
    return value < 0 ? 0 : value > end ? end : value;
  }
};

inline AttentionMaskReader mask_reader(const Attention& op) {
  return {op.queries(),
          op.keys(),
          op.mask.causal,
          op.mask.window,
          op.mask.lengths.as<std::int64_t>(),
          op.mask.starts.as<std::int64_t>()};
}

}  // namespace omni
