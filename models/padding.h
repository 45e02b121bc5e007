#pragma once
// How much of a padded batch is computed.

#include <cstdint>

#include "autograd/tape.h"
#include "kernels/rounding.h"

namespace omni {

// Both ways give the same loss and gradients: the models are causal, so what follows the last label of a row changes
// nothing, and logits are needed only where a label is. With experts all columns stay, because the balancing loss
// counts padding.
enum class Padding { skip, compute };

// Sizes are rounded up to these units, so that a run meets few different matrix shapes.
inline constexpr std::int64_t kColumnUnit = 8, kRowUnit = 64;

// Rows to go on with, as gather_rows takes them.
struct PickedRows {
  Tensor source, inverse;  // i64; absent: all rows
};

// The rows of a padded batch without the padding, one behind the other. Only attention needs to know which belong
// together.
struct PackedRows {
  std::int64_t batch = 0, time = 0;  // of the padded batch
  Tensor row_at;                     // i64 [batch * time]: the row of each position, or -1; absent: nothing is packed
  Tensor position_of;                // i64 [rows]: the position of each row, or -1
};

}  // namespace omni
