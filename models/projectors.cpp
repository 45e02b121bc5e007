#include "models/projectors.h"

#include <cmath>

#include "autograd/ops/activation.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/norm.h"

namespace omni {
namespace {

constexpr float kLayerNormEps = 1e-5f;  // PyTorch's default

Initializer uniform(std::int64_t fan_in) { return Initializer::uniform(1 / std::sqrt(static_cast<double>(fan_in))); }

std::string part(std::string_view layer, const char* name) { return std::string(layer) + "." + name; }

}  // namespace

TwoLayers::TwoLayers(const Scope& scope, std::string_view first, std::string_view second, std::int64_t in,
                     std::int64_t hidden, std::int64_t out)
    : first_weight(scope.matrix(part(first, "weight"), hidden, in, uniform(in))),
      first_bias(scope.vector(part(first, "bias"), hidden, uniform(in))),
      second_weight(scope.matrix(part(second, "weight"), out, hidden, uniform(hidden))),
      second_bias(scope.vector(part(second, "bias"), out, uniform(hidden))) {}

Tensor TwoLayers::operator()(Tape& tape, const Tensor& x) const {
  return linear(tape, gelu(tape, linear(tape, x, first_weight, &first_bias)), second_weight, &second_bias);
}

FeatureProjector::FeatureProjector(const Scope& scope, std::int64_t in, std::int64_t hidden)
    : norm_weight((scope / "mlp").vector("0.weight", in, Initializer::constant(1))),
      norm_bias((scope / "mlp").vector("0.bias", in, Initializer::constant(0))),
      layers(scope / "mlp", "1", "3", in, hidden, hidden) {}

Tensor FeatureProjector::operator()(Tape& tape, const Tensor& x) const {
  return layers(tape, layer_norm(tape, x, norm_weight, norm_bias, kLayerNormEps));
}

NormedProjector::NormedProjector(const Scope& scope, std::int64_t in, std::int64_t out, double norm_eps)
    : layers(scope, "0", "2", in, in, out),
      norm_weight(scope.vector("3.weight", out, Initializer::constant(1))),
      eps(static_cast<float>(norm_eps)) {}

Tensor NormedProjector::operator()(Tape& tape, const Tensor& x) const {
  return rms_norm(tape, layers(tape, x), norm_weight, eps);
}

}  // namespace omni
