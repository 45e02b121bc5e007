#pragma once
// A part of a model that keeps nothing but its result: what it makes on the way is made again in the backward pass
// (Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174).

#include "autograd/tape.h"
#include "kernels/elementwise/elementwise.h"

namespace omni {

struct Recomputed {
  Tensor y, aux_loss;  // the latter may be absent
};

// body(tape, x), a Recomputed, on a tape of its own, which a later part uses again. body lies in a closure, so it is
// plain data; it runs twice and must do the same both times.
template <class Body>
Recomputed recomputed(Tape& tape, const Tensor& x, const Body& body) {
  const auto kept = [&](const Tensor& made) {
    if (!made) return Tensor();
    const Tensor out = tape.like(made);
    tape.run(Copy{.y = out, .x = made});
    return out;
  };
  Tape& inner = tape.inner();
  inner.reset();
  Recomputed out;
  {
    const Tape::Pause pause(inner, true);
    const Recomputed made = body(inner, Tensor(View(x)));
    out = {kept(made.y), kept(made.aux_loss)};
  }
  tape.on_backward([=, &inner](Gradients& d) {
    inner.reset();
    const Tensor leaf = inner.leaf(x);
    const Recomputed made = body(inner, leaf);
    if (out.aux_loss) inner.seed(made.aux_loss, d[out.aux_loss]);
    inner.seed(made.y, d[out.y]);
    inner.backward();
    if (const View dx = d[x]) d.run(Copy{.y = dx, .x = inner.gradient_of(leaf)});
  });
  return out;
}

}  // namespace omni
