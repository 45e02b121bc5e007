#pragma once
// From a weight file into the parameters of a model.

#include <string>
#include <vector>

#include "autograd/module.h"
#include "engine/weights.h"

namespace omni {

// Names of two weights that a model may share: a checkpoint then has one of them or both.
inline constexpr const char* kEmbedding = "model.embed_tokens.weight";
inline constexpr const char* kHead = "lm_head.weight";

// Names that begin with one of these texts:
struct LoadRules {
  bool tied_head = true;              // lm_head.weight is a second name of the embedding
  std::vector<std::string> may_miss;  // need not be in the file; those parameters keep their values
  std::vector<std::string> others;    // belong to modules that this model does not have
};

// Copies the tensors of `source` into the parameters of `store`, converted to their dtype. A matrix that the source
// holds under both names of a tied pair (lm_head.weight beside model.embed_tokens.weight) is read last as the head, as
// the original does. Throws std::runtime_error naming file and tensor if one is missing, unknown, of another shape, or
// holds a number that is not finite.
void load_parameters(ParameterStore& store, const WeightSource& source, const LoadRules& rules);

}  // namespace omni
