#include <cstring>

#include "kernels/matmul/matmul.h"
#include "kernels/moe/moe.h"

namespace omni {
namespace {

// Rows [begin, end) of an operand seen as a matrix.
template <class AnyView>
AnyView row_range(const AnyView& view, std::int64_t begin, std::int64_t end) {
  AnyView out = view;
  using Byte = std::conditional_t<std::is_same_v<AnyView, View>, std::byte, const std::byte>;
  out.data = static_cast<Byte*>(view.data) + begin * view.width() * static_cast<std::int64_t>(size_of(view.dtype));
  out.shape = {end - begin, view.width()};
  return out;
}

}  // namespace

void GroupedMatmul::check(Check& that) const {
  that.operand("offset", offset, DType::i64, offset.shape);
  that.same("a", a);
  that.matrix("c", c, a.dtype, a.rows(), c.width());
  const std::int64_t n = c.width(), k = a.width();
  that.matrix("b", b, b_scale ? DType::i8 : a.dtype, experts() * (transpose_b ? n : k), transpose_b ? k : n);
  that.optional("b_scale", b_scale, DType::f32, {experts() * n});
  that.that(!b_scale || (a.dtype == DType::f32 && transpose_b && c.place != Place::cuda),
            "b of i8 needs a of f32, transpose_b and the CPU");
  that.that(!b_packed || (transpose_b && c.place != Place::cuda && b_packed.rows == b.rows()),
            "b_packed must be b, with transpose_b, on the CPU");
}

void GroupedMatmulWeightGradient::check(Check& that) const {
  that.operand("offset", offset, DType::i64, offset.shape);
  that.same("dy", dy);
  that.matrix("x", x, dy.dtype, dy.rows(), x.width());
  that.matrix("dw", dw, dy.dtype == DType::bf16 ? DType::f32 : dy.dtype, experts() * dy.width(), x.width());
}

// One dense product per expert: with the hundreds of rows of a training step each fills the machine by itself.
void run(const CpuContext& cpu, const GroupedMatmul& op) {
  const std::int64_t* offset = op.offset.as<std::int64_t>();
  const std::int64_t weight_rows = op.b.rows() / op.experts();
  for (std::int64_t e = 0; e < op.experts(); ++e) {
    if (offset[e] == offset[e + 1]) continue;
    run(cpu, Matmul{.c = row_range(op.c, offset[e], offset[e + 1]),
                    .a = row_range(op.a, offset[e], offset[e + 1]),
                    .b = row_range(op.b, e * weight_rows, (e + 1) * weight_rows),
                    .b_scale = slice(op.b_scale, e * weight_rows, {weight_rows}),
                    .b_packed = op.b_packed.slice(e * weight_rows, weight_rows),
                    .transpose_b = op.transpose_b});
  }
}

void run(const CpuContext& cpu, const GroupedMatmulWeightGradient& op) {
  const std::int64_t* offset = op.offset.as<std::int64_t>();
  const std::int64_t n = op.dy.width();
  for (std::int64_t e = 0; e < op.experts(); ++e) {
    const View dw = row_range(op.dw, e * n, (e + 1) * n);
    if (offset[e] < offset[e + 1])
      run(cpu, Matmul{.c = dw,
                      .a = row_range(op.dy, offset[e], offset[e + 1]),
                      .b = row_range(op.x, offset[e], offset[e + 1]),
                      .transpose_a = true,
                      .accumulate = op.accumulate});
    else if (!op.accumulate)
      std::memset(dw.data, 0, static_cast<std::size_t>(dw.bytes()));
  }
}

}  // namespace omni
