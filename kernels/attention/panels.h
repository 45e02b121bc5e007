#pragma once
// Panels: the copies of q, k and v that the blocked attention computes on, widened, zero-padded to whole blocks and
// laid out as tile_product reads them.

#include "kernels/instruction.h"
#include "kernels/rounding.h"
#include "kernels/vector.h"

namespace omni {

constexpr std::int64_t kQueryBlock = 32;  // small, so that little is computed above the causal diagonal
constexpr std::int64_t kKeyBlock = 96;    // whole register tiles of tile_product, in f32

// One head of a [batch, time, heads, head_dim] operand: rows `stride` values apart.
template <class T>
struct HeadRows {
  const T* data;
  std::int64_t stride;
  const T* row(std::int64_t time) const { return data + time * stride; }
};

template <class T>
HeadRows<T> head_rows(const ConstView& x, std::int64_t b, std::int64_t head) {  // x [batch, time, heads, head_dim]
  const std::int64_t stride = x.shape[2] * x.shape[3];
  return {x.as<T>() + b * x.shape[1] * stride + head * x.shape[3], stride};
}

// panel [padded_rows, width]: rows [0, rows) of the head, columns and rows beyond them zero.
template <class W, class T>
void pack_rows(W* panel, std::int64_t width, std::int64_t padded_rows, HeadRows<T> from, std::int64_t rows,
               std::int64_t head_dim) {
  for (std::int64_t i = 0; i < padded_rows; ++i) {
    W* to = panel + i * width;
    std::int64_t d = 0;
    if (i < rows)
      for (const T* row = from.row(i); d < head_dim; ++d) to[d] = to_float(row[d]);
    for (; d < width; ++d) to[d] = 0;
  }
}

// panel [padded_rows / kKeyBlock][head_dim][kKeyBlock]: each block of rows transposed, so that keys are neighbours.
template <class W, class T>
void pack_transposed(W* panel, std::int64_t padded_rows, HeadRows<T> from, std::int64_t rows, std::int64_t head_dim) {
  for (std::int64_t first = 0; first < padded_rows; first += kKeyBlock) {
    W* block = panel + first * head_dim;
    for (std::int64_t i = 0; i < kKeyBlock; ++i) {
      if (first + i < rows) {
        const T* row = from.row(first + i);
        for (std::int64_t d = 0; d < head_dim; ++d) block[d * kKeyBlock + i] = to_float(row[d]);
      } else {
        for (std::int64_t d = 0; d < head_dim; ++d) block[d * kKeyBlock + i] = 0;
      }
    }
  }
}

// The other way: rows [first, first + rows) of a head of `to` are those of panel [rows, width].
template <class T, class W>
void unpack_rows(const View& to, std::int64_t b, std::int64_t head, std::int64_t first, std::int64_t rows,
                 const W* panel, std::int64_t width) {
  const std::int64_t time = to.shape[1], heads = to.shape[2], head_dim = to.shape[3];
  T* row = to.as<T>() + ((b * time + first) * heads + head) * head_dim;
  for (std::int64_t i = 0; i < rows; ++i, row += heads * head_dim, panel += width)
    for (std::int64_t d = 0; d < head_dim; ++d) row[d] = round_to<T>(panel[d]);
}

// Cuts one allocation into pieces of whole cache lines.
template <class W>
class Carver {
 public:
  explicit Carver(W* data) : data_(data) {}
  W* take(std::int64_t count) {
    W* piece = data_;
    data_ += padded(count);
    return piece;
  }
  static std::int64_t padded(std::int64_t count) { return round_up(count, 64 / static_cast<std::int64_t>(sizeof(W))); }

 private:
  W* data_;
};

}  // namespace omni
