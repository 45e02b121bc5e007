#include "autograd/ops/embedding.h"

#include "kernels/embedding/embedding.h"

namespace omni {

Tensor embedding(Tape& tape, const ConstView& ids, Parameter& table, std::int64_t group, double factor) {
  Tensor y = tape.empty(table.scale ? DType::f32 : table.value.dtype, Shape{ids.count() / group, table.value.width()});
  tape.run(Embedding{.y = y, .table = table, .ids = ids, .table_scale = table.scale, .group = group, .factor = factor});
  tape.on_backward([=, &table](Gradients& d) {
    const auto [dtable, accumulate] = d[table];
    if (!dtable) return;
    d.run(EmbeddingBackward{
        .dtable = dtable, .dy = d[y], .ids = ids, .group = group, .factor = factor, .accumulate = accumulate});
  });
  return y;
}

}  // namespace omni
