#pragma once
// Compares the gradients of an op, or of a graph of them, with differences of its values, in double precision.

#include <functional>
#include <initializer_list>
#include <vector>

#include "autograd/tape.h"

namespace omni {

// The outputs of a function under test: one tensor, or a list.
struct GradcheckOutputs : std::vector<Tensor> {
  GradcheckOutputs(const Tensor& output) : std::vector<Tensor>{output} {}  // NOLINT: a single output is a list of one
  GradcheckOutputs(std::initializer_list<Tensor> outputs) : std::vector<Tensor>(outputs) {}
};
using GradcheckFunction = std::function<GradcheckOutputs(Tape&, const std::vector<Tensor>& inputs)>;

struct GradcheckOptions {
  double step = 1e-3;      // of the differences; smaller where a step might cross a kink
  std::uint64_t seed = 1;  // of the weights that contract the outputs
};

// The function's outputs are contracted with fixed random weights to one number. Its gradient with respect to every
// element of every input and parameter (all f64) is taken from the tape and from differences of fourth order,
//   (8 (f(x + h) - f(x - h)) - (f(x + 2 h) - f(x - 2 h))) / 12 h,
// and the worst relative error |analytic - numeric| / max(|analytic|, |numeric|, scale) is returned, with scale =
// 1/1000 of the largest derivative of that input, at least 1e-4. Infinity if anything is NaN or infinite.
//
// The backward pass runs twice on one tape. The first time, parameter gradients start as NaN, so an op that adds where
// it should overwrite is found; the second time they must come to twice the first, so one that overwrites where it
// should add is, too. Inputs and parameters are restored; has_gradient of the parameters is left false.
double gradcheck(const GradcheckFunction& function, const std::vector<View>& inputs,
                 const std::vector<Parameter*>& parameters = {}, const GradcheckOptions& options = {});

}  // namespace omni
