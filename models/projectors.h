#pragma once
// Small networks that carry features from one width to another.

#include "autograd/module.h"
#include "autograd/tape.h"

namespace omni {

// y = second(gelu(first(x))), both with bias.   Names: {first}.weight, {first}.bias, {second}.weight, {second}.bias
struct TwoLayers {
  TwoLayers(const Scope& scope, std::string_view first, std::string_view second, std::int64_t in, std::int64_t hidden,
            std::int64_t out);
  Tensor operator()(Tape& tape, const Tensor& x) const;  // [rows, in] -> [rows, out]

  Parameter &first_weight, &first_bias, &second_weight, &second_bias;
};

// From an encoder's states to rows that take the place of placeholder embeddings: LayerNorm, then two layers.
// Names: mlp.0 (norm), mlp.1, mlp.3
struct FeatureProjector {
  FeatureProjector(const Scope& scope, std::int64_t in, std::int64_t hidden);
  Tensor operator()(Tape& tape, const Tensor& x) const;  // [rows, in] -> [rows, hidden]

  Parameter &norm_weight, &norm_bias;
  TwoLayers layers;
};

// Two layers, then RMSNorm: what the Talker does to both of its inputs. Names: 0, 2, 3 (norm)
struct NormedProjector {
  NormedProjector(const Scope& scope, std::int64_t in, std::int64_t out, double eps);
  Tensor operator()(Tape& tape, const Tensor& x) const;  // [rows, in] -> [rows, out]

  TwoLayers layers;
  Parameter& norm_weight;
  float eps;
};

}  // namespace omni
