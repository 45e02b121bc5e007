#include "autograd/ops/moe.h"

#include "kernels/gather_rows/gather_rows.h"
#include "kernels/moe/moe.h"

namespace omni {

Routing moe_route(Tape& tape, const Tensor& logits, std::int64_t top_k, bool normalize, double coefficient) {
  const std::int64_t rows = logits.rows(), experts = logits.width();
  const DType wide = wide_of(logits.dtype);
  const Tensor probability = tape.constant(wide, {rows, experts});
  const Tensor expert = tape.constant(DType::i64, {rows, top_k});
  Routing out;
  out.weight = tape.empty(wide, {rows, top_k});
  out.aux_loss = tape.empty(wide, {1});
  out.slot = tape.constant(DType::i64, {rows, top_k});
  out.source = tape.constant(DType::i64, {moe_capacity(rows * top_k, experts)});
  out.offset = tape.constant(DType::i64, {experts + 1});
  tape.run(MoeRoute{.probability = probability,
                    .weight = out.weight,
                    .expert = expert,
                    .slot = out.slot,
                    .source = out.source,
                    .offset = out.offset,
                    .aux_loss = out.aux_loss,
                    .logits = logits,
                    .normalize = normalize,
                    .coefficient = coefficient});
  tape.on_backward([=](Gradients& d) {
    d.run(MoeRouteBackward{.dlogits = d[logits],
                           .dweight = d[out.weight],
                           .daux_loss = d[out.aux_loss],
                           .probability = probability,
                           .weight = out.weight,
                           .expert = expert,
                           .normalize = normalize,
                           .coefficient = coefficient});
  });
  return out;
}

Tensor moe_gather(Tape& tape, const Tensor& x, const Routing& routing) {
  Tensor y = tape.empty(x.dtype, {routing.source.count(), x.width()});
  tape.run(GatherRows{.y = y, .x = x, .source = routing.source});
  tape.on_backward(
      [=, slot = routing.slot](Gradients& d) { d.run(MoeGatherBackward{.dx = d[x], .dy = d[y], .slot = slot}); });
  return y;
}

namespace {

Shape grouped_shape(const Tensor& x, const Parameter& weight, const Routing& routing) {
  return {x.rows(), weight.value.rows() / (routing.offset.count() - 1)};
}

Tensor project_groups(Tape& tape, const Tensor& y, const Tensor& x, Parameter& weight, const Routing& routing) {
  tape.run(GroupedMatmul{
      .c = y, .a = x, .b = weight, .offset = routing.offset, .b_scale = weight.scale, .b_packed = weight.packed});
  tape.on_backward([=, weight = &weight, offset = routing.offset](Gradients& d) {
    const View dy = d[y];
    if (const View dx = d[x])
      d.run(GroupedMatmul{.c = dx, .a = dy, .b = *weight, .offset = offset, .transpose_b = false});
    if (const ParameterGradient dw = d[*weight]; dw.view)
      d.run(
          GroupedMatmulWeightGradient{.dw = dw.view, .dy = dy, .x = x, .offset = offset, .accumulate = dw.accumulate});
  });
  return y;
}

}  // namespace

Tensor grouped_linear(Tape& tape, const Tensor& x, Parameter& weight, const Routing& routing) {
  return project_groups(tape, tape.empty(x.dtype, grouped_shape(x, weight, routing)), x, weight, routing);
}

Tensor grouped_linear_in_gradient(Tape& tape, const Tensor& x, Parameter& weight, const Routing& routing) {
  return project_groups(tape, tape.empty_in_gradient(x.dtype, grouped_shape(x, weight, routing)), x, weight, routing);
}

Tensor moe_combine(Tape& tape, const Tensor& x, const Routing& routing) {
  const Tensor &weight = routing.weight, &slot = routing.slot;
  Tensor y = tape.empty(x.dtype, {slot.rows(), x.width()});
  tape.run(MoeCombine{.y = y, .x = x, .weight = weight, .slot = slot});
  tape.on_backward([=](Gradients& d) {
    d.run(MoeCombineBackward{.dx = d[x], .dweight = d[weight], .dy = d[y], .x = x, .weight = weight, .slot = slot});
  });
  return y;
}

}  // namespace omni
