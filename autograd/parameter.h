#pragma once
// Parameters: weights with the names that they carry in checkpoints.

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "kernels/view.h"

namespace omni {

// Where a backward instruction writes a parameter's gradient.
struct ParameterGradient {
  View view;        // f32 (f64 in gradient checks); absent if the parameter is frozen
  bool accumulate;  // it holds the gradient of an earlier use in this step: add to it
};

// Rows of a parameter that stand under a name of their own in checkpoints, such as q_proj in a fused q/k/v projection.
struct ParameterPart {
  std::string name;
  std::int64_t first_row, rows;
  Shape shape;
};

struct Parameter {
  std::vector<ParameterPart> parts;  // at least one, in memory order; together they cover all rows
  View master;                       // f32: what the optimiser updates (f64 in gradient checks)
  View value;                        // what ops read: master itself, its bf16 copy, or whole numbers (i8)
  View scale;                        // f32 [rows], beside value in i8: row r of the matrix is value[r] * scale[r]
  PackedMatrix packed;               // beside value in bf16: the same numbers once more, packed, or nothing
  View gradient;                     // as master; undefined until has_gradient
  bool has_gradient = false;         // something wrote into gradient since the optimiser's last step
  bool trainable = true;

  operator View() const { return value; }       // NOLINT: an operand of instructions
  operator ConstView() const { return value; }  // NOLINT

  // The instruction y = x W^T, whatever the format of the weights.
  Matmul product(const View& y, const ConstView& x) const {
    return {.c = y, .a = x, .b = value, .b_scale = scale, .b_packed = packed, .transpose_b = true};
  }

  ParameterGradient accumulate() {
    if (!trainable) return {{}, false};
    const bool earlier = has_gradient;
    has_gradient = true;
    return {gradient, earlier};
  }
};

}  // namespace omni
