#pragma once
// How much of a padded batch is computed.

#include <cstdint>

#include "autograd/tape.h"

namespace omni {

// Both ways give the same loss and gradients: the models are causal, so columns after the last label change nothing,
// and logits are needed only where a label is. With experts all columns stay, because the balancing loss counts
// padding.
enum class Padding { skip, compute };

// Sizes are rounded up to these units, so that a run meets few different matrix shapes.
inline constexpr std::int64_t kColumnUnit = 8, kRowUnit = 64;
inline std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

// Rows to go on with, as gather_rows takes them.
struct PickedRows {
  Tensor source, inverse;  // i64; absent: all rows
};

}  // namespace omni
