// Gradients of the small ops against differences in double, and whether the check itself sees errors.

#include <algorithm>
#include <limits>

#include "autograd/gradcheck.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/swiglu.h"
#include "kernels/elementwise/elementwise.h"
#include "tests/support/numbers.h"

using namespace omni;

namespace {

using Inputs = std::vector<Tensor>;
constexpr double kBound = 1e-6;

// y = x^2 with a gradient that is off by `factor` in one element, or NaN.
Tensor square(Tape& tape, const Tensor& x, double factor) {
  Tensor y = tape.like(x);
  for (std::int64_t i = 0; i < x.count(); ++i) y.as<double>()[i] = x.as<double>()[i] * x.as<double>()[i];
  tape.on_backward([=](Gradients& d) {
    if (const View dx = d[x])
      for (std::int64_t i = 0; i < x.count(); ++i)
        dx.as<double>()[i] = 2 * x.as<double>()[i] * d[y].as<double>()[i] * (i == 4 ? factor : 1);
  });
  return y;
}

// y = x + bias whose gradient for the bias forgets, or always honours, what is there.
Tensor careless_bias(Tape& tape, const Tensor& x, Parameter& bias, bool accumulate) {
  Tensor y = tape.like(x);
  tape.run(AddBias{.y = y, .x = x, .bias = bias});
  tape.on_backward([=, &bias](Gradients& d) {
    d.run(BiasBackward{.dbias = d[bias].view, .dy = d[y], .accumulate = accumulate});
    d.give(x, d.take(y));
  });
  return y;
}

}  // namespace

TEST_CASE("gradcheck accepts a right gradient and rejects wrong ones") {
  const OwnedTensor x = randn({3, 5}, 1);
  const auto error_of = [&](double factor) {
    return gradcheck([=](Tape& tape, const Inputs& in) { return square(tape, in[0], factor); }, {x});
  };
  REQUIRE(error_of(1) <= 1e-9);
  REQUIRE(error_of(1 + 1e-5) > kBound);
  REQUIRE(error_of(-1) > 1);
  REQUIRE(error_of(0) > 0.9);
  REQUIRE(error_of(std::numeric_limits<double>::quiet_NaN()) == std::numeric_limits<double>::infinity());
  REQUIRE(error_of(std::numeric_limits<double>::infinity()) == std::numeric_limits<double>::infinity());
}

TEST_CASE("gradcheck sees an op that overwrites where it should add, and the other way round") {
  const OwnedTensor x = randn({3, 5}, 1);
  for (const bool accumulate : {false, true}) {
    OwnedParameter bias = make_parameter({5}, 2);
    const auto f = [&](Tape& tape, const Inputs& in) { return careless_bias(tape, in[0], bias, accumulate); };
    REQUIRE_FALSE(gradcheck(f, {x}, {bias}) <= 0.1);
  }
}

TEST_CASE("gradcheck restores what it perturbs, and refuses single precision") {
  const OwnedTensor x = randn({3, 5}, 1), copy = randn({3, 5}, 1), single = randn({3, 5}, 1, DType::f32);
  OwnedParameter bias = make_parameter({5}, 2);
  const auto values = values_of(bias.value);
  const auto f = [&](Tape& tape, const Inputs& in) { return add_bias(tape, in[0], bias); };
  REQUIRE(gradcheck(f, {x}, {bias}) <= kBound);
  REQUIRE(same_bits(x, copy));
  REQUIRE_CLOSE(bias.value, values, 0);
  REQUIRE_FALSE(bias.parameter.has_gradient);
  REQUIRE_THROWS_WITH(gradcheck(f, {single}), "gradcheck: an input must be f64, found f32 [3, 5]");
}

TEST_CASE("elementwise gradients") {
  const OwnedTensor x = randn({3, 5}, 1), z = randn({3, 5}, 2);
  OwnedParameter bias = make_parameter({5}, 3);
  REQUIRE(gradcheck([](Tape& t, const Inputs& in) { return add(t, in[0], in[1]); }, {x, z}) <= kBound);
  REQUIRE(gradcheck([](Tape& t, const Inputs& in) { return add(t, in[0], in[0]); }, {x}) <= kBound);
  REQUIRE(gradcheck([](Tape& t, const Inputs& in) { return scale(t, in[0], -0.3); }, {x}) <= kBound);
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return add_bias(t, in[0], bias); }, {x}, {bias}) <= kBound);
  REQUIRE(gradcheck(
              [](Tape& t, const Inputs& in) {
                return Tape::reshaped(scale(t, in[0], 2), {5, 3});
              },
              {x}) <= kBound);
}

TEST_CASE("activation gradients") {
  const OwnedTensor x = randn({3, 5}, 1, DType::f64, 2), wide = randn({3, 8}, 2, DType::f64, 2);
  for (const Gelu::Kind kind : {Gelu::Kind::erf, Gelu::Kind::tanh})
    REQUIRE(gradcheck([=](Tape& t, const Inputs& in) { return gelu(t, in[0], kind); }, {x}) <= kBound);
  REQUIRE(gradcheck([](Tape& t, const Inputs& in) { return silu(t, in[0]); }, {x}) <= kBound);
  REQUIRE(gradcheck([](Tape& t, const Inputs& in) { return swiglu(t, in[0]); }, {wide}) <= kBound);
}

TEST_CASE("norm gradients") {
  const OwnedTensor x = randn({3, 5}, 1), residual = randn({3, 5}, 2);
  OwnedParameter weight = make_parameter({5}, 3), bias = make_parameter({5}, 4);
  const float eps = 1e-2f;
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return rms_norm(t, in[0], weight, eps); }, {x}, {weight}) <=
          kBound);
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return layer_norm(t, in[0], weight, bias, eps); }, {x},
                    {weight, bias}) <= kBound);
  const auto both = [&](Tape& t, const Inputs& in) -> GradcheckOutputs {
    const auto [sum, normed] = add_rms_norm(t, in[0], in[1], weight, eps);
    return {sum, normed};
  };
  REQUIRE(gradcheck(both, {x, residual}, {weight}) <= kBound);
  // One output alone, and one tensor as both inputs.
  const auto normed = [&](Tape& t, const Inputs& in) { return add_rms_norm(t, in[0], in[1], weight, eps).normed; };
  const auto sum = [&](Tape& t, const Inputs& in) { return add_rms_norm(t, in[0], in[1], weight, eps).sum; };
  const auto twice = [&](Tape& t, const Inputs& in) { return add_rms_norm(t, in[0], in[0], weight, eps).normed; };
  REQUIRE(gradcheck(normed, {x, residual}, {weight}) <= kBound);
  REQUIRE(gradcheck(sum, {x, residual}, {weight}) <= kBound);
  REQUIRE(gradcheck(twice, {x}, {weight}) <= kBound);
}

TEST_CASE("embedding gradient, with repeated and unused ids") {
  OwnedParameter table = make_parameter({5, 3}, 1);
  const OwnedTensor ids(DType::i64, {2, 3});
  const std::int64_t values[] = {4, 0, 4, 2, 4, 0};
  std::copy_n(values, 6, ids.as<std::int64_t>());
  REQUIRE(gradcheck([&](Tape& t, const Inputs&) { return embedding(t, ids, table); }, {}, {table}) <= kBound);
}

TEST_CASE("cross_entropy gradient, with weights and ignored rows") {
  const OwnedTensor x = randn({4, 7}, 1, DType::f64, 2), targets = random_ids({4}, 2, 7), weights = randn({4}, 3);
  targets.as<std::int64_t>()[2] = -100;
  for (const bool weighted : {false, true})
    REQUIRE(gradcheck(
                [&](Tape& t, const Inputs& in) {
                  // The loss overwrites its logits, so they must be an op's output; 3 * loss has a gradient that is
                  // not 1.
                  const Tensor logits = scale(t, in[0], 1.5);
                  return scale(t, cross_entropy(t, logits, targets, weighted ? weights : ConstView()), 3);
                },
                {x}) <= kBound);
}

TEST_CASE("a graph of many ops") {
  const OwnedTensor x = randn({3, 6}, 1), ids = random_ids({3}, 2, 4), targets = random_ids({3}, 3, 6);
  OwnedParameter table = make_parameter({4, 6}, 4), norm = make_parameter({6}, 5), bias = make_parameter({6}, 6);
  const auto graph = [&](Tape& t, const Inputs& in) {
    const Tensor h = add(t, in[0], embedding(t, ids, table));
    const Tensor branch = gelu(t, add_bias(t, rms_norm(t, h, norm, 1e-2f), bias));
    const auto [sum, normed] = add_rms_norm(t, branch, h, norm, 1e-2f);  // the same weight again
    return cross_entropy(t, add(t, sum, normed), targets);
  };
  REQUIRE(gradcheck(graph, {x}, {table, norm, bias}) <= kBound);
}
