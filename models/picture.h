#pragma once
// A small picture of a tensor: its matrix of values, averaged down to a few cells, and what the averages hide.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/device.h"

namespace omni {

struct Picture {
  std::int64_t rows = 0, columns = 0;  // of the matrix that the tensor is seen as
  int height = 0, width = 0;           // cells
  // Row by row: 128 + 127 * mean of the cell / scale, rounded; 0 where a value of the cell is not finite.
  std::vector<std::uint8_t> cells;
  double scale = 0;                            // the largest magnitude of a cell
  double smallest = 0, largest = 0, mean = 0;  // of the finite values
  double root_mean_square = 0;                 // of the finite values
  std::int64_t not_finite = 0;                 // values that are infinite or NaN
  std::vector<double> values;                  // all of them, if there are at most kListed
  static constexpr std::int64_t kListed = 12;
};

struct PictureSize {
  int height = 24, width = 64;  // cells at most
  int position_height = 48;     // the same where rows are positions
  std::int64_t positions = 0;   // batch * time of the pass; 0: unknown
};

// Leading dimensions that multiply to `positions` become the rows, so that a row belongs to a token; else all
// dimensions but the last do. A vector is one row (or one column, if it holds a number per position).
Picture picture_of(Device& device, const ConstView& tensor, const PictureSize& size);

}  // namespace omni
