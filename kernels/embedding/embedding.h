#pragma once
#include "kernels/instruction.h"

namespace omni {

// y[r] = factor * sum over j < group of table[ids[r * group + j]], in the order of j (bf16 summed in f32)
//   y [rows, width], table [vocab, width] in one dtype: f32, bf16 or f64;  ids i64, rows * group of them in any shape
//   table_scale f32 [vocab], optional, with a table of i8 and y of f32, on the CPU: row v of the table counts times it
// An id outside 0 .. vocab - 1 is an std::invalid_argument that names it; nothing is written then. A GPU writes the
// other rows, and the exception comes when the device next waits.
struct Embedding {
  static constexpr const char* name = "embedding";
  View y;
  ConstView table, ids;
  ConstView table_scale = {};
  std::int64_t group = 1;
  double factor = 1;

  void check(Check& that) const;
  Work work() const {
    const std::int64_t additions = group == 1 && factor == 1 ? 0 : group * y.count();
    return {.bytes = y.bytes() + group * y.count() * static_cast<std::int64_t>(size_of(table.dtype)) + ids.bytes(),
            .flops = additions};
  }
};

// dtable[v] = sum of factor * dy[i / group] over all i with ids[i] = v, in the order of i. Rows that no id names become
// zero, or stay if accumulate.
//   dtable [vocab, width] in f32 (f64 beside f64);  dy [rows, width];  ids as above
struct EmbeddingBackward {
  static constexpr const char* name = "embedding_backward";
  View dtable = {};  // may be absent: nothing to do
  ConstView dy, ids;
  std::int64_t group = 1;
  double factor = 1;
  bool accumulate = false;

  void check(Check& that) const;
  Work work() const {
    return {.bytes = dy.bytes() + ids.bytes() + (accumulate ? 0 : dtable.bytes()), .flops = group * dy.count()};
  }
};

void run(const CpuContext&, const Embedding&);
void run(const CpuContext&, const EmbeddingBackward&);
void run(const CudaContext&, const Embedding&);
void run(const CudaContext&, const EmbeddingBackward&);

}  // namespace omni
