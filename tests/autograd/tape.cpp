#include "autograd/tape.h"

#include <cmath>
#include <vector>

#include "autograd/ops/activation.h"
#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/swiglu.h"
#include "tests/support/numbers.h"

using namespace omni;

namespace {

// y = sum of x, so that every element's gradient is the loss's.
Tensor sum(Tape& tape, const Tensor& x) {
  Tensor y = tape.empty(x.dtype, Shape{1});
  *y.as<double>() = 0;
  for (std::int64_t i = 0; i < x.count(); ++i) *y.as<double>() += x.as<double>()[i];
  tape.on_backward([=](Gradients& d) {
    if (const View dx = d[x])
      for (std::int64_t i = 0; i < x.count(); ++i) dx.as<double>()[i] = *d[y].as<double>();
  });
  return y;
}

std::vector<double> all(std::int64_t count, double value) {
  return std::vector<double>(static_cast<std::size_t>(count), value);
}

}  // namespace

TEST_CASE("a tensor with three consumers gets the sum of their gradients") {
  Device device = Device::cpu(2);
  Tape tape(device);
  const OwnedTensor x = randn({3, 5}, 1);
  for (const double scale_of_loss : {1., 0.25}) {
    tape.reset();
    const Tensor in = tape.leaf(x);
    const Tensor a = scale(tape, in, 2), b = scale(tape, in, 3), c = scale(tape, in, 5);
    tape.backward(sum(tape, add(tape, add(tape, a, b), c)), scale_of_loss);
    REQUIRE_CLOSE(tape.gradient_of(in), all(15, 10 * scale_of_loss), 0);
  }
}

TEST_CASE("an op that reads one tensor twice gives it both gradients") {
  Device device = Device::cpu(2);
  Tape tape(device);
  const OwnedTensor x = randn({3, 5}, 1);
  const Tensor in = tape.leaf(x);
  const Tensor doubled = add(tape, in, in);
  tape.backward(sum(tape, add(tape, doubled, doubled)));
  REQUIRE_CLOSE(tape.gradient_of(in), all(15, 4), 0);
}

TEST_CASE("what is added to a shared gradient does not reach its other holder") {
  Device device = Device::cpu(2);
  Tape tape(device);
  const OwnedTensor x = randn({3, 5}, 1), z = randn({3, 5}, 2);
  const Tensor in = tape.leaf(x), other = tape.leaf(z);
  const Tensor more = scale(tape, in, 7);  // its backward runs after add's, and finds in's gradient shared with other's
  tape.backward(sum(tape, add(tape, add(tape, in, other), more)));
  REQUIRE_CLOSE(tape.gradient_of(in), all(15, 8), 0);
  REQUIRE_CLOSE(tape.gradient_of(other), all(15, 1), 0);

  // The same with ops between, which take the shared block for themselves.
  tape.reset();
  const Tensor again = tape.leaf(x);
  const Tensor left = scale(tape, again, 2), right = scale(tape, again, 3);
  OwnedParameter bias = make_parameter({5}, 3);
  const Tensor moved = add_bias(tape, left, bias);
  tape.backward(sum(tape, add(tape, moved, add(tape, right, left))));
  REQUIRE_CLOSE(tape.gradient_of(again), all(15, 2 + 2 + 3), 0);
  REQUIRE_CLOSE(bias.gradient, all(5, 3), 0);
}

TEST_CASE("a dead branch costs nothing and adds nothing") {
  Device device = Device::cpu(2);
  Tape tape(device);
  const OwnedTensor x = randn({3, 5}, 1), z = randn({3, 5}, 2);
  OwnedParameter weight = make_parameter({5}, 3);
  const Tensor in = tape.leaf(x), dead = tape.leaf(z);
  rms_norm(tape, in, weight, 1e-6f);
  gelu(tape, dead);
  tape.backward(sum(tape, scale(tape, in, 2)));
  REQUIRE_CLOSE(tape.gradient_of(in), all(15, 2), 0);
  REQUIRE_FALSE(tape.gradient_of(dead));
  REQUIRE_FALSE(weight.parameter.has_gradient);
}

TEST_CASE("an output that nothing consumed has a zero gradient") {
  Device device = Device::cpu(2);
  Tape tape(device);
  const OwnedTensor x = randn({3, 5}, 1), z = randn({3, 5}, 2);
  OwnedParameter weight = make_parameter({5}, 3);
  const Tensor a = tape.leaf(x), b = tape.leaf(z);
  const auto only_sum = add_rms_norm(tape, a, b, weight, 1e-6f);
  tape.backward(sum(tape, only_sum.sum));
  REQUIRE_CLOSE(tape.gradient_of(a), all(15, 1), 0);
  REQUIRE_CLOSE(tape.gradient_of(b), all(15, 1), 0);
  REQUIRE_FALSE(weight.parameter.has_gradient);

  // Two outputs of one op, the second unused: d[] makes it zeros.
  tape.reset();
  const Tensor in = tape.leaf(x);
  Tensor first = tape.like(in), second = tape.like(in);
  tape.on_backward([=](Gradients& d) {
    const View dx = d[in], d1 = d[first], d2 = d[second];
    for (std::int64_t i = 0; i < in.count(); ++i) dx.as<double>()[i] = d1.as<double>()[i] + 100 * d2.as<double>()[i];
  });
  tape.backward(sum(tape, first));
  REQUIRE_CLOSE(tape.gradient_of(in), all(15, 1), 0);
}

TEST_CASE("inputs without gradient and frozen parameters are left alone") {
  Device device = Device::cpu(2);
  Tape tape(device);
  const OwnedTensor x = randn({3, 5}, 1);
  OwnedParameter weight = make_parameter({5}, 3), bias = make_parameter({5}, 4);
  weight.parameter.trainable = false;
  const Tensor normed = layer_norm(tape, Tensor(x), weight, bias, 1e-5f);
  tape.backward(sum(tape, add(tape, scale(tape, normed, 2), cast(tape, cast(tape, normed, DType::f32), DType::f64))));
  REQUIRE_FALSE(weight.parameter.has_gradient);
  REQUIRE_CLOSE(bias.gradient, all(5, 9), 1e-12);
}

TEST_CASE("a tape that does not record computes and keeps nothing") {
  Device device = Device::cpu(2);
  Tape tape(device, false);
  const OwnedTensor x = randn({3, 6}, 1);
  const Tensor y = swiglu(tape, silu(tape, Tensor(x)));
  REQUIRE(y.shape == Shape{3, 3});
  REQUIRE_FALSE(y.needs_gradient());
  REQUIRE_THROWS_AS(tape.backward(sum(tape, y)), std::logic_error);
  Tape recording(device);
  const Tensor in = recording.leaf(x);
  REQUIRE_THROWS_AS(recording.backward(in), std::invalid_argument);
  REQUIRE_THROWS_AS(swiglu(recording, recording.leaf(randn({3, 5}, 1))), std::invalid_argument);
  REQUIRE_THROWS_WITH(Tape::reshaped(in, {4, 4}), "reshape of [3, 6] to [4, 4]");
}

namespace {

// A small language model with a residual, in bf16: every kind of gradient traffic.
struct Model {
  OwnedParameter table = make_parameter({11, 33}, 1, DType::bf16);
  OwnedParameter norm1 = make_parameter({33}, 2, DType::f32), norm2 = make_parameter({33}, 3, DType::f32);
  OwnedParameter bias = make_parameter({33}, 4, DType::f32);
  OwnedTensor ids = random_ids({17}, 5, 11), targets = random_ids({17}, 6, 33);

  std::vector<double> step(Tape& tape) {
    tape.reset();
    for (OwnedParameter* p : {&table, &norm1, &norm2, &bias}) p->parameter.has_gradient = false;
    const Tensor x = embedding(tape, ids, table);
    const Tensor branch = add_bias(tape, gelu(tape, rms_norm(tape, x, norm1, 1e-6f)), bias);
    const auto [sum, normed] = add_rms_norm(tape, branch, x, norm2, 1e-6f);
    const Tensor loss = cross_entropy(tape, add(tape, sum, normed), targets);
    std::vector<double> out = values_of(loss);
    tape.backward(loss, 0.5);
    for (const OwnedParameter* p : {&table, &norm1, &norm2, &bias})
      for (const double value : values_of(p->gradient)) out.push_back(value);
    return out;
  }
};

}  // namespace

TEST_CASE("a repeated step allocates nothing and has the same bits") {
  Device device = Device::cpu(2);
  Tape tape(device);
  Model model;
  const std::vector<double> first = model.step(tape);
  const std::uint64_t allocations = tape.allocations();
  const std::size_t activations = tape.activation_bytes(), gradients = tape.gradient_bytes();
  for (const double value : first) REQUIRE(std::isfinite(value));
  for (int repetition = 0; repetition < 3; ++repetition) {
    REQUIRE(model.step(tape) == first);
    REQUIRE(tape.allocations() == allocations);
    REQUIRE(tape.activation_bytes() == activations);
    REQUIRE(tape.gradient_bytes() == gradients);
  }
  Tape fresh(device);
  REQUIRE(model.step(fresh) == first);
}

TEST_CASE("lent memory of gradients serves transient activations, once, and never where there is a gradient") {
  Device device = Device::cpu(1);
  Tape tape(device);
  OwnedParameter used = make_parameter({64}, 1), unused = make_parameter({64}, 2);
  const auto lies_in = [](const View& view, const OwnedParameter& parameter) {
    const auto* begin = parameter.gradient.as<double>();
    return view.as<double>() >= begin && view.as<double>() < begin + 64;
  };
  used.parameter.has_gradient = true;  // of an earlier micro-batch
  for (int round = 0; round < 2; ++round) {
    tape.reset();
    tape.lend_gradients({&unused.parameter, &used.parameter});
    {
      const Tape::Transient transient(tape);
      REQUIRE_FALSE(lies_in(tape.empty(DType::f64, {8}), unused));  // a part that is in use is lent not at all
    }
    tape.lend_gradients({&unused.parameter});
    REQUIRE_FALSE(lies_in(tape.empty(DType::f64, {8}), unused));
    const Tape::Transient transient(tape);
    REQUIRE(lies_in(tape.empty(DType::f64, {40}), unused));
    {
      const Tape::Transient until_later(tape, false);
      REQUIRE_FALSE(lies_in(tape.empty(DType::f64, {8}), unused));
    }
    REQUIRE_FALSE(lies_in(tape.empty(DType::f64, {40}), unused));
    REQUIRE(lies_in(tape.constant(DType::f64, {24}), unused));
    REQUIRE_FALSE(lies_in(tape.constant(DType::f64, {1}), unused));
  }
  Tape inference(device, false);
  inference.lend_gradients({&unused.parameter});
  const Tape::Transient transient(inference);
  REQUIRE_FALSE(lies_in(inference.empty(DType::f64, {8}), unused));
}

TEST_CASE("who watches a pass learns which op each instruction serves") {
  Device device = Device::cpu(1);
  Tape tape(device);
  const OwnedTensor x = randn({3, 8}, 1);
  std::vector<std::pair<std::size_t, bool>> seen;
  device.set_observer([&](const Execution&) { seen.emplace_back(tape.current_op(), tape.in_backward()); });
  const Tensor y = swiglu(tape, tape.leaf(x));  // [3, 4]
  const Tensor z = scale(tape, y, 0.5);
  tape.backward(sum(tape, z));
  device.set_observer({});
  // swiglu, scale; the seed of the loss, then backwards
  REQUIRE(seen == std::vector<std::pair<std::size_t, bool>>{{0, false}, {1, false}, {2, true}, {1, true}, {0, true}});
  REQUIRE(tape.op_count() == 3);
  REQUIRE(std::string(tape.source_of(0).file_name()).ends_with("autograd/ops/swiglu.cpp"));
  REQUIRE(std::string(tape.source_of(0).function_name()).find("swiglu(") != std::string::npos);
}
