// Gradients of the ops that replace, repeat and mix rows, against differences in double.

#include <algorithm>
#include <catch2/catch.hpp>

#include "autograd/gradcheck.h"
#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/groups.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/scaled_sum.h"
#include "autograd/ops/select_rows.h"
#include "tests/support/numbers.h"

using namespace omni;

namespace {

using Inputs = std::vector<Tensor>;
constexpr double kBound = 1e-6;

}  // namespace

TEST_CASE("select_rows gradient, with rows taken never, once and twice") {
  const OwnedTensor x = randn({2, 3, 4}, 1), from = randn({4, 4}, 2), source(DType::i64, {6});
  const std::int64_t taken[] = {-1, 2, 0, -1, 2, 3};
  std::copy_n(taken, 6, source.as<std::int64_t>());
  const Tensor where{source};
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return select_rows(t, in[0], in[1], where); }, {x, from}) <=
          kBound);
  // Only one of the two has a gradient.
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return select_rows(t, in[0], Tensor(from), where); }, {x}) <=
          kBound);
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return select_rows(t, Tensor(x), in[0], where); }, {from}) <=
          kBound);
  // The gradient block is shared with another op, which must not see what happens to it.
  REQUIRE(gradcheck([&](Tape& t,
                        const Inputs& in) { return add(t, select_rows(t, in[0], in[1], where), scale(t, in[0], 2)); },
                    {x, from}) <= kBound);
}

TEST_CASE("sum_groups and add_groups gradients") {
  const OwnedTensor x = randn({6, 5}, 1), z = randn({2, 5}, 2), cube = randn({3, 2, 5}, 3);
  OwnedParameter weight = make_parameter({5, 5}, 4);
  REQUIRE(gradcheck([](Tape& t, const Inputs& in) { return sum_groups(t, in[0], 3, -0.3); }, {x}) <= kBound);
  // The memory of y is taken over, so it must come from an op.
  for (const OwnedTensor* y : {&x, &cube})
    REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return add_groups(t, linear(t, in[0], weight), in[1]); },
                      {*y, z}, {weight}) <= kBound);
  REQUIRE(
      gradcheck(
          [&](Tape& t, const Inputs& in) { return add_groups(t, scale(t, in[0], 2), sum_groups(t, in[0], 3, 1. / 3)); },
          {x}) <= kBound);
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return add_groups(t, scale(t, Tensor(x), 2), in[0]); }, {z}) <=
          kBound);
}

TEST_CASE("scaled_sum gradient, with scales of either rank, frozen, and one tensor twice") {
  const OwnedTensor a = randn({3, 5}, 1), b = randn({3, 5}, 2);
  OwnedParameter a_scale = make_parameter(Shape{}, 3), b_scale = make_parameter({1}, 4);
  const auto f = [&](Tape& t, const Inputs& in) { return scaled_sum(t, in[0], a_scale, in[1], b_scale); };
  REQUIRE(gradcheck(f, {a, b}, {a_scale, b_scale}) <= kBound);
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return scaled_sum(t, in[0], a_scale, in[0], b_scale); }, {a},
                    {a_scale, b_scale}) <= kBound);
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return scaled_sum(t, in[0], a_scale, in[1], a_scale); }, {a, b},
                    {a_scale}) <= kBound);
  REQUIRE(gradcheck([&](Tape& t, const Inputs& in) { return scaled_sum(t, in[0], a_scale, Tensor(b), b_scale); }, {a},
                    {a_scale, b_scale}) <= kBound);
  b_scale.parameter.trainable = false;
  REQUIRE(gradcheck(f, {a, b}, {a_scale}) <= kBound);
  REQUIRE_FALSE(b_scale.parameter.has_gradient);
}

TEST_CASE("embedding gradient of several ids per row") {
  OwnedParameter table = make_parameter({5, 3}, 1);
  const OwnedTensor ids = random_ids({3, 4}, 2, 5);
  for (const std::int64_t group : {1, 2, 4}) {
    const auto f = [&](Tape& t, const Inputs&) { return embedding(t, ids, table, group, 0.7); };
    REQUIRE(gradcheck(f, {}, {table}) <= kBound);
  }
}

TEST_CASE("cross_entropy gradient in groups, with weights and ignored rows") {
  const OwnedTensor x = randn({6, 7}, 1, DType::f64, 2), targets = random_ids({6}, 2, 7), weights = randn({6}, 3);
  targets.as<std::int64_t>()[2] = -100;
  for (const bool weighted : {false, true})
    for (const std::int64_t groups : {1, 2, 3, 6})
      // The losses are contracted with different numbers, and each group's gradient with its own.
      REQUIRE(gradcheck(
                  [&](Tape& t, const Inputs& in) {
                    const Tensor logits = scale(t, in[0], 1.5);
                    return cross_entropy(t, logits, targets, weighted ? weights : ConstView(), groups);
                  },
                  {x}) <= kBound);
}
