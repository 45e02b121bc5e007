#pragma once
#include "kernels/instruction.h"

namespace omni {

// y[i] = table[ids[i]]
//   y [rows, width], table [vocab, width] in one dtype: f32, bf16 or f64;  ids i64, `rows` of them in any shape
// An id outside 0 .. vocab - 1 is an std::invalid_argument that names it; nothing is written then. A GPU writes the
// other rows, and the exception comes when the device next waits.
struct Embedding {
  static constexpr const char* name = "embedding";
  View y;
  ConstView table, ids;

  void check(Check& that) const;
  Work work() const { return {.bytes = 2 * y.bytes() + ids.bytes()}; }
};

// dtable[v] = sum of dy[i] over all i with ids[i] = v, in the order of i. Rows that no id names become zero, or stay if
// accumulate.
//   dtable [vocab, width] in f32 (f64 beside f64);  dy [rows, width];  ids as above
struct EmbeddingBackward {
  static constexpr const char* name = "embedding_backward";
  View dtable = {};  // may be absent: nothing to do
  ConstView dy, ids;
  bool accumulate = false;

  void check(Check& that) const;
  Work work() const {
    return {.bytes = dy.bytes() + ids.bytes() + (accumulate ? 0 : dtable.bytes()), .flops = dy.count()};
  }
};

void run(const CpuContext&, const Embedding&);
void run(const CpuContext&, const EmbeddingBackward&);
void run(const CudaContext&, const Embedding&);
void run(const CudaContext&, const EmbeddingBackward&);

}  // namespace omni
