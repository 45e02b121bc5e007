// Gradients of the ops that models are made of, against differences in double.

#include <array>
#include <catch2/catch.hpp>

#include "autograd/gradcheck.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/feed_forward.h"
#include "autograd/ops/gather_rows.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/moe.h"
#include "autograd/ops/norm_linear.h"
#include "autograd/ops/swiglu.h"
#include "models/rope.h"
#include "tests/support/numbers.h"

namespace omni {
namespace {

constexpr double kBound = 1e-6;

}  // namespace

TEST_CASE("linear gradient, with and without bias") {
  const OwnedTensor x = randn({2, 3, 5}, 1);
  OwnedParameter weight = make_parameter({7, 5}, 2), bias = make_parameter({7}, 3);
  REQUIRE(gradcheck([&](Tape& tape, const std::vector<Tensor>& in) { return linear(tape, in[0], weight); }, {x},
                    {weight}) <= kBound);
  REQUIRE(gradcheck([&](Tape& tape, const std::vector<Tensor>& in) { return linear(tape, in[0], weight, bias); }, {x},
                    {weight, bias}) <= kBound);
}

TEST_CASE("one weight used twice collects both gradients") {
  const OwnedTensor x = randn({3, 5}, 1);
  OwnedParameter weight = make_parameter({5, 5}, 2);
  REQUIRE(gradcheck([&](Tape& tape,
                        const std::vector<Tensor>& in) { return linear(tape, linear(tape, in[0], weight), weight); },
                    {x}, {weight}) <= kBound);
}

TEST_CASE("norm_linear gradient, with and without a branch") {
  const OwnedTensor x = randn({2, 2, 6}, 1), branch = randn({2, 2, 6}, 2);
  OwnedParameter norm = make_parameter({6}, 3), weight = make_parameter({4, 6}, 4);
  REQUIRE(gradcheck([&](Tape& tape,
                        const std::vector<Tensor>& in) { return norm_linear(tape, in[0], {}, norm, 1e-6, weight).y; },
                    {x}, {norm, weight}) <= kBound);
  // The branch's memory is taken over, so it must come from an op.
  OwnedParameter before = make_parameter({6, 6}, 5);
  REQUIRE(gradcheck(
              [&](Tape& tape, const std::vector<Tensor>& in) -> GradcheckOutputs {
                const auto [sum, y] = norm_linear(tape, in[0], linear(tape, in[1], before), norm, 1e-6, weight);
                return {sum, y};
              },
              {x, branch}, {norm, weight, before}) <= kBound);
}

TEST_CASE("feed_forward gradient, keeping and recomputing") {
  const OwnedTensor x = randn({2, 2, 6}, 1), branch = randn({2, 2, 6}, 2);
  OwnedParameter norm = make_parameter({6}, 3), gate_up = make_parameter({10, 6}, 4), down = make_parameter({6, 5}, 5);
  OwnedParameter before = make_parameter({6, 6}, 6);
  for (const bool recompute : {false, true})
    REQUIRE(gradcheck(
                [&](Tape& tape, const std::vector<Tensor>& in) -> GradcheckOutputs {
                  tape.set_recompute(recompute);
                  const auto [sum, y] =
                      feed_forward(tape, in[0], linear(tape, in[1], before), norm, 1e-6, gate_up, down);
                  return {sum, y};
                },
                {x, branch}, {norm, gate_up, down, before}) <= kBound);
}

TEST_CASE("self_attention gradient: groups, windows, bidirectional, lengths") {
  for (const auto& [heads, kv_heads, head_dim] :
       {std::tuple<std::int64_t, std::int64_t, std::int64_t>{2, 1, 6}, {4, 2, 4}, {1, 1, 10}})
    for (const std::int64_t time : {1, 6})
      for (const AttentionMask& mask :
           {AttentionMask{}, AttentionMask{.causal = false}, AttentionMask{.causal = true, .window = 3},
            AttentionMask{.causal = false, .window = 2}}) {
        CAPTURE(heads, kv_heads, head_dim, time, mask.causal, mask.window);
        Device device = Device::cpu();
        RopeTable rope(head_dim, 100, 64, {});
        const RopeAngles angles = rope.angles(device, time, DType::f64);
        const OwnedTensor qkv = randn({2, time, (heads + 2 * kv_heads) * head_dim}, 1);
        OwnedParameter q_norm = make_parameter({head_dim}, 2), k_norm = make_parameter({head_dim}, 3);
        REQUIRE(gradcheck(
                    [&, heads = heads, kv_heads = kv_heads](Tape& tape, const std::vector<Tensor>& in) {
                      return self_attention(tape, in[0], q_norm, k_norm, angles, {heads, kv_heads, 1e-6}, mask);
                    },
                    {qkv}, {q_norm, k_norm}) <= kBound);
      }
}

TEST_CASE("self_attention gradient across several blocks of keys") {
  Device device = Device::cpu();
  RopeTable rope(4, 100, 256, {});
  const RopeAngles angles = rope.angles(device, 130, DType::f64);
  const OwnedTensor qkv = randn({1, 130, 12}, 1);
  OwnedParameter q_norm = make_parameter({4}, 2), k_norm = make_parameter({4}, 3);
  REQUIRE(gradcheck(
              [&](Tape& tape, const std::vector<Tensor>& in) {
                return self_attention(tape, in[0], q_norm, k_norm, angles, {1, 1, 1e-6});
              },
              {qkv}, {q_norm, k_norm}) <= kBound);
}

TEST_CASE("gather_rows gradient, with padding rows") {
  const OwnedTensor x = randn({4, 3}, 1);
  const OwnedTensor source(DType::i64, {3}), inverse(DType::i64, {4});
  for (int i = 0; i < 3; ++i) source.as<std::int64_t>()[i] = std::array{2, -1, 0}[static_cast<std::size_t>(i)];
  for (int i = 0; i < 4; ++i) inverse.as<std::int64_t>()[i] = std::array{2, -1, 0, -1}[static_cast<std::size_t>(i)];
  REQUIRE(gradcheck(
              [&](Tape& tape, const std::vector<Tensor>& in) {
                return gather_rows(tape, in[0], Tensor(source), Tensor(inverse));
              },
              {x}) <= kBound);
}

TEST_CASE("mixture of experts gradient: any number of experts, any top_k") {
  for (const auto& [experts, top_k] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {4, 1}, {4, 2}, {5, 3}, {3, 3}})
    for (const bool normalize : {true, false}) {
      CAPTURE(experts, top_k, normalize);
      // Rows far enough apart that the steps of the differences never change a choice.
      const OwnedTensor x = randn({5, 4}, 1), logits = randn({5, experts}, 7, DType::f64, 3);
      OwnedParameter gate_up = make_parameter({experts * 6, 4}, 3), down = make_parameter({experts * 4, 3}, 4);
      REQUIRE(gradcheck(
                  [&, top_k = top_k](Tape& tape, const std::vector<Tensor>& in) -> GradcheckOutputs {
                    const Routing routing = moe_route(tape, in[1], top_k, normalize, 0.5);
                    const Tensor sorted = moe_gather(tape, in[0], routing);
                    const Tensor hidden = swiglu(tape, grouped_linear(tape, sorted, gate_up, routing));
                    const Tensor out = grouped_linear(tape, hidden, down, routing);
                    return {moe_combine(tape, out, routing), routing.aux_loss};
                  },
                  {x, logits}, {gate_up, down}) <= kBound);
    }
}

}  // namespace omni
